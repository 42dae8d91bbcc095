package tokenizer

import (
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

var forms = []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD}

// marked has characters that compose, decompose, do neither, and are excluded from composition; Hangul in all parts.
const marked = "aeAoÅÅéǖǟṩẛ\u0301\u0323\u0307\u0308\u0304\u030a\u0345\u0344ΰΩﬁ①\u2126\u0958\u0915\u093c\u1100\u1161\u11a8가각\u0b47\u0b56\U0001d15e"

func TestFormsByDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune(marked)), 0, 14, -1).Draw(t, "text")
		for _, form := range forms {
			want := form.String(text) // right where few marks stand in a row
			f := unicodeForm{form}
			if got := f.byDefinition(text); got != want {
				t.Errorf("form %d of %+q: by definition %+q, want %+q", form, text, got, want)
			}
			if got := f.normalize(text); got != want {
				t.Errorf("form %d of %+q: %+q, want %+q", form, text, got, want)
			}
		}
	})
}

// TestHeapsOfMarks: no U+034F is put between marks, however many there are.
func TestHeapsOfMarks(t *testing.T) {
	for _, c := range []struct{ text, nfc, nfd string }{
		{"e" + strings.Repeat("\u0301", 40), "é" + strings.Repeat("\u0301", 39), "e" + strings.Repeat("\u0301", 40)},
		{"é" + strings.Repeat("\u0301", 40), "é" + strings.Repeat("\u0301", 40), "e" + strings.Repeat("\u0301", 41)},
		{
			"x " + strings.Repeat("\u0301\u0323", 40) + "é", "x " + strings.Repeat("\u0323", 40) + strings.Repeat("\u0301", 40) + "é",
			"x " + strings.Repeat("\u0323", 40) + strings.Repeat("\u0301", 40) + "e\u0301",
		},
		{strings.Repeat("\u0344", 20), strings.Repeat("\u0308\u0301", 20), strings.Repeat("\u0308\u0301", 20)},
	} {
		for form, want := range map[norm.Form]string{norm.NFC: c.nfc, norm.NFD: c.nfd} {
			if got := (unicodeForm{form}).normalize(c.text); got != want {
				t.Errorf("form %d of %+q: %+q, want %+q", form, c.text, got, want)
			}
		}
	}
}
