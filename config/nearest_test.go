package config

import (
	"testing"

	"pgregory.net/rapid"
)

func TestNearest(t *testing.T) {
	var names []string
	for _, f := range Flags {
		names = append(names, f.Name)
	}
	for word, want := range map[string]string{
		"temprature":     "temperature",
		"max_new_token":  "max-new-tokens",
		"maxnewtokens":   "max-new-tokens",
		"max-tokens":     "max-new-tokens",
		"TOP_K":          "top-k",
		"promt-column":   "prompt-column",
		"tpo-k":          "top-k", // two letters swapped
		"mdoel":          "model",
		"x":              "", // one letter is not near to another
		"something-else": "",
		"":               "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q: nearest %q, want %q", word, got, want)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// byDefinition tries every way to edit a into b: exponential, and nothing of distance in it.
func byDefinition(a, b string) int {
	switch {
	case a == "":
		return len(b)
	case b == "":
		return len(a)
	}
	changed := byDefinition(a[1:], b[1:])
	if a[0] != b[0] {
		changed++
	}
	d := min(changed, byDefinition(a[1:], b)+1, byDefinition(a, b[1:])+1)
	if len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] {
		d = min(d, byDefinition(a[2:], b[2:])+1)
	}
	return d
}

func TestDistance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[abc]{0,6}`)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		if got, want := distance(a, b), byDefinition(a, b); got != want {
			t.Fatalf("%q to %q: %d, want %d", a, b, got, want)
		}
	})
}
