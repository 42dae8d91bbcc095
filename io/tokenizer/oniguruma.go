package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// translation turns a regex of tokenizer.json, which is Oniguruma's dialect, into regexp2's. The two differ in what
// \s, \w and \p mean, in classes inside classes, ignored case (Unicode's folding), ^ and $ (of a line, always),
// and possessive runs. Sets are written out member by member, so that no meaning is left to the engine.
type translation struct {
	in   string
	at   int
	out  strings.Builder
	open []group
	atom int // where in out the item that a quantifier would repeat begins
}

// group is an open group; the outermost is the whole regex.
type group struct {
	fold  bool // ignore case, from here on
	begin int  // where in out it begins
}

// regexp2Dialect translates an Oniguruma regex. What it does not know (back references, conditionals, \b, class
// intersections) is an error that says what and at which byte.
func regexp2Dialect(pattern string) (string, error) {
	t := translation{in: pattern, open: []group{{}}}
	for t.at < len(t.in) {
		begin := t.at
		if err := t.item(); err != nil {
			return "", fmt.Errorf("regex %q, byte %d: %w", pattern, begin, err)
		}
	}
	if len(t.open) != 1 {
		return "", fmt.Errorf("regex %q: a group is not closed", pattern)
	}
	return t.out.String(), nil
}

func (t *translation) item() error {
	switch c := t.in[t.at]; c {
	case '[':
		t.at++
		set, err := t.class()
		if err != nil {
			return err
		}
		return t.set(set)
	case '\\':
		return t.escape()
	case '(':
		return t.group()
	case ')':
		if len(t.open) == 1 {
			return fmt.Errorf("a group is closed that was not opened")
		}
		t.atom = t.innermost().begin
		t.open = t.open[:len(t.open)-1]
		t.at++
		t.out.WriteByte(')')
	case '|':
		t.at++
		t.atom = t.out.Len() + 1
		t.out.WriteByte('|')
	case '^', '$':
		t.at++
		t.begin()
		t.out.WriteString("(?m:" + string(c) + ")")
	case '.':
		t.at++
		return t.set(charset{{'\n', '\n'}}.not())
	case '*', '+', '?', '{':
		return t.quantifier()
	default:
		r, size := utf8.DecodeRuneInString(t.in[t.at:])
		t.at += size
		return t.set(charset{{r, r}})
	}
	return nil
}

func (t *translation) begin()            { t.atom = t.out.Len() }
func (t *translation) innermost() *group { return &t.open[len(t.open)-1] }

// set writes one character of the set, folded where case is ignored.
func (t *translation) set(set charset) error {
	if t.innermost().fold {
		set = set.folded()
	}
	if len(set) == 0 {
		return fmt.Errorf("a class that holds no character")
	}
	t.begin()
	t.out.WriteString(set.class())
	return nil
}

// escape translates one backslash outside a class.
func (t *translation) escape() error {
	if c := t.peek(1); c == 'A' || c == 'z' {
		t.at += 2
		t.begin()
		t.out.WriteString(`\` + string(c))
		return nil
	}
	set, err := t.bareSet()
	if err != nil {
		return err
	}
	return t.set(set)
}

// bareSet is escapedSet outside a class, where Oniguruma's \w has Latin-1's superscripts and fractions too.
func (t *translation) bareSet() (charset, error) {
	c := t.peek(1)
	set, err := t.escapedSet()
	latin1 := []runes{{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}}
	switch c {
	case 'w':
		set = set.with(latin1...)
	case 'W':
		set = set.not().with(latin1...).not()
	}
	return set, err
}

// escapedSet reads a backslash and what it escapes, in or outside a class.
func (t *translation) escapedSet() (charset, error) {
	c := t.peek(1)
	t.at += 2
	switch c {
	case 0:
		return nil, fmt.Errorf("a backslash with nothing behind it")
	case 'p', 'P':
		return t.property(c == 'P')
	case 'x', 'u':
		r, err := t.hex(c)
		return charset{{r, r}}, err
	case 'n', 'r', 't', 'f', 'v', 'a', 'e':
		r := rune(map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', 'f': '\f', 'v': '\v', 'a': 7, 'e': 27}[c])
		return charset{{r, r}}, nil
	}
	if set, ok := shorthand(c); ok {
		return set, nil
	}
	if c >= utf8.RuneSelf {
		t.at--
		r, size := utf8.DecodeRuneInString(t.in[t.at:])
		t.at += size
		return charset{{r, r}}, nil
	}
	if unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)) {
		return nil, fmt.Errorf(`\%c is not supported`, c)
	}
	return charset{{rune(c), rune(c)}}, nil
}

// property reads {name} or {^name} behind \p.
func (t *translation) property(not bool) (charset, error) {
	name, ok := t.braced()
	if !ok {
		return nil, fmt.Errorf(`\p needs a name in braces`)
	}
	if strings.HasPrefix(name, "^") {
		name, not = name[1:], !not
	}
	set, err := named(name)
	if err == nil && not {
		set = set.not()
	}
	return set, err
}

// hex reads the digits behind \x (1 or 2, or any in braces) or \u (4).
func (t *translation) hex(kind byte) (rune, error) {
	digits, braced := "", false
	if kind == 'x' {
		digits, braced = t.braced()
	}
	if !braced {
		most := map[byte]int{'x': 2, 'u': 4}[kind]
		for len(digits) < most && t.at < len(t.in) && strings.IndexByte("0123456789abcdefABCDEF", t.in[t.at]) >= 0 {
			digits += t.in[t.at : t.at+1]
			t.at++
		}
	}
	n, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || n > unicode.MaxRune {
		return 0, fmt.Errorf(`\%c%s is no character`, kind, digits)
	}
	return rune(n), nil
}

func (t *translation) braced() (inside string, ok bool) {
	if t.peek(0) != '{' {
		return "", false
	}
	n := strings.IndexByte(t.in[t.at:], '}')
	if n < 0 {
		return "", false
	}
	inside = t.in[t.at+1 : t.at+n]
	t.at += n + 1
	return inside, true
}

func (t *translation) peek(ahead int) byte {
	if t.at+ahead < len(t.in) {
		return t.in[t.at+ahead]
	}
	return 0
}

// class reads a class behind its opening bracket. A bracket inside opens a class whose members are added.
func (t *translation) class() (charset, error) {
	not := t.peek(0) == '^'
	if not {
		t.at++
	}
	var set charset
	for first := true; ; first = false {
		switch c := t.peek(0); {
		case t.at >= len(t.in):
			return nil, fmt.Errorf("a class is not closed")
		case c == ']' && !first:
			t.at++
			if not {
				set = set.not()
			}
			return set, nil
		case c == '[' && t.peek(1) == ':':
			return nil, fmt.Errorf("the bracket class [:…:] is not supported")
		case c == '&' && t.peek(1) == '&':
			return nil, fmt.Errorf("the intersection && of classes is not supported")
		case c == '[':
			t.at++
			inner, err := t.class()
			if err != nil {
				return nil, err
			}
			set = set.with(inner...)
		default:
			member, err := t.member()
			if err != nil {
				return nil, err
			}
			set = set.with(member...)
		}
	}
}

// member reads a character, an escaped set or a range of a class.
func (t *translation) member() (charset, error) {
	low, err := t.single()
	if err != nil || t.peek(0) != '-' || t.peek(1) == ']' || t.peek(1) == 0 || len(low) != 1 || low[0].lo != low[0].hi {
		return low, err
	}
	t.at++
	high, err := t.single()
	if err != nil {
		return nil, err
	}
	if len(high) != 1 || high[0].lo != high[0].hi || high[0].lo < low[0].lo {
		return nil, fmt.Errorf("a range in a class that does not go from a character to a later one")
	}
	return charset{{low[0].lo, high[0].lo}}, nil
}

func (t *translation) single() (charset, error) {
	if t.in[t.at] == '\\' {
		return t.escapedSet()
	}
	r, size := utf8.DecodeRuneInString(t.in[t.at:])
	t.at += size
	return charset{{r, r}}, nil
}

// group opens a group: plain ones capture nothing here, options hold to the end of theirs.
func (t *translation) group() error {
	fold := t.innermost().fold
	rest := t.in[t.at:]
	open := func(text string, as string, fold bool) {
		t.open = append(t.open, group{fold, t.out.Len()})
		t.at += len(text)
		t.out.WriteString(as)
		t.begin()
	}
	for _, text := range []string{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"} {
		if strings.HasPrefix(rest, text) {
			open(text, text, fold)
			return nil
		}
	}
	switch {
	case strings.HasPrefix(rest, "(?i:"):
		open("(?i:", "(?:", true)
	case strings.HasPrefix(rest, "(?-i:"):
		open("(?-i:", "(?:", false)
	case strings.HasPrefix(rest, "(?i)"):
		t.innermost().fold = true
		t.at += len("(?i)")
		t.begin()
	case strings.HasPrefix(rest, "(?"):
		return fmt.Errorf("the group %q is not supported", rest[:min(len(rest), 4)])
	default:
		open("(", "(?:", fold)
	}
	return nil
}

// quantifier copies one, with its lazy mark; a possessive mark makes what it repeats an atomic group.
func (t *translation) quantifier() error {
	text := t.in[t.at : t.at+1]
	if text == "{" {
		inside, ok := t.braced()
		low, high, two := strings.Cut(inside, ",")
		if !ok || !fewDigits(low) || !fewDigits(high) || low+high == "" {
			if ok {
				t.at -= len(inside) + 2
			}
			t.at++
			return t.set(charset{{'{', '{'}})
		}
		if low == "" {
			low = "0"
		}
		text = "{" + low + "}"
		if two {
			text = "{" + low + "," + high + "}"
		}
	} else {
		t.at++
	}
	if t.out.Len() == t.atom {
		return fmt.Errorf("%s repeats nothing", text)
	}
	switch next := t.peek(0); {
	case next == '?':
		t.at++
		text += "?"
	case next == '+' && text[0] != '{':
		t.at++
		out := t.out.String()
		t.out.Reset()
		t.out.WriteString(out[:t.atom] + "(?>" + out[t.atom:] + text + ")")
		return nil
	}
	t.out.WriteString(text)
	return nil
}

// fewDigits: Oniguruma repeats at most 100000 times; three digits are enough here.
func fewDigits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) <= 3
}
