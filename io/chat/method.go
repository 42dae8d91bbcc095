package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// textFunc is a method of a text.
type textFunc func(r *render, s string, a *arguments) value

// textMethod is Python's method of that name; nil where there is none, or where it makes no sense in a template.
func textMethod(name string) textFunc {
	switch name {
	case "strip", "lstrip", "rstrip":
		return func(r *render, s string, a *arguments) value { return r.strip(name, s, a.bind(name, "chars=")[0]) }
	case "split", "rsplit":
		return func(r *render, s string, a *arguments) value { return r.split(name, s, a) }
	case "splitlines":
		return func(r *render, s string, a *arguments) value {
			keep := a.bind(name, "keepends=")[0]
			return r.texts(lines(s, keep != nil && truth(keep)))
		}
	case "startswith", "endswith":
		return func(r *render, s string, a *arguments) value { return r.affix(name, s, a) }
	case "find", "rfind", "index", "rindex", "count":
		return func(r *render, s string, a *arguments) value { return r.search(name, s, a) }
	case "lower", "casefold":
		return plain(name, lower)
	case "upper":
		return plain(name, upper)
	case "title":
		return plain(name, title)
	case "capitalize":
		return plain(name, capitalize)
	case "swapcase":
		return plain(name, func(s string) string {
			return strings.Map(func(c rune) rune {
				if unicode.IsUpper(c) {
					return unicode.ToLower(c)
				}
				return unicode.ToUpper(c)
			}, s)
		})
	case "join":
		return func(r *render, s string, a *arguments) value {
			return r.joined(s, r.items(a.bind(name, "iterable")[0]))
		}
	case "replace":
		return func(r *render, s string, a *arguments) value {
			b := a.bind(name, "old", "new", "count=")
			return r.replace(s, textArg(name, b[0]), textArg(name, b[1]), b[2])
		}
	case "format":
		return func(r *render, s string, a *arguments) value { return r.format(s, a) }
	case "format_map":
		return func(r *render, s string, a *arguments) value {
			d, ok := a.bind(name, "mapping")[0].(*dict)
			if !ok {
				typeError("format_map() takes a mapping")
			}
			named := &arguments{}
			for i, k := range d.keys {
				if key, ok := k.(string); ok {
					named.names, named.kwargs = append(named.names, key), append(named.kwargs, d.values[i])
				}
			}
			return r.format(s, named)
		}
	case "partition", "rpartition":
		return func(r *render, s string, a *arguments) value { return r.partition(name, s, a) }
	case "removeprefix":
		return func(r *render, s string, a *arguments) value {
			r.make(len(s))
			return strings.TrimPrefix(s, textArg(name, a.bind(name, "prefix")[0]))
		}
	case "removesuffix":
		return func(r *render, s string, a *arguments) value {
			r.make(len(s))
			return strings.TrimSuffix(s, textArg(name, a.bind(name, "suffix")[0]))
		}
	case "zfill", "ljust", "rjust", "center":
		return func(r *render, s string, a *arguments) value { return r.justify(name, s, a) }
	case "expandtabs":
		return func(r *render, s string, a *arguments) value { return r.expandTabs(s, a) }
	}
	if is := textPredicate(name); is != nil {
		return func(r *render, s string, a *arguments) value {
			a.bind(name)
			r.look(len(s))
			return is(s)
		}
	}
	return nil
}

// plain is a method without parameters.
func plain(name string, do func(string) string) textFunc {
	return func(r *render, s string, a *arguments) value {
		a.bind(name)
		r.make(len(s))
		return do(s)
	}
}

func textPredicate(name string) func(string) bool {
	each := func(is func(rune) bool) func(string) bool {
		return func(s string) bool { return all(s, is) }
	}
	switch name {
	case "isalpha":
		return each(unicode.IsLetter)
	case "isdecimal":
		return each(unicode.IsDigit)
	case "isdigit":
		return each(func(c rune) bool { return unicode.IsDigit(c) || unicode.Is(raisedDigits, c) })
	case "isnumeric":
		return each(unicode.IsNumber)
	case "isalnum":
		return each(func(c rune) bool { return unicode.IsLetter(c) || unicode.IsNumber(c) })
	case "isspace":
		return each(isSpace)
	case "islower":
		return func(s string) bool { return isCased(s, unicode.IsLower) }
	case "isupper":
		return func(s string) bool { return isCased(s, unicode.IsUpper) }
	case "istitle":
		return func(s string) bool {
			return strings.IndexFunc(s, func(c rune) bool { return unicode.IsUpper(c) || unicode.IsLower(c) }) >= 0 && title(s) == s
		}
	case "isascii":
		return isASCII
	case "isprintable":
		return func(s string) bool { return s == "" || all(s, unicode.IsPrint) }
	case "isidentifier":
		return func(s string) bool { return s != "" && nameLength(s) == len(s) }
	}
	return nil
}

// raisedDigits are digits that Python counts as such, though they stand for no place of a number.
var raisedDigits = &unicode.RangeTable{R16: []unicode.Range16{{0xb2, 0xb3, 1}, {0xb9, 0xb9, 1}, {0x2070, 0x2070, 1}, {0x2074, 0x2079, 1},
	{0x2080, 0x2089, 1}, {0x2460, 0x2468, 1}, {0x2474, 0x247c, 1}, {0x2488, 0x2490, 1}, {0x24ea, 0x24ea, 1}, {0x24f5, 0x24fd, 1},
	{0x2776, 0x277e, 1}, {0x2780, 0x2788, 1}, {0x278a, 0x2792, 1}}, LatinOffset: 2}

func textArg(method string, v value) string {
	s, ok := asText(v)
	if !ok {
		typeError("%s() argument must be str, not %s", method, typeName(v))
	}
	return s
}

// texts is a list of texts.
func (r *render) texts(parts []string) value {
	r.hold(len(parts))
	out := make([]value, len(parts))
	for i, s := range parts {
		out[i] = s
	}
	return newList(out...)
}

// strip takes characters off the ends of a text: white space where chars is nil or none.
func (r *render) strip(method, s string, chars value) value {
	r.make(len(s))
	is := isSpace
	if chars != nil && chars != none {
		set := textArg(method, chars)
		r.step(len(set))
		if len(set) > few {
			r.look(len(s) * min(len(set), 1024))
		}
		is = func(c rune) bool { return strings.ContainsRune(set, c) }
	}
	if method != "rstrip" {
		s = strings.TrimLeftFunc(s, is)
	}
	if method != "lstrip" {
		s = strings.TrimRightFunc(s, is)
	}
	return s
}

// window is the part of a text that start and end select, and how many characters come before it; ok is false where start
// lies behind the text.
func (r *render) window(s string, start, end value) (part string, before int64, ok bool) {
	if (start == nil || start == none) && (end == nil || end == none) {
		return s, 0, true
	}
	bounds := [3]value{none, none, none}
	if start != nil {
		bounds[0] = start
	}
	if end != nil {
		bounds[1] = end
	}
	length := utf8.RuneCountInString(s)
	from, _, _, isInt := cut(bounds, length)
	if !isInt {
		typeError("slice indices must be integers or None or have an __index__ method")
	}
	if n, isInt := asInt(bounds[0]); isInt && n > int64(length) {
		return "", 0, false
	}
	return r.slice(s, bounds).(string), int64(from), true
}

func (r *render) affix(method, s string, a *arguments) value {
	b := a.bind(method, "affix", "start=", "end=")
	part, _, ok := r.window(s, b[1], b[2])
	has := strings.HasPrefix
	if method == "endswith" {
		has = strings.HasSuffix
	}
	choices := []value{b[0]}
	if l, isTuple := b[0].(*list); isTuple && l.tuple {
		choices = l.items
	}
	for _, c := range choices {
		r.step(1)
		affix, isText := asText(c)
		if !isText {
			typeError("%s first arg must be str or a tuple of str, not %s", method, typeName(c))
		}
		if ok && has(part, affix) {
			return true
		}
	}
	return false
}

func (r *render) search(method, s string, a *arguments) value {
	b := a.bind(method, "sub", "start=", "end=")
	sub := textArg(method, b[0])
	part, before, ok := r.window(s, b[1], b[2])
	r.look(len(s))
	if method == "count" {
		if !ok {
			return int64(0)
		}
		return int64(strings.Count(part, sub))
	}
	at := strings.Index(part, sub)
	if strings.HasPrefix(method, "r") {
		at = strings.LastIndex(part, sub)
	}
	switch {
	case ok && at >= 0:
		return before + int64(utf8.RuneCountInString(part[:at]))
	case strings.HasSuffix(method, "index"):
		fail("ValueError", "substring not found")
	}
	return int64(-1)
}

func (r *render) replace(s, old, new string, count value) value {
	n := int64(-1)
	if count != nil && count != none {
		var ok bool
		if n, ok = asInt(count); !ok {
			typeError("'%s' object cannot be interpreted as an integer", typeName(count))
		}
	}
	found := int64(strings.Count(s, old))
	if n >= 0 {
		found = min(found, n)
	}
	if grows := int64(len(new) - len(old)); grows > 0 && found > maxMade/grows {
		r.make(maxMade + 1)
	}
	r.make(len(s) + int(found)*max(0, len(new)-len(old)))
	return strings.Replace(s, old, new, int(found))
}

// joined puts a text between texts.
func (r *render) joined(sep string, items []value) value {
	var out strings.Builder
	for i, item := range items {
		s, ok := asText(item)
		if !ok {
			typeError("sequence item %d: expected str instance, %s found", i, typeName(item))
		}
		if i > 0 {
			r.make(len(sep))
			out.WriteString(sep)
		}
		r.make(len(s))
		out.WriteString(s)
	}
	return out.String()
}

func (r *render) justify(method, s string, a *arguments) value {
	params := []string{"width", "fillchar="}
	if method == "zfill" {
		params = params[:1]
	}
	b := a.bind(method, params...)
	width, ok := asInt(b[0])
	if !ok {
		typeError("'%s' object cannot be interpreted as an integer", typeName(b[0]))
	}
	fill := " "
	if len(b) > 1 && b[1] != nil {
		if fill, ok = asText(b[1]); !ok || utf8.RuneCountInString(fill) != 1 {
			typeError("The fill character must be exactly one character long")
		}
	}
	missing := width - int64(utf8.RuneCountInString(s))
	if missing <= 0 {
		return s
	}
	missing = min(missing, maxMade+1)
	r.make(len(s) + int(missing)*len(fill))
	pad := func(n int64) string { return strings.Repeat(fill, int(n)) }
	switch method {
	case "ljust":
		return s + pad(missing)
	case "rjust":
		return pad(missing) + s
	case "zfill":
		sign := 0
		if s != "" && (s[0] == '-' || s[0] == '+') {
			sign = 1
		}
		return s[:sign] + strings.Repeat("0", int(missing)) + s[sign:]
	}
	left := missing/2 + missing&width&1 // as Python rounds
	return pad(left) + s + pad(missing-left)
}

func (r *render) expandTabs(s string, a *arguments) value {
	size := int64(8)
	if v := a.bind("expandtabs", "tabsize=")[0]; v != nil {
		var ok bool
		if size, ok = asInt(v); !ok {
			typeError("'%s' object cannot be interpreted as an integer", typeName(v))
		}
	}
	var out strings.Builder
	column := int64(0)
	for _, c := range s {
		switch c {
		case '\t':
			if size > 0 {
				n := size - column%size
				r.make(int(min(n, maxMade+1)))
				out.WriteString(strings.Repeat(" ", int(n)))
				column += n
			}
			continue
		case '\n', '\r':
			column = -1
		}
		r.make(1)
		out.WriteRune(c)
		column++
	}
	return out.String()
}
