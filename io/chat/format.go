package chat

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

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
