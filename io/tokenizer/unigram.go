package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"unicode/utf8"
)

// unigram is SentencePiece's language model of pieces: a text is cut into those whose scores (logarithms of their
// probabilities) have the largest sum. A character that is no piece costs as the worst piece and 10 more.
type unigram struct {
	vocab   map[string]int32
	tree    *prefixTree
	scores  []float64  // by id
	unknown int32      // the unknown piece, or -1: a text that needs one is an error
	penalty float64    // the score of an unknown character
	bytes   [256]int32 // <0xNN>, which unknown text becomes if all its bytes have one; -1: none, or no such fallback

	cache   *cache
	lattice sync.Pool // of *[]best
}

// best is the best way to come to a byte of the text: over the piece id, which begins at byte from.
type best struct {
	score float64
	from  int32 // -1: none yet
	id    int32
}

const (
	longestText = math.MaxInt32 - 1 // bytes, so that places fit into 32 bits
	mostKept    = 1 << 16           // places of the lattice that is kept from call to call
)

type unigramFile struct {
	Unknown  *int32       `json:"unk_id"`
	Fallback bool         `json:"byte_fallback"`
	Vocab    scoredPieces `json:"vocab"`
}

// scoredPieces is a list of ["piece", score], whose ids are their places.
type scoredPieces []scoredPiece

type scoredPiece struct {
	piece string
	score float64
}

func (list *scoredPieces) UnmarshalJSON(raw []byte) error {
	var pairs [][3]any // one more than there may be, since what is too long is cut without a word
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return errors.New("vocab: is no list of [piece, score]")
	}
	*list = make(scoredPieces, len(pairs))
	for i, pair := range pairs {
		piece, ok := pair[0].(string)
		score, number := pair[1].(float64)
		if !ok || !number || pair[2] != nil {
			return fmt.Errorf("vocab[%d]: is not [piece, score]", i)
		}
		(*list)[i] = scoredPiece{piece, score}
	}
	return nil
}

func readUnigram(raw json.RawMessage) (model, error) {
	var f unigramFile
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return newUnigram(f)
}

func newUnigram(f unigramFile) (*unigram, error) {
	switch {
	case len(f.Vocab) == 0:
		return nil, errors.New("vocab: is missing or empty")
	case len(f.Vocab) > largestID+1:
		return nil, fmt.Errorf("vocab: %d pieces are more than %d", len(f.Vocab), largestID+1)
	case f.Unknown != nil && (*f.Unknown < 0 || int(*f.Unknown) >= len(f.Vocab)):
		return nil, fmt.Errorf("unk_id: %d is none of the %d pieces", *f.Unknown, len(f.Vocab))
	}
	m := &unigram{
		vocab: make(map[string]int32, len(f.Vocab)), scores: make([]float64, len(f.Vocab)), unknown: -1, cache: newCache(),
	}
	if f.Unknown != nil {
		m.unknown = *f.Unknown
	}
	for id, p := range f.Vocab {
		if math.IsNaN(p.score) || math.IsInf(p.score, 0) {
			return nil, fmt.Errorf("vocab[%d]: the score of %q is %v", id, p.piece, p.score)
		}
		if other, twice := m.vocab[p.piece]; twice {
			return nil, fmt.Errorf("vocab[%d]: %q stands at %d too", id, p.piece, other)
		}
		m.vocab[p.piece], m.scores[id] = int32(id), p.score
	}
	const worse = 10
	m.penalty = slices.Min(m.scores) - worse
	tree, err := newPrefixTree(m.vocab)
	if err != nil {
		return nil, err
	}
	m.tree = tree
	for b := range m.bytes {
		m.bytes[b] = -1
		if id, ok := m.vocab[fmt.Sprintf("<0x%02X>", b)]; ok && f.Fallback {
			m.bytes[b] = id
		}
	}
	return m, nil
}

func (m *unigram) vocabulary() map[string]int32 { return m.vocab }

func (m *unigram) append(ids []int32, piece string) ([]int32, error) {
	return m.cache.append(ids, piece, m)
}

func (m *unigram) compute(ids []int32, text string) ([]int32, error) {
	if len(text) > longestText {
		return nil, fmt.Errorf("a text of %d bytes without a cut is longer than %d", len(text), longestText)
	}
	room, _ := m.lattice.Get().(*[]best)
	if room == nil {
		room = new([]best)
	}
	lattice := slices.Grow((*room)[:0], len(text)+1)[:len(text)+1]
	if *room = lattice; len(lattice) <= mostKept {
		defer m.lattice.Put(room)
	}
	if err := m.fill(lattice, text); err != nil {
		return nil, err
	}
	begin := len(ids)
	for end := len(text); end > 0; {
		b := lattice[end]
		from := int(b.from)
		if b.id != m.unknown {
			ids = append(ids, b.id)
			end = from
			continue
		}
		for from > 0 && lattice[from].id == m.unknown { // unknown pieces in a row are one
			from = int(lattice[from].from)
		}
		ids = m.appendUnknown(ids, text[from:end])
		end = from
	}
	slices.Reverse(ids[begin:])
	return ids, nil
}

// fill finds the best way to each character's end: Viterbi's algorithm, from left to right. Of two ways with one score
// the one found first counts, that over the longer last piece.
func (m *unigram) fill(lattice []best, text string) error {
	for i := range lattice {
		lattice[i].from = -1
	}
	lattice[0].score = 0
	for at := 0; at < len(text); {
		_, char := utf8.DecodeRuneInString(text[at:])
		here := lattice[at].score
		single := false // this character alone is a piece
		node := int32(0)
		for end := at; end < len(text); {
			if node = m.tree.next(node, text[end]); node == 0 {
				break
			}
			end++
			id := m.tree.ids[node]
			if id < 0 {
				continue
			}
			lattice[end].offer(here+m.scores[id], at, id)
			single = single || end == at+char
		}
		if !single {
			if m.unknown < 0 {
				return fmt.Errorf("%q is not in the vocabulary, which has no unknown piece (unk_id)", text[at:at+char])
			}
			lattice[at+char].offer(here+m.penalty, at, m.unknown)
		}
		at += char
	}
	return nil
}

func (b *best) offer(score float64, from int, id int32) {
	if b.from < 0 || score > b.score {
		*b = best{score, int32(from), id}
	}
}

// appendUnknown appends, last first, what unknown text becomes: its bytes, or the unknown piece; or the piece that it is
// as a whole.
func (m *unigram) appendUnknown(ids []int32, text string) []int32 {
	if id, ok := m.vocab[text]; ok {
		return append(ids, id)
	}
	before := len(ids)
	for i := len(text) - 1; i >= 0; i-- {
		id := m.bytes[text[i]]
		if id < 0 {
			return append(ids[:before], m.unknown)
		}
		ids = append(ids, id)
	}
	return ids
}
