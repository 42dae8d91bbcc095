package chat

import (
	"strings"
	"unicode/utf8"
)

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
