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
	"sync"
	"unicode/utf8"
)

// Tokenizer is one pipeline. It is safe for concurrent use.
type Tokenizer struct {
	names   []string         // by id; "" where an id is nobody's
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
	eos             int32 // -1: not named

	rooms sync.Pool // of *room
}

// Encode gives the ids of text, in which added tokens are recognised. With special, the tokens that the
// post-processor puts around a text are there too. Text that is not UTF-8 is an error that names the byte.
func (t *Tokenizer) Encode(text string, special bool) ([]int32, error) {
	if !special {
		return t.encode(nil, text)
	}
	return t.fill(t.template.single, nil, func(ids []int32, _ int) ([]int32, error) { return t.encode(ids, text) })
}

// Behind is how many special tokens the post-processor puts behind a text.
func (t *Tokenizer) Behind() (n int) {
	parts := t.template.single
	for i := len(parts) - 1; i >= 0 && parts[i].text < 0; i-- {
		n += len(parts[i].special)
	}
	return n
}

// EncodePair gives the ids of two texts as the post-processor joins them, and the segment (token type, 0 or 1) of
// each id.
func (t *Tokenizer) EncodePair(first, second string) (ids, segments []int32, err error) {
	texts := [2]string{first, second}
	ids, err = t.fill(t.template.pair, &segments, func(ids []int32, which int) ([]int32, error) { return t.encode(ids, texts[which]) })
	return ids, segments, err
}

// fill puts special tokens around texts, whose ids add appends.
func (t *Tokenizer) fill(parts []templatePart, segments *[]int32, add func(ids []int32, which int) ([]int32, error)) (ids []int32, err error) {
	for _, p := range parts {
		if p.text < 0 {
			ids = append(ids, p.special...)
		} else if ids, err = add(ids, p.text); err != nil {
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
	r, _ := t.rooms.Get().(*room)
	if r == nil {
		r = new(room)
	}
	e := encoding{tokens: t, room: r, ids: slices.Grow(ids, len(text)/4+8), first: true}
	err := t.raw.cut(text, func(part string, id int32) error {
		if id >= 0 {
			return e.add(part, id)
		}
		part, err := t.normalize(part)
		if err == nil {
			err = t.normalized.cut(part, e.add)
		}
		e.first = false // were it that nothing is left of the part
		return err
	})
	t.rooms.Put(r)
	if err != nil {
		return nil, err
	}
	return e.ids, nil
}

// encoding is one call's state.
type encoding struct {
	tokens *Tokenizer
	*room
	ids   []int32
	first bool // nothing has been added yet
}

// room is what the steps work in; it is kept from call to call.
type room struct {
	pieces, next []string // what a step takes, and what it makes of it
	spans        []span
	begin        bool // what a step takes begins where the whole text does
}

// add appends an added token's id, or the ids of a text without added tokens.
func (e *encoding) add(text string, id int32) (err error) {
	first := e.first
	e.first = false
	if id >= 0 {
		e.ids = append(e.ids, id)
		return nil
	}
	e.pieces = append(e.pieces[:0], text)
	for _, step := range e.tokens.steps {
		e.next = e.next[:0]
		for i, piece := range e.pieces {
			e.begin = first && i == 0
			if e.next, err = step.split(e.next, piece, e.room); err != nil {
				return err
			}
			if i == 0 {
				first = e.begin && len(e.next) > 0
			}
		}
		clear(e.pieces) // so that the room, kept, does not keep the text
		e.pieces, e.next = e.next, e.pieces
	}
	for _, piece := range e.pieces {
		if e.ids, err = e.tokens.model.append(e.ids, piece); err != nil {
			return err
		}
	}
	clear(e.pieces)
	return nil
}

func (t *Tokenizer) normalize(text string) (_ string, err error) {
	for _, n := range t.normalizers {
		if text, err = n.normalize(text); err != nil {
			return "", err
		}
	}
	return text, nil
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
func (t *Tokenizer) Size() int { return len(t.names) }

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
	if id < 0 || int(id) >= len(t.names) {
		return "", false
	}
	token := t.names[id]
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

// EOS is the token that tokenizer_config.json or special_tokens_map.json calls eos_token (else GPT-2's, where there
// is no tokenizer.json); ok is false where none is named that the tokenizer has.
func (t *Tokenizer) EOS() (id int32, ok bool) { return t.eos, t.eos >= 0 }

// Digest is a SHA-256 of all that fixes the pipeline: equal digests mean equal ids and texts.
func (t *Tokenizer) Digest() [32]byte { return t.digest }
