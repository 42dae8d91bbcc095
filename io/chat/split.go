package chat

import (
	"slices"
	"strings"
	"unicode/utf8"
)

func (r *render) split(method, s string, a *arguments) value {
	b := a.bind(method, "sep=", "maxsplit=")
	most := int64(-1)
	if b[1] != nil {
		n, ok := asInt(b[1])
		if !ok {
			typeError("'%s' object cannot be interpreted as an integer", typeName(b[1]))
		}
		most = n
	}
	if most < 0 {
		most = int64(len(s)) + 1
	}
	r.make(len(s))
	back := method == "rsplit"
	if b[0] == nil || b[0] == none {
		return r.texts(fields(s, most, back))
	}
	sep := textArg(method, b[0])
	if sep == "" {
		fail("ValueError", "empty separator")
	}
	r.hold(strings.Count(s, sep))
	var parts []string
	for rest := s; ; most-- {
		at := strings.Index(rest, sep)
		if back {
			at = strings.LastIndex(rest, sep)
		}
		if at < 0 || most <= 0 {
			parts = append(parts, rest)
			break
		}
		if back {
			parts = append(parts, rest[at+len(sep):])
			rest = rest[:at]
		} else {
			parts = append(parts, rest[:at])
			rest = rest[at+len(sep):]
		}
	}
	if back {
		slices.Reverse(parts)
	}
	return r.texts(parts)
}

// fields cuts at runs of white space, at most so many times, from the front or the back.
func fields(s string, most int64, back bool) (parts []string) {
	for ; ; most-- {
		var at int
		if back {
			s = strings.TrimRightFunc(s, isSpace)
			at = strings.LastIndexFunc(s, isSpace)
		} else {
			s = strings.TrimLeftFunc(s, isSpace)
			at = strings.IndexFunc(s, isSpace)
		}
		switch {
		case s == "":
		case at < 0 || most <= 0:
			parts = append(parts, s)
		case back:
			_, n := utf8.DecodeRuneInString(s[at:])
			parts = append(parts, s[at+n:])
			s = s[:at]
			continue
		default:
			parts = append(parts, s[:at])
			s = s[at:]
			continue
		}
		if back {
			slices.Reverse(parts)
		}
		return parts
	}
}

// lines cuts at Python's line ends.
func lines(s string, keep bool) (out []string) {
	for s != "" {
		at := strings.IndexFunc(s, func(c rune) bool {
			return c >= '\n' && c <= '\r' || c >= 0x1c && c <= 0x1e || c == 0x85 || c == 0x2028 || c == 0x2029
		})
		if at < 0 {
			return append(out, s)
		}
		_, n := utf8.DecodeRuneInString(s[at:])
		if strings.HasPrefix(s[at:], "\r\n") {
			n = 2
		}
		if keep {
			out = append(out, s[:at+n])
		} else {
			out = append(out, s[:at])
		}
		s = s[at+n:]
	}
	return out
}

func (r *render) partition(method, s string, a *arguments) value {
	sep := textArg(method, a.bind(method, "sep")[0])
	if sep == "" {
		fail("ValueError", "empty separator")
	}
	r.make(len(s))
	at := strings.Index(s, sep)
	if method == "rpartition" {
		at = strings.LastIndex(s, sep)
	}
	switch {
	case at >= 0:
		return newTuple(s[:at], sep, s[at+len(sep):])
	case method == "rpartition":
		return newTuple("", "", s)
	}
	return newTuple(s, "", "")
}
