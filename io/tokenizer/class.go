package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// class is a set of the ten kinds of characters that the known pre-tokenizer regexes tell apart. Every character is
// of exactly one kind, so the complement of a set of kinds is a set of kinds.
type class uint16

const (
	upper    class = 1 << iota // Lu, Lt
	lower                      // Ll
	caseless                   // Lm, Lo
	mark                       // M
	number                     // N
	punct                      // P
	symbol                     // S
	newline                    // \r and \n
	blank                      // the rest of White_Space, the regexes' \s
	other

	letter = upper | lower | caseless
	space  = newline | blank
)

// classTable gives a character's kind in two steps: the block of 256 characters it lies in, then its place there.
// Blocks alike are kept once (some 200 of 4352 differ).
type classTable struct {
	ascii  [utf8.RuneSelf]class
	index  [(unicode.MaxRune + 1) >> 8]uint16
	blocks [][256]class
}

// classes is the table, built at its first use in some milliseconds.
var classes = sync.OnceValue(buildClasses)

func buildClasses() *classTable {
	flat := make([]class, unicode.MaxRune+1)
	for i := range flat {
		flat[i] = other
	}
	for name, kind := range map[string]class{
		"Lu": upper, "Lt": upper, "Ll": lower, "Lm": caseless, "Lo": caseless, "M": mark, "N": number, "P": punct, "S": symbol,
	} {
		paint(flat, category(name), kind)
	}
	paint(flat, fromTables(unicode.White_Space), blank)
	flat['\r'], flat['\n'] = newline, newline

	t := new(classTable)
	copy(t.ascii[:], flat)
	seen := map[[256]class]uint16{}
	for b := range t.index {
		block := [256]class(flat[b<<8:])
		at, ok := seen[block]
		if !ok {
			at = uint16(len(t.blocks))
			seen[block] = at
			t.blocks = append(t.blocks, block)
		}
		t.index[b] = at
	}
	return t
}

func paint(flat []class, set charset, kind class) {
	for _, x := range set {
		for r := x.lo; r <= x.hi; r++ {
			flat[r] = kind
		}
	}
}

// at gives the kind and the length in bytes of the character that begins at s[i]; beyond the end, nothing.
func (t *classTable) at(s string, i int) (kind class, size int) {
	if i >= len(s) {
		return 0, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return t.ascii[c], 1
	}
	r, size := utf8.DecodeRuneInString(s[i:])
	return t.blocks[t.index[r>>8]][r&0xff], size
}

// run gives where the characters of set that begin at s[i] end.
func (t *classTable) run(s string, i int, set class) int {
	for i < len(s) {
		kind, size := t.at(s, i)
		if kind&set == 0 {
			break
		}
		i += size
	}
	return i
}
