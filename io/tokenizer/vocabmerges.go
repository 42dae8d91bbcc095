package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// loadVocabMerges reads the form before tokenizer.json: vocab.json and merges.txt (in Megatron's folders
// gpt2-vocab.json and gpt2-merges.txt), added_tokens.json where there is one. The pipeline is GPT-2's.
func loadVocabMerges(dir string, c config) (*Tokenizer, error) {
	for _, prefix := range []string{"", "gpt2-"} {
		vocab, merges := filepath.Join(dir, prefix+"vocab.json"), filepath.Join(dir, prefix+"merges.txt")
		if _, err := os.Stat(vocab); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return readVocabMerges(vocab, merges, filepath.Join(dir, "added_tokens.json"), c)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return nil, fmt.Errorf("%s: %w: it holds none of tokenizer.json, vocab.txt, tokenizer.model, and vocab.json with merges.txt", dir, ErrMissing)
}

func readVocabMerges(vocabPath, mergesPath, addedPath string, c config) (*Tokenizer, error) {
	switch class := strings.TrimSuffix(c.Class, "Fast"); class {
	case "", "GPT2Tokenizer":
	default:
		return nil, fmt.Errorf("%s: tokenizer_class: %s without tokenizer.json is not supported; save the folder with tokenizer.json", c.path, c.Class)
	}
	rawVocab, err := os.ReadFile(vocabPath)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	rawMerges, err := os.ReadFile(mergesPath)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	var file bpeFile
	if err := readJSON(rawVocab, &file.Vocab); err != nil {
		return nil, fmt.Errorf("%s: %w", vocabPath, err)
	}
	if file.Merges, err = mergeLines(string(rawMerges)); err != nil {
		return nil, fmt.Errorf("%s: %w", mergesPath, err)
	}
	model, err := newBPE(file, true)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", vocabPath, filepath.Base(mergesPath), err)
	}
	var more map[string]int64
	if err := readFile(addedPath, &more); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	t := &Tokenizer{eos: -1, model: model, template: plain(), decoder: byteLevelDecoder{}}
	prefix := c.AddPrefixSpace != nil && *c.AddPrefixSpace
	if prefix {
		t.steps = append(t.steps, spaceBefore{})
	}
	t.steps = append(t.steps, split{pattern: scanner{gpt2At}})
	added := c.addedTokens(file.Vocab, more)
	if err := t.addTokens(added); err != nil {
		return nil, fmt.Errorf("%s: added token %w", addedPath, err)
	}
	for content, want := range more {
		if id, _ := t.ID(content); int64(id) != want {
			return nil, fmt.Errorf("%s: %q has the id %d, where %d follows the vocabulary", addedPath, content, want, id)
		}
	}
	if id, ok := t.ID(gpt2End); ok {
		t.eos = id
	}
	if c.AddBOS != nil && *c.AddBOS {
		id, ok := t.ID(c.bos())
		if !ok {
			return nil, fmt.Errorf("%s: add_bos_token is true, but the vocabulary has no %q", c.path, c.bos())
		}
		bos := templatePart{-1, []int32{id}, 0}
		t.template.single = append([]templatePart{bos}, t.template.single...)
		t.template.pair = append([]templatePart{bos}, t.template.pair...)
	}
	settings, err := json.Marshal(struct {
		Added  []addedToken
		Prefix bool
		BOS    []templatePart
	}{added, prefix, t.template.single})
	if err != nil {
		return nil, err
	}
	t.digest = digest(rawVocab, rawMerges, settings)
	return t, nil
}

// mergeLines reads merges.txt: a line a merge, best first, behind a line that names the version.
func mergeLines(text string) (mergeList, error) {
	list := mergeList{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || i == 0 && strings.HasPrefix(line, "#version") {
			continue
		}
		a, b, ok := strings.Cut(line, " ")
		if !ok || a == "" || b == "" || strings.Contains(b, " ") {
			return nil, fmt.Errorf("line %d: %q is not two pieces with a space between", i+1, line)
		}
		list = append(list, [2]string{a, b})
	}
	return list, nil
}
