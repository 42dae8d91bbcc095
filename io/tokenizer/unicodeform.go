package tokenizer

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// unicodeForm brings a text into one of Unicode's four normalization forms.
//
// x/text does it, but for two things that Hugging Face's library does otherwise. After 30 combining marks in a row
// x/text puts in a U+034F of its own ("stream-safe text"); and it knows characters that the reference does not (see
// since9). Texts with such go the definition's way.
type unicodeForm struct{ form norm.Form }

func (f unicodeForm) normalize(text string) string {
	if f.form.IsNormalString(text) {
		return text
	}
	if usual(text) {
		return f.form.String(text)
	}
	return f.byDefinition(text)
}

// usual tells whether x/text and the reference agree about text: it has no character that is too new, and nowhere
// so many marks in a row that they could decompose to more than 30.
func usual(text string) bool {
	const most = 30 / 4 // no mark decomposes to more than 4
	marks := 0          // in a row
	for i := 0; i < len(text); {
		if text[i] < utf8.RuneSelf {
			marks = 0
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		if p := norm.NFKD.PropertiesString(text[i:]); p.LeadCCC() == 0 && p.TrailCCC() == 0 {
			marks = 0
		} else if marks++; marks > most {
			return false
		}
		if since9.has(r) {
			return false
		}
		i += size
	}
	return true
}

// byDefinition follows the Unicode standard, section 3.11: decompose, order the marks by class, compose.
func (f unicodeForm) byDefinition(text string) string {
	decomposed := norm.NFD
	if f.form == norm.NFKC || f.form == norm.NFKD {
		decomposed = norm.NFKD
	}
	var all []ordered
	for _, r := range text {
		all = decompose(all, r, decomposed)
	}
	for i := 0; i < len(all); {
		end := i
		for end < len(all) && all[end].class != 0 {
			end++
		}
		slices.SortStableFunc(all[i:end], func(a, b ordered) int { return int(a.class) - int(b.class) })
		i = end + 1
	}
	if f.form == norm.NFC || f.form == norm.NFKC {
		all = compose(all)
	}
	out := make([]byte, 0, len(text))
	for _, c := range all {
		out = utf8.AppendRune(out, c.r)
	}
	return string(out)
}

// ordered is a character with its canonical combining class; 0 is a starter's.
type ordered struct {
	r     rune
	class uint8
}

// Hangul syllables are computed, not listed: Unicode, section 3.12.
const (
	hangul, hangulEnd               = 0xAC00, 0xAC00 + 11172
	leading, vowel, trailing        = 0x1100, 0x1161, 0x11A7
	leadings, vowels, trailingCount = 19, 21, 28
)

func decompose(all []ordered, r rune, form norm.Form) []ordered {
	if since9.has(r) {
		return append(all, ordered{r, 0})
	}
	if hangul <= r && r < hangulEnd {
		i := r - hangul
		all = append(all, ordered{leading + i/trailingCount/vowels, 0}, ordered{vowel + i/trailingCount%vowels, 0})
		if t := i % trailingCount; t > 0 {
			all = append(all, ordered{trailing + t, 0})
		}
		return all
	}
	var buffer [utf8.UTFMax]byte
	p := form.Properties(utf8.AppendRune(buffer[:0], r))
	if p.Decomposition() == nil {
		return append(all, ordered{r, p.CCC()})
	}
	for _, c := range string(p.Decomposition()) {
		all = append(all, ordered{c, form.PropertiesString(string(c)).CCC()})
	}
	return all
}

// compose joins, in place, each character with the last starter before it where the pair has a composite and no
// character of the same or a higher class stands between.
func compose(all []ordered) []ordered {
	composites := map[[2]rune]rune{}
	out := all[:0]
	starter := -1 // where in out
	for _, c := range all {
		blocked := starter < 0 || starter < len(out)-1 && (out[len(out)-1].class == 0 || out[len(out)-1].class >= c.class)
		if !blocked {
			pair := [2]rune{out[starter].r, c.r}
			joined, known := composites[pair]
			if !known {
				joined = composite(pair[0], pair[1])
				composites[pair] = joined
			}
			if joined != 0 {
				out[starter].r = joined
				continue
			}
		}
		if c.class == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	return out
}

// composite gives the character that two compose to, or 0.
func composite(a, b rune) rune {
	s := norm.NFC.String(string([]rune{a, b}))
	r, size := utf8.DecodeRuneInString(s)
	if size < len(s) || since9.has(r) {
		return 0
	}
	return r
}
