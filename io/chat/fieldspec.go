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
