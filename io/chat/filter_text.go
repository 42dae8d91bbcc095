package chat

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textFilter works on the text of any value.
func textFilter(name string, do func(string) string) filter {
	return func(r *render, v value, a *arguments) value {
		a.bind(name)
		s := r.str(v)
		r.make(len(s))
		return do(s)
	}
}

// soft is the text of a value; what is safe stays safe.
func soft(r *render, v value, a *arguments) value {
	a.bind("string")
	if m, ok := v.(markup); ok {
		return m
	}
	return r.str(v)
}

func escape(r *render, v value, a *arguments) value {
	a.bind("escape")
	if m, ok := v.(markup); ok {
		return m
	}
	s := r.str(v)
	r.make(6 * len(s))
	return markup(escaped(s))
}

// titleWords begins every word with a capital and goes on in small letters; they're is one word.
func titleWords(s string) string {
	var out strings.Builder
	begins := true
	for _, c := range s {
		if begins {
			out.WriteString(upper(string(c)))
		} else {
			out.WriteString(lower(string(c)))
		}
		begins = isSpace(c) || strings.ContainsRune("-({[<", c)
	}
	return out.String()
}

var tag = regexp.MustCompile(`(?s)<!--.*?-->|<[^>]*>`)

func stripTags(s string) string {
	return strings.Join(fields(tag.ReplaceAllString(s, ""), int64(len(s))+1, false), " ")
}

func wordCount(r *render, v value, a *arguments) value {
	a.bind("wordcount")
	s := r.str(v)
	r.look(len(s))
	return int64(len(strings.FieldsFunc(s, func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsNumber(c) })))
}

func trim(r *render, v value, a *arguments) value {
	return r.strip("strip", r.str(v), a.bind("trim", "chars=")[0])
}

func replace(r *render, v value, a *arguments) value {
	b := a.bind("replace", "old", "new", "count=")
	return r.replace(r.str(v), r.str(b[0]), r.str(b[1]), b[2])
}

// indent puts white space before every line, the first and blank ones only when asked to.
func indent(r *render, v value, a *arguments) value {
	b := a.bind("indent", "width=", "first=", "blank=")
	by := "    "
	if b[0] != nil {
		if s, ok := asText(b[0]); ok {
			by = s
		} else if n, ok := asInt(b[0]); ok {
			r.make(int(min(max(n, 0), maxMade+1)))
			by = strings.Repeat(" ", int(max(n, 0)))
		} else {
			typeError("can't multiply sequence by non-int of type '%s'", typeName(b[0]))
		}
	}
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	s := textArg("indent", v)
	all := lines(s+"\n", false)
	r.make(len(s) + len(all)*(len(by)+1))
	var out strings.Builder
	for i, line := range all {
		if i > 0 {
			out.WriteByte('\n')
		}
		isFirst := b[1] != nil && truth(b[1])
		if i == 0 && isFirst || i > 0 && (line != "" || b[2] != nil && truth(b[2])) {
			out.WriteString(by)
		}
		out.WriteString(line)
	}
	return out.String()
}

func truncate(r *render, v value, a *arguments) value {
	b := a.bind("truncate", "length=", "killwords=", "end=", "leeway=")
	length, leeway, end := int64(255), int64(5), "..."
	for i, to := range map[int]*int64{0: &length, 3: &leeway} {
		if n, ok := asInt(b[i]); ok {
			*to = n
		} else if b[i] != nil && b[i] != none {
			typeError("truncate: a length is an integer, not %s", typeName(b[i]))
		}
	}
	if b[2] != nil {
		end = textArg("truncate", b[2])
	}
	cutoff := int64(utf8.RuneCountInString(end))
	switch {
	case length < cutoff:
		fail("AssertionError", "expected length >= %d, got %d", cutoff, length)
	case leeway < 0:
		fail("AssertionError", "expected leeway >= 0, got %d", leeway)
	}
	if r.length(v) <= length+leeway {
		return v
	}
	s := textArg("truncate", v)
	kept := r.slice(s, [3]value{none, length - cutoff, none}).(string)
	if b[1] == nil || !truth(b[1]) {
		if at := strings.LastIndexByte(kept, ' '); at >= 0 {
			kept = kept[:at]
		}
	}
	return kept + end
}

func center(r *render, v value, a *arguments) value {
	width := a.bind("center", "width=")[0]
	if width == nil {
		width = int64(80)
	}
	return r.justify("center", r.str(v), &arguments{args: []value{width}})
}

func join(r *render, v value, a *arguments) value {
	b := a.bind("join", "d=", "attribute=")
	items := r.items(v)
	sep := ""
	if b[0] != nil {
		sep = r.str(b[0])
	}
	texts := make([]value, len(items))
	get := r.getter(b[1], nil)
	for i, item := range items {
		texts[i] = r.str(get(item))
	}
	return r.joined(sep, texts)
}

func formatFilter(r *render, v value, a *arguments) value {
	if len(a.args) > 0 && len(a.names) > 0 {
		fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time")
	}
	if len(a.names) > 0 {
		d := &dict{}
		for i, name := range a.names {
			d.set(name, a.kwargs[i])
		}
		return r.percent(r.str(v), d)
	}
	return r.percent(r.str(v), newTuple(a.args...))
}

// urlEncode quotes a text for an address, or pairs for its query.
func urlEncode(r *render, v value, a *arguments) value {
	a.bind("urlencode")
	var pairs []value
	switch v := v.(type) {
	case *dict:
		pairs = (&view{v, "dict_items"}).list()
	case *list:
		pairs = v.items
	default:
		return r.quotedURL(r.str(v), false)
	}
	var out strings.Builder
	for i, pair := range pairs {
		two := r.items(pair)
		if len(two) != 2 {
			fail("ValueError", "urlencode takes pairs")
		}
		if i > 0 {
			out.WriteByte('&')
		}
		out.WriteString(r.quotedURL(r.str(two[0]), true) + "=" + r.quotedURL(r.str(two[1]), true))
	}
	return out.String()
}

func (r *render) quotedURL(s string, query bool) string {
	r.make(3 * len(s))
	var out strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_.-~", c) >= 0, c == '/' && !query:
			out.WriteByte(c)
		case c == ' ' && query:
			out.WriteByte('+')
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// pretty is pprint, for what fits in a line of 80.
func pretty(r *render, v value, a *arguments) value {
	a.bind("pprint")
	w := &printer{budget: &r.budget, sorted: true}
	w.value(v, 0)
	if s := w.String(); utf8.RuneCountInString(s) <= 80 {
		return s
	}
	switch v.(type) {
	case *list, *dict, string:
		fail("NotSupportedError", "pprint is supported up to 80 characters; use tojson(indent=2)")
	}
	return w.String()
}

func fileSize(r *render, v value, a *arguments) value {
	binary := a.bind("filesizeformat", "binary=")[0]
	base, units := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if binary != nil && truth(binary) {
		base, units = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	bytes := r.float(v, nil)
	switch {
	case bytes == 1:
		return "1 Byte"
	case bytes < base:
		return strconv.FormatInt(int64(bytes), 10) + " Bytes"
	}
	unit := 1.0
	for i, name := range units {
		unit *= base
		if bytes < unit*base || i == len(units)-1 {
			return strconv.FormatFloat(bytes/unit, 'f', 1, 64) + " " + name
		}
	}
	return nil
}

func abs(r *render, v value, a *arguments) value {
	a.bind("abs")
	if u, ok := v.(*undefined); ok {
		panic(u.fault())
	}
	switch x, f, kind := number(v); kind {
	case 'i':
		return whole(new(big.Int).Abs(x))
	case 'f':
		if f < 0 {
			return -f
		}
		return f
	}
	typeError("bad operand type for abs(): '%s'", typeName(v))
	return nil
}
