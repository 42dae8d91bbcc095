package tokenizer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEncodeWithin: a text or a pair in every room there may be, against longest_first by its definition, a token at a time.
func TestEncodeWithin(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vocab.txt"), []byte("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\nf\ng\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	of := func(letters string) (ids []int32) {
		for _, c := range strings.ReplaceAll(letters, " ", "") {
			ids = append(ids, 5+c-'a')
		}
		return ids
	}
	for _, texts := range [][]string{{"a b c d e"}, {""}, {"a b c d e f g", "g f"}, {"a b", "g f e d c b a"}, {"a b c d", "g f e d"}, {"a b c d e", "g f e"}, {"a b c", ""}, {"", "a b c"}} {
		for most := len(texts) + 1; most < 14; most++ {
			parts := [2][]int32{of(texts[0])}
			if len(texts) > 1 {
				parts[1] = of(texts[1])
			}
			for len(parts[0])+len(parts[1])+len(texts)+1 > most { // of two as long, the one that was shorter, or the first
				gives := 0
				if len(parts[1]) > len(parts[0]) || len(parts[1]) == len(parts[0]) && len(of(texts[1])) < len(of(texts[0])) {
					gives = 1
				}
				parts[gives] = parts[gives][:len(parts[gives])-1]
			}
			want := slices.Concat([]int32{2}, parts[0], []int32{3})
			kinds := make([]int32, len(want))
			if len(texts) > 1 {
				want = slices.Concat(want, parts[1], []int32{3})
				for len(kinds) < len(want) {
					kinds = append(kinds, 1)
				}
			}
			ids, segments, err := tokens.EncodeWithin(most, texts...)
			if got := fmt.Sprint(ids, segments, err); got != fmt.Sprint(want, kinds, error(nil)) {
				t.Errorf("%q in %d: %s, want %v", texts, most, got, want)
			}
		}
	}
}
