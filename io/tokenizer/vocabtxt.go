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

// loadVocabText reads BERT's older form: vocab.txt, a piece a line, its id the line's number from 0; the switches of
// BERT's normalizer stand in tokenizer_config.json.
func loadVocabText(dir string, c config) (*Tokenizer, error) {
	path := filepath.Join(dir, "vocab.txt")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if c.Class != "" && !c.bertClass() {
		return nil, fmt.Errorf("%s: tokenizer_class: %s with vocab.txt alone is not supported; save the folder with tokenizer.json", c.path, c.Class)
	}
	file := wordPieceFile{Unknown: c.Unknown.or("[UNK]").Content, Prefix: "##", Longest: 100}
	if file.Vocab, err = vocabLines(string(raw)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m, err := newWordPiece(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var more map[string]int64
	addedPath := filepath.Join(dir, "added_tokens.json")
	if err := readFile(addedPath, &more); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bert := newBertNormalizer(c.bert(bertNormalizerFile{Clean: true}))
	t := &Tokenizer{eos: -1, model: m, normalizers: []normalizer{bert}}
	if t.steps, err = readSteps("BertPreTokenizer", nil); err != nil {
		return nil, err
	}
	t.decoder = chain{func() stage { return &wordPieceStage{prefix: file.Prefix, cleanup: true} }}
	added := c.listed(more, c.Unknown.or("[UNK]"), c.SEP.or("[SEP]"), c.Pad.or("[PAD]"), c.CLS.or("[CLS]"), c.Mask.or("[MASK]"))
	if err := t.addTokens(added); err != nil {
		return nil, fmt.Errorf("%s: added token %w", addedPath, err)
	}
	cls, _ := t.ID(c.CLS.or("[CLS]").Content)
	sep, _ := t.ID(c.SEP.or("[SEP]").Content)
	t.template = clsSep(templatePart{-1, []int32{cls}, 0}, templatePart{-1, []int32{sep}, 0}, false)
	settings, err := json.Marshal(struct {
		Added      []addedToken
		Normalizer string
		Template   []templatePart
	}{added, fmt.Sprint(bert), t.template.single})
	if err != nil {
		return nil, err
	}
	t.digest = digest(raw, settings)
	return t, nil
}

func vocabLines(text string) (map[string]int32, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) > largestID+1 {
		return nil, fmt.Errorf("%d pieces are more than %d", len(lines), largestID+1)
	}
	vocab := make(map[string]int32, len(lines))
	for i, piece := range lines {
		vocab[strings.TrimSuffix(piece, "\r")] = int32(i) // of a piece that stands there twice, the last id
	}
	return vocab, nil
}

// bertClass tells whether the class is BERT's or one that has its tokenizer.
func (c config) bertClass() bool {
	switch strings.TrimSuffix(strings.TrimSuffix(c.Class, "Fast"), "Tokenizer") {
	case "Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "Lxmert", "SqueezeBert", "RetriBert":
		return true
	}
	return false
}

// obeyBert changes a pipeline whose normalizer is BERT's alone.
func (c config) obeyBert(steps []normalizer) {
	if len(steps) != 1 || !c.bertClass() {
		return
	}
	if n, ok := steps[0].(bertNormalizer); ok {
		steps[0] = newBertNormalizer(c.bert(bertNormalizerFile{Clean: n.clean}))
	}
}

// bert sets the normalizer's switches as transformers does for these classes: what the config leaves out has BERT's
// default, whatever tokenizer.json says.
func (c config) bert(f bertNormalizerFile) bertNormalizerFile {
	f.Lower = c.Lower == nil || *c.Lower
	f.Chinese = c.Chinese == nil || *c.Chinese
	f.Strip = c.StripAccents
	return f
}
