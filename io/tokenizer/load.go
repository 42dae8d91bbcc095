package tokenizer

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// ErrMissing is Load's error for a folder without a tokenizer.
var ErrMissing = errors.New("no tokenizer")

// Load reads the tokenizer of a model folder: tokenizer.json, or else vocab.txt (BERT), tokenizer.model (LLaMA),
// or vocab.json and merges.txt (as GPT-2 and Megatron have them); tokenizer_config.json beside them is obeyed where transformers obeys it. Errors name file and
// field; without any of the files the error wraps ErrMissing.
func Load(dir string) (*Tokenizer, error) {
	config, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	t, err := loadPipeline(filepath.Join(dir, "tokenizer.json"), config)
	if errors.Is(err, fs.ErrNotExist) {
		t, err = loadVocabText(dir, config)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t, err = loadSentencePiece(dir, config)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t, err = loadVocabMerges(dir, config)
	}
	if err != nil {
		return nil, err
	}
	if config.EOS != nil {
		if id, ok := t.ID(config.EOS.Content); ok {
			t.eos = id
		}
	}
	return t, nil
}

func loadPipeline(path string, c config) (*Tokenizer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t, err := parseAs(raw, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, c.putBOS(t)
}

// parse builds the pipeline of a tokenizer.json alone.
func parse(raw []byte) (*Tokenizer, error) { return parseAs(raw, config{}) }

// parseAs changes the normalizer where the config's class does.
func parseAs(raw []byte, c config) (*Tokenizer, error) {
	var p pipeline
	if err := readJSON(raw, &p); err != nil {
		return nil, err
	}
	pre, err := readPreTokenizer(p.PreTokenizer)
	if err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	t := &Tokenizer{steps: pre.steps, eos: -1}
	if t.normalizers, err = readNormalizer(p.Normalizer); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	c.obeyBert(t.normalizers)
	if t.model, err = readModel(p.Model, pre.byteLevel); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if bytes, ok := t.model.(*bpe); pre.byteLevel && !(ok && bytes.byteLevel) {
		t.steps = append(t.steps, toByteCharacters{})
	}
	var added []addedToken
	if !isNull(p.AddedTokens) {
		if err := readJSON(p.AddedTokens, &added); err != nil {
			return nil, fmt.Errorf("added_tokens: %w", err)
		}
	}
	if err := t.addTokens(added); err != nil {
		return nil, fmt.Errorf("added_tokens%w", err)
	}
	if t.template, err = readTemplate(p.PostProcessor, t.Size()); err != nil {
		return nil, fmt.Errorf("post_processor: %w", err)
	}
	if t.decoder, err = readDecoder(p.Decoder); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	t.digest = digest(p.AddedTokens, p.Normalizer, p.PreTokenizer, p.PostProcessor, p.Decoder, p.Model)
	if len(t.normalizers) == 1 {
		if n, ok := t.normalizers[0].(bertNormalizer); ok {
			t.digest = digest(t.digest[:], fmt.Append(nil, n))
		}
	}
	return t, nil
}

// addTokens fills in what the ids are called, and what is sought in a text before it is cut into pieces.
//
// As in the reference, an added token has the id of its content in the model's vocabulary; one that is new has the
// id behind the vocabulary's size and behind the tokens added before it. The id written beside it does not count:
// in good files it is the same, and where files are wrong models were trained with what the reference made of them.
func (t *Tokenizer) addTokens(added []addedToken) error {
	t.ids, t.added = t.model.vocabulary(), map[string]int32{}
	next := int32(len(t.ids))
	var seek [2][2][]addedToken // [normalized][not special]: special ones are found first
	for i, token := range added {
		if token.ID < 0 || token.ID > largestID {
			return fmt.Errorf("[%d]: %q has the id %d, outside 0 to %d", i, token.Content, token.ID, largestID)
		}
		if _, again := t.added[token.Content]; again || token.Content == "" {
			continue
		}
		id, ok := t.ids[token.Content]
		if !ok {
			id = next
		}
		next = max(next, id+1)
		t.added[token.Content], token.ID = id, int64(id)
		list := &seek[index(token.Normalized)][index(!token.Special)]
		*list = append(*list, token)
	}
	var err error
	if t.raw, err = newFinder(append(seek[0][0], seek[0][1]...), func(s string) (string, error) { return s, nil }); err != nil {
		return err
	}
	if t.normalized, err = newFinder(append(seek[1][0], seek[1][1]...), t.normalize); err != nil {
		return fmt.Errorf(": %w", err)
	}

	for _, names := range []map[string]int32{t.ids, t.added} { // added tokens last: they win an id that both have
		for piece, id := range names {
			if grow := int(id) + 1 - len(t.names); grow > 0 {
				t.names = append(t.names, make([]string, grow)...)
			}
			t.names[id] = piece
		}
	}
	t.special = make([]bool, len(t.names))
	for _, token := range slices.Concat(seek[0][0], seek[1][0]) {
		t.special[token.ID] = true
	}
	return nil
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// digest hashes the parts of a pipeline, each behind its length.
func digest(parts ...[]byte) (sum [32]byte) {
	h := sha256.New()
	for _, part := range parts {
		var length [8]byte
		binary.LittleEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return [32]byte(h.Sum(sum[:0]))
}
