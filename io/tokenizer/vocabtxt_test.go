package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bertFolder makes a family's older form: vocab.txt, with the lines' ends given, and the configs.
func bertFolder(t *testing.T, family, end string, configs ...string) string {
	t.Helper()
	tokens, from, dir := load(t, family), folder(t, family), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vocab.txt"), []byte(strings.Join(tokens.names, end)+end), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range configs {
		if err := os.Link(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestVocabText(t *testing.T) {
	for _, family := range []string{"bert-uncased", "bert-cased"} {
		tokens, err := Load(bertFolder(t, family, "\n", "tokenizer_config.json", "special_tokens_map.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers(t, family, "text") {
			checkText(t, tokens, a)
		}
		for _, a := range answers(t, family, "pair") {
			ids, segments, err := tokens.EncodePair(a.Text, a.TextPair)
			if err != nil || !slices.Equal(ids, a.Special) || !slices.Equal(segments, a.Segments) {
				t.Errorf("%s: %q, %q: %v, ids %v segments %v", family, a.Text, a.TextPair, err, ids, segments)
			}
		}
	}
	// Without a config the defaults are BERT's, which are uncased.
	plain, err := Load(bertFolder(t, "bert-uncased", "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers(t, "bert-uncased", "text") {
		checkText(t, plain, a)
	}
	if plain.Digest() == load(t, "bert-uncased").Digest() {
		t.Error("the digest does not tell the two forms apart")
	}
}

// TestBertClass: transformers' classes set the switches of BERT's normalizer from the config, whatever tokenizer.json says.
func TestBertClass(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(folder(t, "bert-cased"), "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{}`: "[CLS] A é [SEP]",
		`{"tokenizer_class": "BertTokenizer", "do_lower_case": false}`:                        "[CLS] A é [SEP]",
		`{"tokenizer_class": "BertTokenizer"}`:                                                "[CLS] a e [SEP]",
		`{"tokenizer_class": "DistilBertTokenizerFast", "strip_accents": false}`:              "[CLS] a é [SEP]",
		`{"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true}`:               "[CLS] A é [SEP]",
		`{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "strip_accents": true}`: "[CLS] A e [SEP]",
	} {
		dir := t.TempDir()
		for name, content := range map[string][]byte{"tokenizer.json": raw, "tokenizer_config.json": []byte(config)} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		tokens, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := tokens.Encode("A é", true)
		if got := tokens.Decode(ids, false); err != nil || got != want {
			t.Errorf("%s: %v, %q, want %q", config, err, got, want)
		}
	}
}

func TestVocabTextRefused(t *testing.T) {
	for _, c := range []struct{ vocab, config, want string }{
		{"[UNK]\na\n", `{"tokenizer_class": "RobertaTokenizer"}`, "tokenizer_class: RobertaTokenizer with vocab.txt alone is not supported"},
		{"[CLS]\na\n", `{}`, `vocab.txt: unk_token: "[UNK]" is not in the vocabulary`},
		{"", `{}`, `unk_token: "[UNK]" is not in the vocabulary`},
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{"vocab.txt": c.vocab, "tokenizer_config.json": c.config} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %s: %v, want %q", c.vocab, c.config, err, c.want)
		}
	}
}
