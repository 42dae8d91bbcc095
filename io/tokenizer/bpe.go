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
	bytes     [256]int32       // the symbol of each byte, or -1: by byte-level's characters, else by <0xNN>
	wholes    map[string]int32 // pieces that are taken whole, without merging (ignore_merges)
	merges    mergeTable

	unknown  int32 // the symbol of a character without one, or -1: it is left out
	fuse     bool  // unknown characters in a row are one symbol
	fallback bool  // a character without a symbol becomes its bytes' <0xNN>

	prefix, suffix string // of the symbols behind the first, of the last
	mark           string // a piece can be cut before each run of it, the merges being what they are; "": it cannot

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
	}
	if err := checkIDs(f.Vocab); err != nil {
		return nil, err
	}
	if affix := f.Prefix != nil && *f.Prefix != "" || f.Suffix != nil && *f.Suffix != ""; affix && f.ByteFallback {
		return nil, errors.New("byte_fallback: is not supported together with continuing_subword_prefix or end_of_word_suffix")
	}
	m := &bpe{vocab: f.Vocab, unknown: -1, fuse: f.Fuse, fallback: f.ByteFallback, cache: newCache()}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	if f.Suffix != nil {
		m.suffix = *f.Suffix
	}
	m.byteLevel = byteLevel && m.prefix == "" && m.suffix == ""
	if f.Unknown != nil {
		id, ok := f.Vocab[*f.Unknown]
		if !ok {
			return nil, fmt.Errorf("unk_token: %q is not in the vocabulary", *f.Unknown)
		}
		m.unknown = id
	}
	for b := range m.bytes {
		if !m.byteLevel {
			m.bytes[b] = m.symbol(fmt.Sprintf("<0x%02X>", b))
			continue
		}
		m.bytes[b] = m.symbol(string(byteRune(byte(b))))
		if m.fallback && m.bytes[b] < 0 {
			return nil, fmt.Errorf("byte_fallback: with ByteLevel every byte needs a piece, and %q is missing", byteRune(byte(b)))
		}
	}
	if f.IgnoreMerges {
		m.wholes = f.Vocab
		if m.byteLevel {
			m.wholes = inBytes(f.Vocab)
		}
	}
	if err := m.readMerges(f.Merges); err != nil {
		return nil, err
	}
	if m.prefix == "" && m.suffix == "" && m.symbol(spaceMark) >= 0 && !m.joinsBefore(spaceMark, f.Merges) {
		m.mark = spaceMark
	}
	return m, nil
}

// spaceMark is how SentencePiece's vocabularies write a space.
const spaceMark = "▁"

// joinsBefore tells whether a merge joins something else with a mark behind it. If none does, no piece of the text goes
// beyond a mark's begin, and each word with the marks before it is merged as if it stood alone.
func (m *bpe) joinsBefore(mark string, list mergeList) bool {
	for _, pair := range list {
		if strings.HasPrefix(pair[1], mark) && !strings.HasSuffix(pair[0], mark) {
			return true
		}
	}
	return false
}

func (m *bpe) readMerges(list mergeList) error {
	m.merges = newMergeTable(len(list))
	for rank, pair := range list {
		tail, ok := strings.CutPrefix(pair[1], m.prefix)
		if !ok {
			return fmt.Errorf("merges[%d]: %q does not begin with %q, the continuing_subword_prefix", rank, pair[1], m.prefix)
		}
		var ids [3]int32
		for i, piece := range []string{pair[0], pair[1], pair[0] + tail} {
			id, ok := m.vocab[piece]
			if !ok || piece == "" {
				return fmt.Errorf("merges[%d]: %q and %q make %q; the vocabulary has no %q", rank, pair[0], pair[1], pair[0]+tail, piece)
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

func (m *bpe) append(ids []int32, piece string) (_ []int32, err error) {
	if m.wholes != nil {
		if id, ok := m.wholes[piece]; ok {
			return append(ids, id), nil
		}
	}
	for m.mark != "" {
		marks := 0 // bytes
		for strings.HasPrefix(piece[marks:], m.mark) {
			marks += len(m.mark)
		}
		word := strings.Index(piece[marks:], m.mark)
		if word < 0 {
			break
		}
		if ids, err = m.cache.append(ids, piece[:marks+word], m); err != nil {
			return nil, err
		}
		piece = piece[marks+word:]
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
//
// As in the reference, an unknown token is put down when the next known character comes, or the next unknown one that is
// not fused with it; the bytes of a character that falls back do not count, and so come before it.
func (m *bpe) symbols(dst []int32, piece string) []int32 {
	unknown := false // there is one to be put down
	for i := 0; i < len(piece); {
		id, size := m.symbolAt(piece, i)
		char := piece[i : i+size]
		i += size
		if id >= 0 {
			if unknown {
				dst, unknown = append(dst, m.unknown), false
			}
			dst = append(dst, id)
			continue
		}
		if m.fallback {
			if bytes, ok := m.fallBack(dst, char); ok {
				dst = bytes
				continue
			}
		}
		if m.unknown >= 0 {
			if unknown && !m.fuse {
				dst = append(dst, m.unknown)
			}
			unknown = true
		}
	}
	if unknown {
		dst = append(dst, m.unknown)
	}
	return dst
}

// symbolAt gives the symbol, or -1, and the size of what begins at piece[i]: a byte or a character.
func (m *bpe) symbolAt(piece string, i int) (id int32, size int) {
	if m.byteLevel {
		return m.bytes[piece[i]], 1
	}
	_, size = utf8.DecodeRuneInString(piece[i:])
	char := piece[i : i+size]
	if i > 0 {
		char = m.prefix + char
	}
	if i+size == len(piece) {
		char += m.suffix
	}
	return m.symbol(char), size
}

// fallBack appends a character's bytes as <0xNN> each; ok is false where the vocabulary lacks one of them.
func (m *bpe) fallBack(dst []int32, char string) (_ []int32, ok bool) {
	whole := dst
	for i := range len(char) {
		id := m.bytes[char[i]]
		if id < 0 {
			return whole, false
		}
		dst = append(dst, id)
	}
	return dst, true
}
