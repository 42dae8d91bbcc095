package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// charset is a set of characters: ranges lo, hi (both inside), ascending, none touching the next.
type charset []runes

type runes struct{ lo, hi rune }

func (s charset) has(r rune) bool {
	_, found := slices.BinarySearchFunc(s, r, func(x runes, r rune) int {
		switch {
		case x.hi < r:
			return -1
		case x.lo > r:
			return 1
		}
		return 0
	})
	return found
}

// with is the union of the two sets.
func (s charset) with(t ...runes) charset {
	all := append(slices.Clone(s), t...)
	slices.SortFunc(all, func(a, b runes) int { return int(a.lo) - int(b.lo) })
	joined := all[:0]
	for _, x := range all {
		if n := len(joined); n > 0 && x.lo <= joined[n-1].hi+1 {
			joined[n-1].hi = max(joined[n-1].hi, x.hi)
			continue
		}
		joined = append(joined, x)
	}
	return joined
}

// not is every character outside the set.
func (s charset) not() charset {
	var rest charset
	next := rune(0)
	for _, x := range s {
		if x.lo > next {
			rest = append(rest, runes{next, x.lo - 1})
		}
		next = x.hi + 1
	}
	if next <= unicode.MaxRune {
		rest = append(rest, runes{next, unicode.MaxRune})
	}
	return rest
}

// without is the set less the given characters.
func (s charset) without(t ...runes) charset { return s.not().with(t...).not() }

// folded adds what Unicode's simple case folding holds equal to a member: k, K and the Kelvin sign.
func (s charset) folded() charset {
	more := slices.Clone(s)
	for _, f := range foldable() {
		if s.has(f) {
			for r := unicode.SimpleFold(f); r != f; r = unicode.SimpleFold(r) {
				more = append(more, runes{r, r})
			}
		}
	}
	return charset(nil).with(more...)
}

// foldable lists the characters, some 2800, that have another case.
var foldable = sync.OnceValue(func() (all []rune) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if unicode.SimpleFold(r) != r {
			all = append(all, r)
		}
	}
	return all
})

func fromTables(tables ...*unicode.RangeTable) charset {
	var all []runes
	for _, table := range tables {
		for _, r := range table.R16 {
			all = appendStrided(all, rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
		for _, r := range table.R32 {
			all = appendStrided(all, rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
	}
	return charset(nil).with(all...)
}

func appendStrided(all []runes, lo, hi, stride rune) []runes {
	if stride == 1 {
		return append(all, runes{lo, hi})
	}
	for r := lo; r <= hi; r += stride {
		all = append(all, runes{r, r})
	}
	return all
}

// named is the set that \p{name} means: a general category, a script or a property by its Unicode name.
func named(name string) (charset, error) {
	for known := range unicode.Categories {
		if strings.EqualFold(known, name) {
			return category(known), nil
		}
	}
	for _, tables := range []map[string]*unicode.RangeTable{unicode.Scripts, unicode.Properties} {
		for known, table := range tables {
			if strings.EqualFold(known, name) {
				return fromTables(table), nil
			}
		}
	}
	return nil, fmt.Errorf(`\p{%s} is not known`, name)
}

// shorthand is the set of \s, \d, \w, \h or, in capitals, its complement.
func shorthand(c byte) (set charset, ok bool) {
	switch c | 0x20 {
	case 's':
		set = fromTables(unicode.White_Space)
	case 'd':
		set = category("Nd")
	case 'w':
		set = words()
	case 'h':
		set = charset{{'0', '9'}, {'A', 'F'}, {'a', 'f'}}
	default:
		return nil, false
	}
	if c < 'a' {
		set = set.not()
	}
	return set, true
}

// words is \w: what is alphabetic, marks, digits and connecting punctuation.
var words = sync.OnceValue(func() charset {
	set := fromTables(unicode.Nl, unicode.Other_Alphabetic, unicode.Pc)
	for _, name := range []string{"L", "M", "Nd"} {
		set = set.with(category(name)...)
	}
	return set
})

// class writes the set as a class of any regex dialect, every member spelled out.
func (s charset) class() string {
	var b strings.Builder
	b.WriteByte('[')
	for _, x := range s {
		writeMember(&b, x.lo)
		if x.hi > x.lo {
			b.WriteByte('-')
			writeMember(&b, x.hi)
		}
	}
	b.WriteByte(']')
	return b.String()
}

func writeMember(b *strings.Builder, r rune) { fmt.Fprintf(b, `\x{%X}`, r) }
