package chat

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind of a token.
type kind int

const (
	endToken kind = iota
	dataToken
	variableBegin
	variableEnd
	blockBegin
	blockEnd
	nameToken
	textToken
	integerToken
	floatToken
	operatorToken
)

// token is a piece of a template; text is the name, the operator, the text's content or the data.
type token struct {
	kind  kind
	text  string
	value value // of a number
	line  int
}

// is tells whether a token is this name or operator.
func (t token) is(k kind, text string) bool { return t.kind == k && t.text == text }

func (t token) String() string {
	switch t.kind {
	case endToken:
		return "end of template"
	case dataToken:
		return "template data / text"
	case variableBegin:
		return "begin of print statement"
	case variableEnd:
		return "end of print statement"
	case blockBegin:
		return "begin of statement block"
	case blockEnd:
		return "end of statement block"
	case integerToken:
		return "integer"
	case floatToken:
		return "float"
	}
	return t.text
}

// lexer cuts a template into tokens, under trim_blocks and lstrip_blocks: the first line end behind a block goes, and so
// does white space between the start of a line and a block or comment.
type lexer struct {
	src       string
	at        int
	line      int
	tokens    []token
	lineStart bool   // what was passed last ended a line
	open      []byte // brackets that wait for their end
}

func lex(src string) []token {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	l := &lexer{src: strings.TrimSuffix(src, "\n"), line: 1, lineStart: true}
	for l.at < len(l.src) {
		l.root()
	}
	l.add(token{kind: endToken})
	return l.tokens
}

func (l *lexer) add(t token) {
	t.line = l.line
	l.tokens = append(l.tokens, t)
}

func (l *lexer) fail(format string, args ...any) {
	e := fault("TemplateSyntaxError", format, args...)
	e.Line = l.line
	panic(e)
}

// pass goes n bytes on.
func (l *lexer) pass(n int) {
	if n > 0 {
		part := l.src[l.at : l.at+n]
		l.line += strings.Count(part, "\n")
		l.lineStart = part[n-1] == '\n'
		l.at += n
	}
}

// root reads data up to the next tag, and the tag.
func (l *lexer) root() {
	rest := l.src[l.at:]
	tag := 0
	for {
		i := strings.IndexByte(rest[tag:], '{')
		if i < 0 || tag+i+1 >= len(rest) {
			l.data(rest)
			l.pass(len(rest))
			return
		}
		tag += i
		if c := rest[tag+1]; c == '%' || c == '{' || c == '#' {
			break
		}
		tag++
	}
	begin, size := rest[tag:], 2
	sign := byte(0)
	if len(begin) > 2 && (begin[2] == '-' || begin[2] == '+') {
		sign, size = begin[2], 3
	}
	raw := 0
	if begin[1] == '%' {
		raw = rawBegin(begin)
	}
	l.data(l.stripped(rest[:tag], sign, begin[1] == '{'))
	switch {
	case raw > 0:
		l.pass(tag + raw)
		l.raw()
	case begin[1] == '#':
		l.pass(tag + size)
		l.comment()
	case begin[1] == '{':
		l.pass(tag + size)
		l.add(token{kind: variableBegin})
		l.inside(variableEnd)
	default:
		l.pass(tag + size)
		l.add(token{kind: blockBegin})
		l.inside(blockEnd)
	}
}

func (l *lexer) data(s string) {
	if s != "" {
		l.add(token{kind: dataToken, text: s})
	}
}

// stripped is the data before a tag, without the white space that the tag takes.
func (l *lexer) stripped(s string, sign byte, variable bool) string {
	if sign == '-' {
		return strings.TrimRightFunc(s, isSpace)
	}
	if sign == '+' || variable {
		return s
	}
	line := strings.LastIndexByte(s, '\n') + 1
	if line == 0 && !l.lineStart || strings.TrimLeftFunc(s[line:], isSpace) != "" {
		return s
	}
	return s[:line]
}

// rawBegin is the length of {% raw %} at the start of s, 0 where there is none.
func rawBegin(s string) int {
	rest := s[2:]
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		rest = rest[1:]
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	rest, ok := strings.CutPrefix(rest, "raw")
	if !ok {
		return 0
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	if after, ok := strings.CutPrefix(rest, "-%}"); ok {
		return len(s) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if after, ok := strings.CutPrefix(rest, "%}"); ok {
		return len(s) - len(after)
	}
	return 0
}

// raw reads up to {% endraw %} as data.
func (l *lexer) raw() {
	rest := l.src[l.at:]
	for tag := 0; ; tag += 2 {
		i := strings.Index(rest[tag:], "{%")
		if i < 0 {
			l.fail("Missing end of raw directive")
		}
		tag += i
		after, sign := rest[tag+2:], byte(0)
		if after != "" && (after[0] == '-' || after[0] == '+') {
			sign, after = after[0], after[1:]
		}
		after, ok := strings.CutPrefix(strings.TrimLeftFunc(after, isSpace), "endraw")
		if !ok {
			continue
		}
		after = strings.TrimLeftFunc(after, isSpace)
		if n := end(after, "%}"); n > 0 {
			l.data(l.stripped(rest[:tag], sign, false))
			l.pass(len(rest) - len(after) + n)
			return
		}
	}
}

// end is the length of the end of a block or comment at the start of s, with the white space that it takes.
func end(s, mark string) int {
	switch {
	case strings.HasPrefix(s, "+"+mark):
		return 3
	case strings.HasPrefix(s, "-"+mark):
		return len(s) - len(strings.TrimLeftFunc(s[3:], isSpace))
	case strings.HasPrefix(s, mark+"\n"):
		return 3
	case strings.HasPrefix(s, mark):
		return 2
	}
	return 0
}

func (l *lexer) comment() {
	rest := l.src[l.at:]
	i := strings.Index(rest, "#}")
	if i < 0 {
		l.fail("Missing end of comment tag")
	}
	if i > 0 && (rest[i-1] == '+' || rest[i-1] == '-') {
		i--
	}
	l.pass(i + end(rest[i:], "#}"))
}

// inside reads the tokens of a tag, its end among them.
func (l *lexer) inside(until kind) {
	l.open = l.open[:0]
	for l.at < len(l.src) {
		rest := l.src[l.at:]
		if len(l.open) == 0 {
			n := 0
			switch {
			case until == blockEnd:
				n = end(rest, "%}")
			case strings.HasPrefix(rest, "-}}"):
				n = len(rest) - len(strings.TrimLeftFunc(rest[3:], isSpace))
			case strings.HasPrefix(rest, "}}"):
				n = 2
			}
			if n > 0 {
				l.add(token{kind: until})
				l.pass(n)
				return
			}
		}
		l.token(rest)
	}
}

// token reads one token inside a tag, or white space.
func (l *lexer) token(rest string) {
	if n := len(rest) - len(strings.TrimLeftFunc(rest, isSpace)); n > 0 {
		l.pass(n)
		return
	}
	c := rest[0]
	if n := floatLength(rest); n > 0 && (l.at == 0 || l.src[l.at-1] != '.') {
		x, _ := strconv.ParseFloat(strings.ReplaceAll(rest[:n], "_", ""), 64) // too large is infinite, as in Python
		l.add(token{kind: floatToken, value: x, text: rest[:n]})
		l.pass(n)
		return
	}
	if c >= '0' && c <= '9' {
		n, base := integerLength(rest)
		digits := strings.ReplaceAll(rest[:n], "_", "")
		if base != 10 {
			digits = digits[2:]
		}
		x, ok := parseInt(digits, base)
		if !ok {
			l.fail("an integer has more than %d digits", maxDigits)
		}
		l.add(token{kind: integerToken, value: x, text: rest[:n]})
		l.pass(n)
		return
	}
	if n := nameLength(rest); n > 0 {
		l.add(token{kind: nameToken, text: rest[:n]})
		l.pass(n)
		return
	}
	if c == '"' || c == '\'' {
		l.text(rest)
		return
	}
	n := 1
	if len(rest) > 1 {
		switch rest[:2] {
		case "//", "**", "==", "!=", ">=", "<=":
			n = 2
		}
	}
	if n == 1 && !strings.ContainsRune("+-/*%~[](){}><=.:|,;", rune(c)) {
		r, _ := utf8.DecodeRuneInString(rest)
		l.fail("unexpected char %s at %d", quoted(string(r)), l.at)
	}
	l.balance(rest[:n])
	l.add(token{kind: operatorToken, text: rest[:n]})
	l.pass(n)
}

func (l *lexer) balance(op string) {
	switch op {
	case "(":
		l.open = append(l.open, ')')
	case "[":
		l.open = append(l.open, ']')
	case "{":
		l.open = append(l.open, '}')
	case ")", "]", "}":
		if len(l.open) == 0 {
			l.fail("unexpected '%s'", op)
		}
		want := l.open[len(l.open)-1]
		l.open = l.open[:len(l.open)-1]
		if op[0] != want {
			l.fail("unexpected '%s', expected '%c'", op, want)
		}
	}
}

func nameLength(s string) int {
	n := 0
	for n < len(s) {
		c, size := utf8.DecodeRuneInString(s[n:])
		if c != '_' && !unicode.IsLetter(c) && (n == 0 || !unicode.In(c, unicode.Nd, unicode.Nl, unicode.Mn, unicode.Mc, unicode.Pc)) {
			break
		}
		n += size
	}
	return n
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool {
	switch {
	case r < 0x80:
		return r == ' ' || r >= '\t' && r <= '\r' || r >= 0x1c && r <= 0x1f
	default:
		return unicode.IsSpace(r)
	}
}
