package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// wordPiece is BERT's model: a piece is cut from the left into the longest strings of the vocabulary, those behind the
// first written there with a prefix ("##"). A piece that cannot be cut so, or is too long, is one unknown token.
type wordPiece struct {
	vocab       map[string]int32
	first, rest *prefixTree // of the strings; of those with the prefix, which is taken off
	unknown     int32
	longest     int // characters of a piece

	cache *cache
}

type wordPieceFile struct {
	Unknown string           `json:"unk_token"`
	Prefix  string           `json:"continuing_subword_prefix"`
	Longest int              `json:"max_input_chars_per_word"`
	Vocab   map[string]int32 `json:"vocab"`
}

func readWordPiece(raw json.RawMessage) (model, error) {
	f := wordPieceFile{Unknown: "[UNK]", Prefix: "##", Longest: 100}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return newWordPiece(f)
}

func newWordPiece(f wordPieceFile) (*wordPiece, error) {
	if f.Vocab == nil {
		return nil, errors.New("vocab: is missing")
	}
	if err := checkIDs(f.Vocab); err != nil {
		return nil, err
	}
	unknown, ok := f.Vocab[f.Unknown]
	if !ok {
		return nil, fmt.Errorf("unk_token: %q is not in the vocabulary", f.Unknown)
	}
	rest := make(map[string]int32, len(f.Vocab))
	for piece, id := range f.Vocab {
		if tail, ok := strings.CutPrefix(piece, f.Prefix); ok {
			rest[tail] = id
		}
	}
	first, err := newPrefixTree(f.Vocab)
	if err != nil {
		return nil, err
	}
	behind, err := newPrefixTree(rest)
	if err != nil {
		return nil, err
	}
	return &wordPiece{f.Vocab, first, behind, unknown, f.Longest, newCache()}, nil
}

func (m *wordPiece) vocabulary() map[string]int32 { return m.vocab }

func (m *wordPiece) append(ids []int32, piece string) ([]int32, error) {
	return m.cache.append(ids, piece, m)
}

func (m *wordPiece) compute(ids []int32, piece string) ([]int32, error) {
	if utf8.RuneCountInString(piece) > m.longest {
		return append(ids, m.unknown), nil
	}
	before, tree := len(ids), m.first
	for at := 0; at < len(piece); {
		id, size := tree.longest(piece[at:])
		if id < 0 {
			return append(ids[:before], m.unknown), nil
		}
		ids = append(ids, id)
		at += size
		tree = m.rest
	}
	return ids, nil
}

// wordLevel takes each piece whole.
type wordLevel struct {
	vocab   map[string]int32
	unknown int32
}

func readWordLevel(raw json.RawMessage) (model, error) {
	f := struct {
		Unknown string           `json:"unk_token"`
		Vocab   map[string]int32 `json:"vocab"`
	}{Unknown: "<unk>"}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if f.Vocab == nil {
		return nil, errors.New("vocab: is missing")
	}
	if err := checkIDs(f.Vocab); err != nil {
		return nil, err
	}
	unknown, ok := f.Vocab[f.Unknown]
	if !ok {
		return nil, fmt.Errorf("unk_token: %q is not in the vocabulary", f.Unknown)
	}
	return wordLevel{f.Vocab, unknown}, nil
}

func (m wordLevel) vocabulary() map[string]int32 { return m.vocab }

func (m wordLevel) append(ids []int32, piece string) ([]int32, error) {
	id, ok := m.vocab[piece]
	if !ok {
		id = m.unknown
	}
	return append(ids, id), nil
}
