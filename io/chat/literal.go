package chat

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// text reads a quoted text.
func (l *lexer) text(rest string) {
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			l.add(token{kind: textToken, text: l.unescaped(rest[1:i])})
			l.pass(i + 1)
			return
		}
	}
	l.fail("unexpected char %s at %d", quoted(rest[:1]), l.at)
}

// unescaped is Python's unicode-escape.
func (l *lexer) unescaped(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		if i == len(s) {
			l.fail("\\ at end of string")
		}
		if at := strings.IndexByte(`\'"abfnrtv`, s[i]); at >= 0 {
			out = append(out, "\\'\"\a\b\f\n\r\t\v"[at])
			continue
		}
		digits, base := 0, 16
		switch s[i] {
		case '\n':
			continue
		case 'x':
			digits = 2
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		case 'N':
			l.fail("characters by name (\\N{…}) are not supported; write the character itself")
		case '0', '1', '2', '3', '4', '5', '6', '7':
			for base = 8; digits < 3 && i+digits < len(s) && s[i+digits] >= '0' && s[i+digits] <= '7'; {
				digits++
			}
			i--
		default:
			out = append(out, '\\')
			if s[i] < utf8.RuneSelf {
				out = append(out, s[i])
				continue
			}
			r, n := utf8.DecodeRuneInString(s[i:]) // the reference escapes it first, and takes that apart
			out = append(out, strings.TrimPrefix(escapedRune(r), `\`)...)
			i += n - 1
			continue
		}
		if i+1+digits > len(s) {
			l.fail("truncated escape in a string")
		}
		x, err := strconv.ParseUint(s[i+1:i+1+digits], base, 32)
		if err != nil || x > unicode.MaxRune || x >= 0xd800 && x < 0xe000 {
			l.fail("a string has an escape of no character: \\%s", s[i:i+1+digits])
		}
		out = utf8.AppendRune(out, rune(x))
		i += digits
	}
	return string(out)
}

// digits is how far decimal digits go, single underscores between them.
func digits(s string) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n > 0 && s[n-1] != '_' && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9') {
		n++
	}
	return n
}

func floatLength(s string) int {
	n := digits(s)
	if n == 0 {
		return 0
	}
	found := 0
	if n < len(s) && s[n] == '.' {
		if more := digits(s[n+1:]); more > 0 {
			n += 1 + more
			found = n
		}
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		at := n + 1
		if at < len(s) && (s[at] == '+' || s[at] == '-') {
			at++
		}
		if more := digits(s[at:]); more > 0 {
			return at + more
		}
	}
	return found
}

func integerLength(s string) (n, base int) {
	if s[0] == '0' {
		if len(s) > 1 {
			base := map[byte]int{'b': 2, 'B': 2, 'o': 8, 'O': 8, 'x': 16, 'X': 16}[s[1]]
			if base != 0 {
				n = 2
				for n < len(s) {
					at := n
					if s[at] == '_' && at+1 < len(s) {
						at++
					}
					if _, err := strconv.ParseUint(s[at:at+1], base, 8); err != nil {
						break
					}
					n = at + 1
				}
				if n > 2 {
					return n, base
				}
			}
		}
		for n = 1; n < len(s) && (s[n] == '0' || s[n] == '_' && n+1 < len(s) && s[n+1] == '0'); {
			n++
		}
		return n, 10
	}
	return digits(s), 10
}
