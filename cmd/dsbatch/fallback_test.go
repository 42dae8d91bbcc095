package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fallbackModel is a random model of 160 ids with a tokenizer as LLaMA-2's: some bytes are pieces, the newline among them.
func fallbackModel(t *testing.T) string {
	t.Helper()
	pieces := []string{"<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "é", "▁b"}
	for b := 0x80; len(pieces) < 140; b++ {
		pieces = append(pieces, fmt.Sprintf("<0x%02X>", b))
	}
	for c := 'c'; len(pieces) < 160; c++ {
		pieces = append(pieces, string(c))
	}
	vocab := map[string]int{}
	for id, piece := range pieces {
		vocab[piece] = id
	}
	text, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "fallback")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(goldens, "mixtral"))); err != nil {
		t.Fatal(err)
	}
	pipeline := `{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
		"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
		"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":` + string(text) + `,"merges":["▁ a","▁ b"]}}`
	if err := os.WriteFile(filepath.Join(folder, "tokenizer.json"), []byte(pipeline), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// TestRunWithByteFallback: the output is what tokenize --decode makes of the ids, cut at the stop string, which the last id
// completes, though it may be one byte of a run. A prompt that gives no token is bad, by run and by score.
func TestRunWithByteFallback(t *testing.T) {
	folder, output := fallbackModel(t), filepath.Join(t.TempDir(), "out")
	var rows []string
	for i := range 40 {
		rows = append(rows, fmt.Sprintf(`{"prompt": "a b%s", "continuation": " a\u00e9"}`, strings.Repeat(" a", i%5)))
	}
	rows = append(rows, `{"prompt": "", "continuation": "a"}`)
	input := write(t, "rows.jsonl", strings.Join(rows, "\n"))
	dsbatch(t, job(output, "--model", folder, "--input", input, "--limit", "41", "--max-new-tokens", "12", "--temperature", "2", "--top-k", "0",
		"--ignore-eos", "--stop", "\n", "--stop", "a b")...).want(t, badRows)
	stopped := 0
	var asked, want []string
	for i, row := range head(t, output) {
		if i == 40 {
			if reason := fmt.Sprint(row["error"]); !strings.Contains(reason, "no token") {
				t.Errorf("the empty prompt: %s", reason)
			}
			continue
		}
		ids, err := json.Marshal(row["output_ids"])
		if err != nil {
			t.Fatal(err)
		}
		asked, want = append(asked, `{"skip_special": true, "ids": `+string(ids)+`}`), append(want, row["output"].(string))
		if row["finish_reason"] == "stop" {
			stopped++
		}
	}
	for i, answer := range lines(feed(t, strings.Join(asked, "\n"), "tokenize", "--decode", "--model", folder).want(t, done).stdout) {
		var decoded struct{ Text string }
		if err := json.Unmarshal([]byte(answer), &decoded); err != nil {
			t.Fatal(err)
		}
		cut := decoded.Text
		for _, stop := range []string{"\n", "a b"} {
			cut, _, _ = strings.Cut(cut, stop)
		}
		if cut != want[i] {
			t.Errorf("%s: %q decoded, output %q", asked[i], decoded.Text, want[i])
		}
	}
	if stopped == 0 {
		t.Error("no row was stopped, so nothing is shown")
	}
	scores := filepath.Join(t.TempDir(), "scores")
	dsbatch(t, "run", "--task", "score", "--model", folder, "--input", input, "--output", scores, "--continuation-column", "continuation", "--threads", "1").want(t, badRows)
	for i, row := range head(t, scores) {
		if i == 40 {
			if row["error"] == nil {
				t.Errorf("the empty prompt: %v", row)
			}
			continue
		}
		if row["tokens"] != 2.0 { // "▁a" and "é"
			t.Errorf("row %d: %v scored tokens, want 2 (%v)", i, row["tokens"], row["error"])
		}
	}
}

// TestTokenizeVocabText: BERT's vocab.txt alone.
func TestTokenizeVocabText(t *testing.T) {
	folder := filepath.Dir(write(t, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##llo\nhello\n!\n"))
	e := feed(t, `{"text": "Hello hello! zzz"}`+"\n"+`{"text": "", "special": false}`, "tokenize", "--model", folder).want(t, done)
	pair := feed(t, `{"text": "hello", "pair": "he !"}`+"\n"+`{"text": "hello", "pair": "he", "special": false}`+"\n"+`{"text": "hello", "pair": 1}`, "tokenize", "--model", folder).want(t, done)
	if want := "{\"ids\":[2,7,3,5,8,3],\"types\":[0,0,0,1,1,1]}\n{\"error\":\"special is false,"; !strings.HasPrefix(pair.stdout, want) || !strings.Contains(pair.stdout, `"pair is not a text"`) {
		t.Errorf("%s, want %s", pair.stdout, want)
	}
	back := feed(t, `{"ids": [2, 7, 9, -1, 9, 6]}`+"\n"+`{"ids": [7], "skip_special": true}`, "tokenize", "--decode", "--model", folder).want(t, done)
	if want := "{\"text\":\"[CLS] hellollo\",\"unknown\":[9,-1]}\n{\"text\":\"hello\"}\n"; back.stdout != want {
		t.Errorf("%s, want %s", back.stdout, want)
	}
	if want := "{\"ids\":[2,7,7,8,1,3]}\n{\"ids\":[]}\n"; e.stdout != want {
		t.Errorf("%s, want %s", e.stdout, want)
	}
}
