package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestAddedTokens has what testdata/added-flags leaves out; the answers are those of tokenizers 0.22.2.
func TestAddedTokens(t *testing.T) {
	// The model knows a, b and =; what it does not know is left out. Added tokens begin at 3.
	const file = `{"added_tokens": [%s], "normalizer": {"type": "NFC"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "=": 2}, "merges": []}}`
	for _, c := range []struct {
		tokens, text string
		want         []int32
	}{
		// white space that one token has taken is not found again by a token that strips
		{`{"content": "=", "rstrip": true}, {"content": "  ", "lstrip": true}`, "a=  b  a", []int32{0, 2, 1, 3, 0}},
		{`{"content": "=", "rstrip": true}, {"content": "  "}`, "a=  b  a", []int32{0, 2, 3, 1, 3, 0}},
		// two that are alike when normalized: the first one, a special one before others
		{`{"content": "é", "normalized": true}, {"content": "e\u0301", "normalized": true}`, "aé", []int32{0, 3}},
		{`{"content": "é", "normalized": true}, {"content": "e\u0301", "normalized": true, "special": true}`, "aé", []int32{0, 4}},
		// the longest at the leftmost place, the search going on behind it even where it does not count
		{`{"content": "ab"}, {"content": "abab", "single_word": true}`, "ababab abab", []int32{0, 1, 0, 1, 3, 4}},
		// a word's characters: digits, joiners and connectors are
		{`{"content": "b", "single_word": true}`, "b1 b_ b\u200d b- -b b\U00010D40 b\U00010D4A", []int32{1, 1, 1, 1, 1, 1, 1}},
		// a token listed twice is one, an empty one none
		{`{"content": "x"}, {"content": ""}, {"content": "x", "special": true}, {"content": "y"}`, "xy", []int32{3, 4}},
	} {
		tokens, err := parse([]byte(strings.Replace(file, "%s", c.tokens, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tokens.Encode(c.text, false); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q: %v, %v, want %v", c.tokens, c.text, err, got, c.want)
		}
	}
}

// TestUnicode16 has characters that Go's tables do not know yet.
func TestUnicode16(t *testing.T) {
	const letters, digits, sign = "\U00010D4A\U000105C0", "\U00010D40\U0001CCF0", "\U0001FAE9"
	text := "a" + letters + digits + sign
	for regex, want := range map[string][]string{
		llama3Regex:    {"a" + letters, digits, sign},
		`\d+`:          {"a" + letters, digits, sign},
		`\w+`:          {"a" + letters + digits, sign},
		`\p{So}|\p{S}`: {"a" + letters + digits, sign},
	} {
		p, err := compileRegex(regex)
		if err != nil {
			t.Fatal(err)
		}
		if got := piecesOf(t, p, text); !slices.Equal(got, want) {
			t.Errorf("%s: %s, want %s", regex, fmt.Sprintf("%+q", got), fmt.Sprintf("%+q", want))
		}
	}
}
