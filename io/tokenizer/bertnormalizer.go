package tokenizer

import (
	"encoding/json"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// bertNormalizer is BERT's: control characters go and white space becomes a space, Chinese characters stand alone,
// accents are taken off, letters made small, in this order.
type bertNormalizer struct{ clean, chinese, strip, lower bool }

type bertNormalizerFile struct {
	Clean   bool  `json:"clean_text"`
	Chinese bool  `json:"handle_chinese_chars"`
	Strip   *bool `json:"strip_accents"` // null: as Lower
	Lower   bool  `json:"lowercase"`
}

func readBertNormalizer(raw json.RawMessage) (normalizer, error) {
	f := bertNormalizerFile{Clean: true, Chinese: true, Lower: true}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return newBertNormalizer(f), nil
}

func newBertNormalizer(f bertNormalizerFile) bertNormalizer {
	n := bertNormalizer{f.Clean, f.Chinese, f.Lower, f.Lower}
	if f.Strip != nil {
		n.strip = *f.Strip
	}
	return n
}

func (n bertNormalizer) normalize(text string) (string, error) {
	if n.clean || n.chinese {
		text = n.tidy(text)
	}
	if n.strip {
		text = without(unicodeForm{norm.NFD}.normalize(text), nonspacing())
	}
	if n.lower {
		text = lowered(text)
	}
	return text, nil
}

func (n bertNormalizer) tidy(text string) string {
	out := make([]byte, 0, len(text)+len(text)/8)
	control, space := controls(), blanks()
	for i := 0; i < len(text); {
		r, size := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(text[i:])
		}
		switch {
		case n.clean && control.has(r):
		case n.clean && space.has(r):
			out = append(out, ' ')
		case n.chinese && isChinese(r):
			out = append(append(append(out, ' '), text[i:i+size]...), ' ')
		default:
			out = append(out, text[i:i+size]...)
		}
		i += size
	}
	return string(out)
}

// isChinese is BERT's list of blocks, one of which the reference begins 256 characters late.
func isChinese(r rune) bool {
	return r >= 0x3400 && (r <= 0x4DBF || 0x4E00 <= r && r <= 0x9FFF || 0xF900 <= r && r <= 0xFAFF ||
		0x20000 <= r && r <= 0x2A6DF || 0x2A700 <= r && r <= 0x2B81F || 0x2B920 <= r && r <= 0x2CEAF || 0x2F800 <= r && r <= 0x2FA1F)
}

// controls are the characters that BERT drops: the category C as the reference knows it, and U+FFFD. White space that
// is also a control character is dropped too, but for the tabulator and the line's ends.
var controls = sync.OnceValue(func() *members {
	set := fromTables(unicode.Cc, unicode.Cf, unicode.Co).with(runes{0xFFFD, 0xFFFD})
	return newMembers(set.without(append(formatSince9, runes{'\t', '\n'}, runes{'\r', '\r'})...))
})

var blanks = sync.OnceValue(func() *members { return newMembers(fromTables(unicode.White_Space)) })

// nonspacing is the category Mn.
var nonspacing = sync.OnceValue(func() *members {
	return newMembers(fromTables(unicode.Mn).without(nonspacingSince9...).with(runes{0x1734, 0x1734}))
})

// without leaves the members of a set out.
func without(text string, set *members) string {
	for i := 0; i < len(text); {
		size := set.at(text, i)
		if size > 0 {
			return leaveOut(text, i, set)
		}
		if i++; text[i-1] >= utf8.RuneSelf {
			for i < len(text) && !utf8.RuneStart(text[i]) {
				i++
			}
		}
	}
	return text
}

// leaveOut is without for a text whose first member is at byte from.
func leaveOut(text string, from int, set *members) string {
	out := append(make([]byte, 0, len(text)), text[:from]...)
	for i, r := range text[from:] {
		if set.at(text, from+i) == 0 {
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

// lowered makes letters small, one by one: a sigma at a word's end is not told apart.
func lowered(text string) string {
	out := make([]byte, 0, len(text)+8)
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			out = append(out, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		out = appendLower(out, r)
		i += size
	}
	return string(out)
}

func appendLower(dst []byte, r rune) []byte {
	if r == 'İ' {
		return append(dst, "i\u0307"...)
	}
	return utf8.AppendRune(dst, smallSince15(unicode.ToLower(r)))
}
