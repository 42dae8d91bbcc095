// Package tokenizer turns text into the ids that a model was trained on and back, exactly as the tokenizer.json of
// its folder says.
//
// A text is normalized, cut at added tokens, cut into pieces by the pre-tokenizer, each piece turned into ids by the
// model, and special tokens are put around by the post-processor; the decoder goes the other way. Each of these
// parts is one interface with one file a kind. The words are those of Hugging Face's tokenizers library, which is
// the reference: testdata holds its answers. The package knows no model and no file but the tokenizer's own.
package tokenizer

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Tokenizer is one pipeline. It is safe for concurrent use.
type Tokenizer struct {
	pieces  []string         // by id; "" where an id is nobody's
	ids     map[string]int32 // of the model's pieces
	added   map[string]int32 // of the added tokens, which win
	special []bool           // by id

	raw, normalized *finder // of added tokens in the text as it came, and in the normalized text
	normalizers     []normalizer
	steps           []step
	model           model
	template        template
	decoder         decoder
	digest          [32]byte
}

// Encode gives the ids of text, in which added tokens are recognised. With special, the tokens that the
// post-processor puts around a text are there too. Text that is not UTF-8 is an error that names the byte.
func (t *Tokenizer) Encode(text string, special bool) ([]int32, error) {
	if !special {
		return t.encode(nil, text)
	}
	return t.fill(t.template.single, nil, text)
}

// EncodePair gives the ids of two texts as the post-processor joins them, and the segment (token type, 0 or 1) of
// each id.
func (t *Tokenizer) EncodePair(first, second string) (ids, segments []int32, err error) {
	ids, err = t.fill(t.template.pair, &segments, first, second)
	return ids, segments, err
}

func (t *Tokenizer) fill(parts []templatePart, segments *[]int32, texts ...string) (ids []int32, err error) {
	for _, p := range parts {
		if p.text < 0 {
			ids = append(ids, p.special...)
		} else if ids, err = t.encode(ids, texts[p.text]); err != nil {
			return nil, err
		}
		for segments != nil && len(*segments) < len(ids) {
			*segments = append(*segments, p.segment)
		}
	}
	return ids, nil
}

func (t *Tokenizer) encode(ids []int32, text string) ([]int32, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("byte %d of the text is not UTF-8", invalidAt(text))
	}
	ids = slices.Grow(ids, len(text)/4+8)
	piece := func(piece string) (err error) {
		ids, err = t.model.append(ids, piece)
		return err
	}
	for i := len(t.steps) - 1; i >= 0; i-- {
		step, next := t.steps[i], piece
		piece = func(text string) error { return step.split(text, next) }
	}
	normalized := func(part string, id int32) error {
		if id >= 0 {
			ids = append(ids, id)
			return nil
		}
		return piece(part)
	}
	err := t.raw.cut(text, func(part string, id int32) error {
		if id >= 0 {
			ids = append(ids, id)
			return nil
		}
		return t.normalized.cut(t.normalize(part), normalized)
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

func (t *Tokenizer) normalize(text string) string {
	for _, n := range t.normalizers {
		text = n.normalize(text)
	}
	return text
}

func invalidAt(text string) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(text)
}

// Decode gives the text of ids, without special tokens if skipSpecial is set. Bytes that are not UTF-8 become
// U+FFFD; an id that is no token is left out.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	decoding := t.decoder.start()
	text := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		text = t.push(text, decoding, id, skipSpecial)
	}
	return string(decoding.flush(text))
}

func (t *Tokenizer) push(dst []byte, d decoding, id int32, skipSpecial bool) []byte {
	piece, ok := t.Token(id)
	if !ok || skipSpecial && t.special[id] {
		return dst
	}
	return d.push(dst, piece)
}

// Size is 1 + the largest id.
func (t *Tokenizer) Size() int { return len(t.pieces) }

// ID gives the id of a token as the vocabulary writes it ("Ġthe" for " the", where the vocabulary is byte-level).
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.added[token]
	if !ok {
		id, ok = t.ids[token]
	}
	return id, ok
}

// Token is ID's inverse.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.pieces) {
		return "", false
	}
	token := t.pieces[id]
	if token == "" {
		known, ok := t.ID("")
		return "", ok && known == id
	}
	return token, true
}

// Special tells whether id is a special token, which a decoding can skip.
func (t *Tokenizer) Special(id int32) bool {
	return id >= 0 && int(id) < len(t.special) && t.special[id]
}

// Digest is a SHA-256 of all that fixes the pipeline: equal digests mean equal ids and texts.
func (t *Tokenizer) Digest() [32]byte { return t.digest }
