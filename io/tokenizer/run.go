package tokenizer

import "unicode/utf8"

// setRun finds the matches of the simplest regexes, [set], [set]+, [set]{1,most} and [before]?[set]+, of which
// several families build their pre-tokenizers.
type setRun struct {
	before, set *members
	most        int // the longest run; 0: any
}

// runsOf is [set]+, or with most above 0 [set]{1,most}.
func runsOf(set *members, most int) *setRun { return &setRun{before: nobody, set: set, most: most} }

// members is a charset with a table for ASCII.
type members struct {
	ascii [utf8.RuneSelf]bool
	all   charset
}

func newMembers(set charset) *members {
	m := &members{all: set}
	for r := range m.ascii {
		m.ascii[r] = set.has(rune(r))
	}
	return m
}

func (m *members) has(r rune) bool {
	if r < utf8.RuneSelf {
		return m.ascii[r]
	}
	return m.all.has(r)
}

// at gives the length in bytes of the character at s[i] if it is a member, else 0.
func (m *members) at(s string, i int) int {
	if i >= len(s) {
		return 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		if m.ascii[c] {
			return 1
		}
		return 0
	}
	r, size := utf8.DecodeRuneInString(s[i:])
	if !m.all.has(r) {
		return 0
	}
	return size
}

var nobody = newMembers(nil)

// parseRun reads a regex of these forms; ok is false for any other, a wrong one too.
func parseRun(regex string) (run *setRun, ok bool) {
	t := translation{in: regex, open: []group{{}}}
	set, ok := t.plainSet()
	if !ok {
		return nil, false
	}
	run = runsOf(newMembers(set), 1)
	if t.peek(0) == '?' {
		t.at++
		run.before = run.set
		if set, ok = t.plainSet(); !ok || t.in[t.at:] != "+" {
			return nil, false
		}
		run.set, run.most = newMembers(set), 0
		return run, true
	}
	switch rest := t.in[t.at:]; {
	case rest == "":
	case rest == "+":
		run.most = 0
	case len(rest) == len("{1,3}") && rest[:3] == "{1," && rest[3] >= '1' && rest[3] <= '9' && rest[4] == '}':
		run.most = int(rest[3] - '0')
	default:
		return nil, false
	}
	return run, true
}

// plainSet reads a class, an escaped set or a letter, digit or space.
func (t *translation) plainSet() (set charset, ok bool) {
	switch c := t.peek(0); {
	case c == '[':
		t.at++
		set, err := t.class()
		return set, err == nil
	case c == '\\' && t.peek(1) != 'A' && t.peek(1) != 'z':
		set, err := t.bareSet()
		return set, err == nil
	case c == ' ', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		t.at++
		return charset{{rune(c), rune(c)}}, true
	}
	return nil, false
}

func (p *setRun) matches(dst []span, text string) ([]span, error) {
	for i := 0; i < len(text); {
		end := p.at(text, i)
		if end == i {
			_, size := utf8.DecodeRuneInString(text[i:])
			i += size
			continue
		}
		dst = append(dst, span{i, end})
		i = end
	}
	return dst, nil
}

func (p *setRun) at(text string, i int) int {
	first := i
	if n := p.before.at(text, i); n > 0 && p.set.at(text, i+n) > 0 {
		first += n
	}
	end := first
	for count := 0; p.most == 0 || count < p.most; count++ {
		n := p.set.at(text, end)
		if n == 0 {
			break
		}
		end += n
	}
	if end == first {
		return i
	}
	return end
}
