package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/io/tokenizer"
)

// byteFallback is a folder with a tokenizer as LLaMA-2's: bytes of characters that the vocabulary lacks are pieces.
func byteFallback(t *testing.T) string {
	t.Helper()
	vocab := []string{`"<unk>":0`, `"<s>":1`, `"</s>":2`}
	for b := range 256 {
		vocab = append(vocab, fmt.Sprintf(`"<0x%02X>":%d`, b, 3+b))
	}
	for _, piece := range []string{"▁", "a", "b", "▁a", "END"} {
		vocab = append(vocab, fmt.Sprintf(`"%s":%d`, piece, len(vocab)))
	}
	dir := t.TempDir()
	text := `{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
		"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
		"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{` + strings.Join(vocab, ",") + `},"merges":["▁ a"]}}`
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestStopText: a row ends with the token whose text, decoded up to there, has a stop string first.
func TestStopText(t *testing.T) {
	tokens, err := tokenizer.Load(byteFallback(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pieces, stops, text string // pieces before a | end nothing
		last                int    // the token that ends the row; -1: none
	}{
		{"▁a END b | END ▁a", "END", "aENDb", 3},
		{"▁a b | a b", "b", "aba", 3},
		{"▁a END b | END ▁a", "aEND|bEN", "aEND", 3},
		{"▁a END b | b END", "bE|END|ENDbbENX", "aENDb", 4}, // a longer one makes the text looked at reach back
		{"▁a END | b END", "NDb|END", "aE", 2},              // begins before, ends behind
		{"▁a END b |", "END", "", -1},
		{"▁a b <0x0A> ▁a", "\n", "ab", 2},    // a byte run of which more may come
		{"▁a <0xC3> <0xA9> b", "é", "a", 2},  // a character in two bytes
		{"▁a <0xC3> <0xA9> b", "éb", "a", 3}, // across the run's end
		{"▁a <0x0A> <0x0A> b", "\n\n", "a", 2},
		{"▁a <0x62> <0x0A> b", "\n", "ab", 2}, // within a run
		{"▁a <0x0A> <0xFF> b", "\n", "a", 1},  // before the run is known to be broken
		{"▁a <0xFF> <0x0A> b", "\n", "", -1},  // after
		{"▁a b", " a", "", -1},                // the text's first space is none of it
		{"▁a ▁a b", "aEND| a", "a", 1},
		{"▁a END b", "END", "a", 1},
		{"▁a END b", "ENDb|aEND", "", 1},
	} {
		s := watch(tokens, strings.Split(c.stops, "|"))
		last, text := -1, ""
		early, rest, cut := strings.Cut(c.pieces, "|")
		if !cut {
			early, rest = "", early
		}
		passed := len(strings.Fields(early))
		for i, piece := range strings.Fields(early + rest) {
			id, ok := tokens.ID(piece)
			if !ok {
				t.Fatalf("no piece %q", piece)
			}
			if i < passed {
				s.pass(id)
			} else if cut := s.push(id); cut >= 0 {
				last, text = i, s.text.String()[:cut]
				break
			}
		}
		if last != c.last || text != c.text {
			t.Errorf("%s, stop at %q: ended by token %d with %q, want %d and %q", c.pieces, c.stops, last, text, c.last, c.text)
		}
	}
}
