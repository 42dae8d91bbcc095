package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// bpe is byte pair encoding: a piece's symbols (its characters, or its bytes where the vocabulary is byte-level) are
// joined two by two, always the pair that the training learned first, the leftmost of those alike.
type bpe struct {
	vocab     map[string]int32
	byteLevel bool
	bytes     [256]int32       // byte-level: the symbol of each byte, or -1
	wholes    map[string]int32 // pieces that are taken whole, without merging (ignore_merges)
	merges    mergeTable

	unknown  int32 // the symbol of a character without one, or -1: it is left out
	fuse     bool  // unknown characters in a row are one symbol
	fallback bool  // a character without a symbol becomes its bytes' <0xNN>

	cache *cache
}

type bpeFile struct {
	Dropout      *float64         `json:"dropout"`
	Unknown      *string          `json:"unk_token"`
	Prefix       *string          `json:"continuing_subword_prefix"`
	Suffix       *string          `json:"end_of_word_suffix"`
	Fuse         bool             `json:"fuse_unk"`
	ByteFallback bool             `json:"byte_fallback"`
	IgnoreMerges bool             `json:"ignore_merges"`
	Vocab        map[string]int32 `json:"vocab"`
	Merges       mergeList        `json:"merges"`
}

// mergeList is merges, best first: each ["a","b"] or, in the older form, "a b".
type mergeList [][2]string

func (m *mergeList) UnmarshalJSON(raw []byte) error {
	older := strings.HasPrefix(strings.TrimLeft(string(raw[1:min(len(raw), 64)]), " \t\r\n"), `"`)
	if !older {
		var lists [][3]string // one more than there may be, since what is too long is cut without a word
		if err := json.Unmarshal(raw, &lists); err != nil {
			return err
		}
		*m = make(mergeList, len(lists))
		for i, list := range lists {
			if list[2] != "" {
				return fmt.Errorf("merges[%d]: %q is more than two pieces", i, list)
			}
			(*m)[i] = [2]string(list[:2])
		}
		return nil
	}
	var lines []string
	if err := json.Unmarshal(raw, &lines); err != nil {
		return err
	}
	*m = make(mergeList, len(lines))
	for i, line := range lines {
		a, b, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(b, " ") {
			return fmt.Errorf("merges[%d]: %q is not two pieces with a space between", i, line)
		}
		(*m)[i] = [2]string{a, b}
	}
	return nil
}

func readBPE(raw json.RawMessage, byteLevel bool) (*bpe, error) {
	var f bpeFile
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return newBPE(f, byteLevel)
}

func newBPE(f bpeFile, byteLevel bool) (*bpe, error) {
	switch {
	case f.Vocab == nil:
		return nil, errors.New("vocab: is missing")
	case f.Merges == nil:
		return nil, errors.New("merges: is missing")
	case f.Dropout != nil && *f.Dropout != 0:
		return nil, fmt.Errorf("dropout: %v would make the tokens of a text random; set it to null", *f.Dropout)
	case f.Prefix != nil && *f.Prefix != "":
		return nil, fmt.Errorf("continuing_subword_prefix: %q is not supported", *f.Prefix)
	case f.Suffix != nil && *f.Suffix != "":
		return nil, fmt.Errorf("end_of_word_suffix: %q is not supported", *f.Suffix)
	}
	if err := checkIDs(f.Vocab); err != nil {
		return nil, err
	}
	m := &bpe{vocab: f.Vocab, byteLevel: byteLevel, unknown: -1, fuse: f.Fuse, fallback: f.ByteFallback, cache: newCache()}
	if f.Unknown != nil {
		id, ok := f.Vocab[*f.Unknown]
		if !ok {
			return nil, fmt.Errorf("unk_token: %q is not in the vocabulary", *f.Unknown)
		}
		m.unknown = id
	}
	for b := range m.bytes {
		m.bytes[b] = m.symbol(string(byteRune(byte(b))))
		if byteLevel && m.fallback && m.bytes[b] < 0 {
			return nil, fmt.Errorf("byte_fallback: with ByteLevel every byte needs a piece, and %q is missing", byteRune(byte(b)))
		}
	}
	if f.IgnoreMerges {
		m.wholes = f.Vocab
		if byteLevel {
			m.wholes = inBytes(f.Vocab)
		}
	}
	return m, m.readMerges(f.Merges)
}

func (m *bpe) readMerges(list mergeList) error {
	m.merges = newMergeTable(len(list))
	for rank, pair := range list {
		var ids [3]int32
		for i, piece := range []string{pair[0], pair[1], pair[0] + pair[1]} {
			id, ok := m.vocab[piece]
			if !ok || piece == "" {
				return fmt.Errorf("merges[%d]: %q and %q make %q; the vocabulary has no %q", rank, pair[0], pair[1], pair[0]+pair[1], piece)
			}
			ids[i] = id
		}
		m.merges.put(ids[0], ids[1], merge{int32(rank), ids[2]})
	}
	return nil
}

// inBytes is the pieces of a byte-level vocabulary by the bytes that they stand for.
func inBytes(vocab map[string]int32) map[string]int32 {
	wholes := make(map[string]int32, len(vocab))
	var buffer []byte
	for piece, id := range vocab {
		if bytes, ok := appendBytes(buffer[:0], piece); ok {
			wholes[string(bytes)] = id
			buffer = bytes
		}
	}
	return wholes
}

func (m *bpe) vocabulary() map[string]int32 { return m.vocab }

func (m *bpe) symbol(piece string) int32 {
	if id, ok := m.vocab[piece]; ok {
		return id
	}
	return -1
}

func (m *bpe) append(ids []int32, piece string) ([]int32, error) {
	if m.wholes != nil {
		if id, ok := m.wholes[piece]; ok {
			return append(ids, id), nil
		}
	}
	return m.cache.append(ids, piece, m)
}

func (m *bpe) compute(ids []int32, piece string) ([]int32, error) {
	if len(piece) > fewSymbols {
		return m.merges.joinMany(ids, m.symbols(make([]int32, 0, len(piece)), piece)), nil
	}
	var buffer [fewSymbols]int32
	return m.merges.joinFew(ids, m.symbols(buffer[:0], piece)), nil
}

// symbols appends what merging starts from: at most one symbol a byte.
func (m *bpe) symbols(dst []int32, piece string) []int32 {
	unknown := false // the symbol before is the unknown one
	for i := 0; i < len(piece); {
		id, size := m.symbolAt(piece, i)
		char := piece[i : i+size]
		i += size
		if id < 0 && m.fallback {
			if bytes, ok := m.fallBack(dst, char); ok {
				dst, unknown = bytes, false
				continue
			}
		}
		if id < 0 {
			if m.unknown < 0 || unknown && m.fuse {
				continue
			}
			dst, unknown = append(dst, m.unknown), true
			continue
		}
		dst, unknown = append(dst, id), false
	}
	return dst
}

// symbolAt gives the symbol, or -1, and the size of what begins at piece[i]: a byte or a character.
func (m *bpe) symbolAt(piece string, i int) (id int32, size int) {
	if m.byteLevel {
		return m.bytes[piece[i]], 1
	}
	_, size = utf8.DecodeRuneInString(piece[i:])
	return m.symbol(piece[i : i+size]), size
}

// fallBack appends a character's bytes as <0xNN> each; ok is false where the vocabulary lacks one of them.
func (m *bpe) fallBack(dst []int32, char string) (_ []int32, ok bool) {
	whole := dst
	for i := range len(char) {
		id := m.symbol(fmt.Sprintf("<0x%02X>", char[i]))
		if id < 0 {
			return whole, false
		}
		dst = append(dst, id)
	}
	return dst, true
}
