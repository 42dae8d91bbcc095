package chat

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// fieldSpec is how a field is laid out, of both of Python's ways to format.
type fieldSpec struct {
	fill      rune
	align     byte // < > ^ =
	sign      byte // + - or blank
	alternate bool
	width     int
	group     byte // , or _
	precision int  // -1: not given
	kind      byte // s d f …; 0: by the value
}

// percent is text % right.
func (r *render) percent(format string, right value) string {
	var out strings.Builder
	args := []value{right}
	if l, ok := right.(*list); ok && l.tuple {
		args = l.items
	}
	named, _ := right.(*dict)
	used := 0
	next := func() value {
		if used >= len(args) {
			typeError("not enough arguments for format string")
		}
		used++
		return args[used-1]
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			j := strings.IndexByte(format[i:], '%')
			if j < 0 {
				j = len(format) - i
			}
			r.make(j)
			out.WriteString(format[i : i+j])
			i += j - 1
			continue
		}
		i++
		var v value
		if i < len(format) && format[i] == '(' {
			end := strings.IndexByte(format[i:], ')')
			if end < 0 {
				fail("ValueError", "incomplete format key")
			}
			if named == nil {
				typeError("format requires a mapping")
			}
			key := format[i+1 : i+end]
			if v = named.text(key); v == nil {
				fail("KeyError", "%s", quoted(key))
			}
			i += end + 1
		}
		spec := fieldSpec{fill: ' ', align: '>', sign: '-', precision: -1}
		for ; i < len(format) && strings.IndexByte("-+ #0", format[i]) >= 0; i++ {
			switch c := format[i]; c {
			case '-':
				spec.align = '<'
			case '#':
				spec.alternate = true
			case '0':
				spec.fill = '0'
			default:
				if spec.sign != '+' {
					spec.sign = c
				}
			}
		}
		number := func() int {
			if i < len(format) && format[i] == '*' {
				i++
				n, ok := asInt(next())
				if !ok {
					typeError("* wants int")
				}
				return int(min(max(n, -maxMade), maxMade))
			}
			return readNumber(format, &i)
		}
		if spec.width = number(); spec.width < 0 {
			spec.align, spec.width = '<', -spec.width
		}
		if i < len(format) && format[i] == '.' {
			i++
			spec.precision = max(0, number())
		}
		for i < len(format) && strings.IndexByte("hlL", format[i]) >= 0 {
			i++
		}
		if i >= len(format) {
			fail("ValueError", "incomplete format")
		}
		spec.kind = format[i]
		if spec.kind == '%' {
			out.WriteByte('%')
			continue
		}
		if v == nil {
			v = next()
		}
		if spec.fill == '0' {
			if spec.align = '='; strings.IndexByte("sra", spec.kind) >= 0 || spec.kind == 'c' {
				spec.fill, spec.align = ' ', '>'
			}
		}
		out.WriteString(r.percentField(spec, v))
	}
	l, isList := right.(*list)
	if mapping := named != nil || isList && !l.tuple; used < len(args) && !mapping { // of a mapping, what is not asked for may stay
		typeError("not all arguments converted during string formatting")
	}
	return out.String()
}

// readNumber reads digits, at most as many as a length may have.
func readNumber(s string, i *int) int {
	n := 0
	for ; *i < len(s) && s[*i] >= '0' && s[*i] <= '9'; *i++ {
		n = min(n*10+int(s[*i]-'0'), maxMade)
	}
	return n
}

func (r *render) percentField(spec fieldSpec, v value) string {
	if u, ok := v.(*undefined); ok && strings.IndexByte("sra", spec.kind) < 0 {
		panic(u.fault())
	}
	switch spec.kind {
	case 's', 'r', 'a':
		s := r.str(v)
		if spec.kind != 's' {
			s = r.repr(v)
		}
		return r.padded(spec, "", r.firstRunes(s, spec.precision))
	case 'c':
		if s, ok := asText(v); ok && utf8.RuneCountInString(s) == 1 {
			return r.padded(spec, "", s)
		}
		if n, ok := asInt(v); ok && n >= 0 && n <= utf8.MaxRune {
			return r.padded(spec, "", string(rune(n)))
		}
		typeError("%%c requires int or char")
	case 'd', 'i', 'u':
		x, f, kind := number(v)
		if kind == 0 {
			typeError("%%%c format: a real number is required, not %s", spec.kind, typeName(v))
		}
		if kind == 'f' {
			x = wholePart(f)
		}
		spec.kind = 'd'
		return r.integerField(spec, x)
	case 'x', 'X', 'o':
		x, _, kind := number(v)
		if kind != 'i' {
			typeError("%%%c format: an integer is required, not %s", spec.kind, typeName(v))
		}
		return r.integerField(spec, x)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		x, f, kind := number(v)
		switch kind {
		case 0:
			typeError("must be real number, not %s", typeName(v))
		case 'i':
			f = toFloat(x)
		}
		return r.floatField(spec, f)
	}
	fail("ValueError", "unsupported format character '%c'", spec.kind)
	return ""
}

func wholePart(f float64) *big.Int {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		fail("OverflowError", "cannot convert float infinity or NaN to integer")
	}
	x, _ := big.NewFloat(f).Int(nil)
	return x
}

// firstRunes are the first n characters; all where n is negative.
func (r *render) firstRunes(s string, n int) string {
	if n < 0 {
		return s
	}
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// padded fills a field up to its width; = puts the fill between the sign and the digits.
func (r *render) padded(spec fieldSpec, sign, s string) string {
	missing := spec.width - utf8.RuneCountInString(sign+s)
	r.make(len(sign) + len(s) + max(0, missing)*4)
	if missing <= 0 {
		return sign + s
	}
	pad := func(n int) string { return strings.Repeat(string(spec.fill), n) }
	switch spec.align {
	case '<':
		return sign + s + pad(missing)
	case '^':
		return pad(missing/2) + sign + s + pad(missing-missing/2)
	case '=':
		return sign + pad(missing) + s
	}
	return pad(missing) + sign + s
}

func signOf(spec fieldSpec, negative bool) string {
	switch {
	case negative:
		return "-"
	case spec.sign == '+' || spec.sign == ' ':
		return string(spec.sign)
	}
	return ""
}

func (r *render) integerField(spec fieldSpec, x *big.Int) string {
	base := map[byte]int{'b': 2, 'o': 8, 'x': 16, 'X': 16}[spec.kind]
	size := 4
	if base == 0 {
		base, size = 10, 3
		r.sized(x.BitLen())
	}
	digits := new(big.Int).Abs(x).Text(base)
	prefix := ""
	if spec.alternate && base != 10 {
		prefix = "0" + string(spec.kind)
	}
	if spec.kind == 'X' {
		digits = strings.ToUpper(digits)
	}
	if missing := spec.precision - len(digits); missing > 0 { // of %: at least so many digits
		r.make(missing)
		digits = strings.Repeat("0", missing) + digits
	}
	return r.padded(spec, signOf(spec, x.Sign() < 0)+prefix, grouped(digits, spec.group, size))
}

// grouped puts a mark between groups of digits of a whole number.
func grouped(digits string, mark byte, size int) string {
	if mark == 0 {
		return digits
	}
	var out []byte
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%size == 0 {
			out = append(out, mark)
		}
		out = append(out, digits[i])
	}
	return string(out)
}

func (r *render) floatField(spec fieldSpec, f float64) string {
	kind, precision := spec.kind, spec.precision
	if precision < 0 {
		precision = 6
	}
	r.make(precision + 330)
	if precision > maxDigits {
		fail("ValueError", "precision too big")
	}
	percent := ""
	switch kind {
	case '%':
		f, kind, percent = f*100, 'f', "%"
	case 'F':
		kind = 'f'
	case 'g', 'G':
		precision = max(precision, 1)
	}
	negative := f < 0 || f == 0 && strings.HasPrefix(floatText(f), "-")
	s := strings.TrimPrefix(strconv.FormatFloat(f, kind, precision, 64), "-")
	if kind == 'g' || kind == 'G' {
		s = general(strings.TrimPrefix(floatText(f), "-"), f, precision, kind)
	}
	switch {
	case math.IsNaN(f):
		s, negative = "nan", false
	case strings.Contains(s, "Inf"):
		s = "inf"
	}
	if spec.kind == 'F' || spec.kind == 'E' || spec.kind == 'G' {
		s = strings.ToUpper(s)
	}
	digits, rest := s, ""
	if at := strings.IndexAny(s, ".eEin"); at >= 0 {
		digits, rest = s[:at], s[at:]
	}
	return r.padded(spec, signOf(spec, negative), grouped(digits, spec.group, 3)+rest+percent)
}

// general is %g: as short as the significant digits allow.
func general(plain string, f float64, precision int, kind byte) string {
	s := strings.TrimPrefix(strconv.FormatFloat(f, kind-'g'+'e', precision-1, 64), "-")
	at := strings.LastIndexAny(s, "eE")
	if at < 0 {
		return plain // infinite, or no number
	}
	exponent, _ := strconv.Atoi(s[at+1:])
	if exponent < -4 || exponent >= precision {
		return trimZeros(s[:at]) + s[at:]
	}
	return trimZeros(strings.TrimPrefix(strconv.FormatFloat(f, 'f', precision-1-exponent, 64), "-"))
}

func trimZeros(s string) string {
	if !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// format is text.format(…).
func (r *render) format(s string, a *arguments) string {
	f := &formatter{r: r, a: a}
	return f.text(s, 2)
}

type formatter struct {
	r    *render
	a    *arguments
	next int // field that {} names; -1 where fields are numbered
}

func (f *formatter) text(s string, deep int) string {
	if deep == 0 {
		fail("ValueError", "Max string recursion exceeded")
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		f.r.step(1)
		switch c := s[i]; {
		case (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c:
			out.WriteByte(c)
			i++
		case c == '}':
			fail("ValueError", "Single '}' encountered in format string")
		case c == '{':
			end := closing(s, i)
			out.WriteString(f.field(s[i+1:end], deep))
			i = end
		default:
			f.r.make(1)
			out.WriteByte(c)
		}
	}
	return out.String()
}

// closing is where the field that begins at i ends.
func closing(s string, i int) int {
	deep := 0
	for at := i; at < len(s); at++ {
		switch s[at] {
		case '{':
			deep++
		case '}':
			if deep--; deep == 0 {
				return at
			}
		}
	}
	if i+1 == len(s) {
		fail("ValueError", "Single '{' encountered in format string")
	}
	fail("ValueError", "expected '}' before end of string")
	return 0
}

func (f *formatter) field(s string, deep int) string {
	name, spec, _ := strings.Cut(s, ":")
	conversion := ""
	if at := strings.IndexByte(name, '!'); at >= 0 {
		name, conversion = name[:at], name[at+1:]
	}
	v := f.find(name)
	switch conversion {
	case "r", "a":
		v = f.r.repr(v)
	case "s":
		v = f.r.str(v)
	case "":
	default:
		fail("ValueError", "Unknown conversion specifier %s", quoted(conversion))
	}
	if strings.Contains(spec, "{") {
		spec = f.text(spec, deep-1)
	}
	return f.r.formatted(v, spec)
}

// find is the value that a field names: an argument, its attributes and elements.
func (f *formatter) find(path string) value {
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	var v value
	name := path[:end]
	switch n, err := strconv.Atoi(name); {
	case name == "" || err == nil && n >= 0:
		switch {
		case name != "" && f.next > 0:
			fail("ValueError", "cannot switch from automatic field numbering to manual field specification")
		case name != "":
			f.next = -1
		case f.next < 0:
			fail("ValueError", "cannot switch from manual field specification to automatic field numbering")
		default:
			n = f.next
			f.next++
		}
		if n >= len(f.a.args) {
			fail("IndexError", "Replacement index %d out of range for positional args tuple", n)
		}
		v = f.a.args[n]
	default:
		at := index(f.a.names, name)
		if at < 0 {
			fail("KeyError", "%s", quoted(name))
		}
		v = f.a.kwargs[at]
	}
	for rest := path[end:]; rest != ""; {
		f.r.step(1)
		if rest[0] == '.' {
			rest = rest[1:]
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			v, rest = f.r.attr(v, rest[:end]), rest[end:]
			continue
		}
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 0 {
			fail("ValueError", "Missing ']' in format string")
		}
		var key value = rest[1:end]
		if n, err := strconv.ParseInt(rest[1:end], 10, 64); err == nil && n >= 0 {
			key = n
		}
		v, rest = f.r.item(v, key), rest[end+1:]
	}
	return v
}

// formatted is Python's format(v, spec).
func (r *render) formatted(v value, text string) string {
	if text == "" {
		return r.str(v)
	}
	x, f, kind := number(v)
	_, isBool := v.(bool)
	isBool = isBool && strings.Trim(text, "0123456789<>^") == "" // laid out as True, not as 1
	s, isText := asText(v)
	if !isText && (kind == 0 || isBool) {
		if kind == 0 {
			typeError("unsupported format string passed to %s.__format__", typeName(v))
		}
	}
	spec := readSpec(text, kind == 0)
	switch {
	case isText:
		if spec.kind != 0 && spec.kind != 's' || spec.align == '=' {
			fail("ValueError", "Unknown format code '%c' for object of type 'str'", max(spec.kind, '='))
		}
		return r.padded(spec, "", r.firstRunes(s, spec.precision))
	case kind == 'i' && strings.IndexByte("\x00dbxXon", spec.kind) >= 0:
		if spec.precision >= 0 {
			fail("ValueError", "Precision not allowed in integer format specifier")
		}
		return r.integerField(spec, x)
	case kind == 'i' && spec.kind == 'c' && x.IsInt64() && x.Int64() >= 0 && x.Int64() <= utf8.MaxRune:
		return r.padded(spec, "", string(rune(x.Int64())))
	case strings.IndexByte("eEfFgGn%", spec.kind) >= 0 && spec.kind != 0:
		if kind == 'i' {
			f = toFloat(x)
		}
		if spec.kind == 'n' {
			spec.kind = 'g'
		}
		return r.floatField(spec, f)
	case kind == 'f' && spec.kind == 0:
		if spec.precision >= 0 {
			spec.kind = 'g'
			out := r.floatField(fieldSpec{kind: 'g', precision: spec.precision, sign: spec.sign, group: spec.group}, f)
			if strings.Trim(out, "-+ 0123456789,_") == "" && len(strings.Trim(out, "-+ ,_")) < spec.precision {
				out += ".0"
			}
			return r.padded(spec, "", out)
		}
		digits := strings.TrimPrefix(floatText(f), "-")
		rest := ""
		if at := strings.IndexAny(digits, ".e"); at >= 0 {
			digits, rest = digits[:at], digits[at:]
		}
		return r.padded(spec, signOf(spec, strings.HasPrefix(floatText(f), "-")), grouped(digits, spec.group, 3)+rest)
	}
	fail("ValueError", "Unknown format code '%c' for object of type '%s'", spec.kind, typeName(v))
	return ""
}

// readSpec reads [[fill]align][sign][#][0][width][,][.precision][kind].
func readSpec(s string, isText bool) fieldSpec {
	spec := fieldSpec{fill: ' ', align: '>', sign: '-', precision: -1}
	if isText {
		spec.align = '<'
	}
	first, n := utf8.DecodeRuneInString(s)
	aligned := false
	if len(s) > n && strings.IndexByte("<>=^", s[n]) >= 0 {
		spec.fill, spec.align, s, aligned = first, s[n], s[n+1:], true
	} else if s != "" && strings.IndexByte("<>=^", s[0]) >= 0 {
		spec.align, s, aligned = s[0], s[1:], true
	}
	i := 0
	take := func(set string) byte {
		if i < len(s) && strings.IndexByte(set, s[i]) >= 0 {
			i++
			return s[i-1]
		}
		return 0
	}
	if c := take("+- "); c != 0 {
		spec.sign = c
	}
	spec.alternate = take("#") != 0
	if take("0") != 0 && !aligned {
		spec.fill = '0'
		if !isText {
			spec.align = '='
		}
	}
	spec.width = readNumber(s, &i)
	spec.group = take(",_")
	if take(".") != 0 {
		from := i
		if spec.precision = readNumber(s, &i); i == from {
			fail("ValueError", "Format specifier missing precision")
		}
	}
	if i < len(s) {
		spec.kind = s[i]
		i++
	}
	if i < len(s) {
		fail("ValueError", "Invalid format specifier %s", quoted(s))
	}
	return spec
}
