package tokenizer

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

// loadSentencePiece reads tokenizer.model alone, which is SentencePiece's own file: LLaMA's BPE and its kin, as
// transformers makes a tokenizer.json of it. Unigram models are refused: each family puts other ids around theirs.
func loadSentencePiece(dir string, c config) (*Tokenizer, error) {
	path := filepath.Join(dir, "tokenizer.model")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch c.Class {
	case "", "LlamaTokenizer", "LlamaTokenizerFast":
	default:
		return nil, fmt.Errorf("%s: tokenizer_class: %s with tokenizer.model alone is not supported; save the folder with tokenizer.json", c.path, c.Class)
	}
	if _, err := os.Stat(filepath.Join(dir, "added_tokens.json")); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: added_tokens.json beside it is not supported; save the folder with tokenizer.json", path)
	}
	m, err := readSentencePiece(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file, err := m.pipeline(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// sentencePiece is what counts of a ModelProto: https://github.com/google/sentencepiece, sentencepiece_model.proto.
type sentencePiece struct {
	pieces []sentencePieceEntry
	kind   uint64 // 1 Unigram, 2 BPE, 3 words, 4 characters
}

type sentencePieceEntry struct {
	text  string
	score float32
	kind  uint64 // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
}

const (
	pieceUnknown = 2
	pieceControl = 3
	pieceByUser  = 4
	modelBPE     = 2
)

func readSentencePiece(raw []byte) (m sentencePiece, err error) {
	m.kind = 1
	err = eachField(raw, func(field int, number uint64, bytes []byte) error {
		switch field {
		case 1: // a piece
			p := sentencePieceEntry{kind: 1}
			err := eachField(bytes, func(field int, number uint64, bytes []byte) error {
				switch field {
				case 1:
					p.text = string(bytes)
				case 2:
					p.score = math.Float32frombits(uint32(number))
				case 3:
					p.kind = number
				}
				return nil
			})
			if err == nil && !utf8.ValidString(p.text) {
				err = fmt.Errorf("%q is not UTF-8", p.text)
			}
			if err == nil && len(p.text) > longestPiece {
				err = fmt.Errorf("%.20q… has %d bytes; no piece may have more than %d", p.text, len(p.text), longestPiece)
			}
			if err == nil && math.IsNaN(float64(p.score)) {
				err = fmt.Errorf("the score of %q is no number", p.text)
			}
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(m.pieces), err)
			}
			m.pieces = append(m.pieces, p)
		case 2: // how it was trained
			return eachField(bytes, func(field int, number uint64, _ []byte) error {
				if field == 3 {
					m.kind = number
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && len(m.pieces) == 0 {
		err = errors.New("it holds no pieces; is it a SentencePiece model?")
	}
	return m, err
}

// eachField calls do for each field of a protobuf message: with a number, or with the bytes of a text or message.
func eachField(raw []byte, do func(field int, number uint64, bytes []byte) error) error {
	size := len(raw)
	for len(raw) > 0 {
		at := size - len(raw)
		key, n := binary.Uvarint(raw)
		if n <= 0 || key>>3 == 0 || key>>3 > 1<<29 {
			return fmt.Errorf("byte %d is no field of a protobuf message", at)
		}
		raw = raw[n:]
		var number uint64
		var bytes []byte
		switch key & 7 {
		case 0: // varint
			if number, n = binary.Uvarint(raw); n <= 0 {
				return fmt.Errorf("byte %d: a number is cut off", at)
			}
		case 1: // 8 bytes
			if n = 8; len(raw) >= n {
				number = binary.LittleEndian.Uint64(raw)
			}
		case 2: // bytes
			length, head := binary.Uvarint(raw)
			if head <= 0 || length > uint64(len(raw)-head) {
				return fmt.Errorf("byte %d: a field of %d bytes is cut off", at, length)
			}
			n = head + int(length)
			bytes = raw[head:n]
		case 5: // 4 bytes
			if n = 4; len(raw) >= n {
				number = uint64(binary.LittleEndian.Uint32(raw))
			}
		default:
			return fmt.Errorf("byte %d is no field of a protobuf message", at)
		}
		if n > len(raw) {
			return fmt.Errorf("byte %d: a number is cut off", at)
		}
		raw = raw[n:]
		if err := do(int(key>>3), number, bytes); err != nil {
			return err
		}
	}
	return nil
}

// pipeline is the tokenizer.json of a model of LLaMA's kind.
func (m sentencePiece) pipeline(c config) ([]byte, error) {
	switch {
	case m.kind != modelBPE:
		return nil, fmt.Errorf("a model of type %d (1 is Unigram, 2 BPE) without tokenizer.json is not supported; save the folder with tokenizer.json", m.kind)
	case c.AddPrefixSpace != nil && !*c.AddPrefixSpace:
		return nil, fmt.Errorf("add_prefix_space false is not supported without tokenizer.json; save the folder with it")
	}
	type object = map[string]any
	vocab := make(map[string]int32, len(m.pieces))
	var added []addedToken
	unknown := ""
	for id, p := range m.pieces {
		if other, twice := vocab[p.text]; twice {
			return nil, fmt.Errorf("piece %d: %q is piece %d too", id, p.text, other)
		}
		vocab[p.text] = int32(id)
		switch p.kind {
		case pieceUnknown:
			unknown = p.text
			fallthrough
		case pieceControl, pieceByUser:
			added = append(added, addedToken{ID: int64(id), Content: p.text, Special: p.kind != pieceByUser})
		}
	}
	if unknown == "" {
		return nil, errors.New("no piece is the unknown one")
	}
	normalizer, preTokenizer := object{"type": "Sequence", "normalizers": []object{
		{"type": "Prepend", "prepend": spaceMark},
		{"type": "Replace", "pattern": object{"String": " "}, "content": spaceMark},
	}}, object(nil)
	if c.Legacy != nil && !*c.Legacy {
		normalizer, preTokenizer = nil, object{"type": "Metaspace", "replacement": spaceMark, "prepend_scheme": "first", "split": false}
	}
	template, err := m.template(c, vocab)
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": preTokenizer, "post_processor": template,
		"decoder": object{"type": "Sequence", "decoders": []object{
			{"type": "Replace", "pattern": object{"String": spaceMark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
			{"type": "Strip", "content": " ", "start": 1, "stop": 0},
		}},
		"model": object{"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": m.merges(vocab)},
	})
}

// template puts the BOS before a text, unless the config says otherwise, and the EOS behind it, if the config says so.
func (m sentencePiece) template(c config, vocab map[string]int32) (map[string]any, error) {
	type object = map[string]any
	special := object{}
	var sides [2][2][]object // by segment, before and behind a text
	for i, side := range []struct {
		put   bool
		token string
	}{{c.AddBOS == nil || *c.AddBOS, c.BOS.or("<s>").Content}, {c.AddEOS, c.EOS.or("</s>").Content}} {
		if !side.put {
			continue
		}
		id, ok := vocab[side.token]
		if !ok {
			return nil, fmt.Errorf("no piece is %q, which is to be put around a text", side.token)
		}
		special[side.token] = object{"ids": []int32{id}}
		for segment := range 2 {
			sides[segment][i] = []object{{"SpecialToken": object{"id": side.token, "type_id": segment}}}
		}
	}
	single := slices.Concat(sides[0][0], []object{{"Sequence": object{"id": "A"}}}, sides[0][1])
	pair := slices.Concat(single, sides[1][0], []object{{"Sequence": object{"id": "B", "type_id": 1}}}, sides[1][1])
	return object{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}, nil
}

// merges are all pairs of pieces that make a piece: the best scores first, of equal ones the longest first piece.
func (m sentencePiece) merges(vocab map[string]int32) [][2]string {
	type pair struct {
		first, second string
		score         float32
	}
	var all []pair
	for _, p := range m.pieces {
		begin := len(all)
		for i := range p.text {
			_, one := vocab[p.text[:i]]
			if _, other := vocab[p.text[i:]]; i > 0 && one && other {
				all = append(all, pair{p.text[:i], p.text[i:], p.score})
			}
		}
		slices.SortStableFunc(all[begin:], func(a, b pair) int {
			return cmp.Or(cmp.Compare(vocab[a.first], vocab[b.first]), cmp.Compare(vocab[a.second], vocab[b.second]))
		})
	}
	slices.SortStableFunc(all, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score),
			cmp.Compare(utf8.RuneCountInString(b.first), utf8.RuneCountInString(a.first)),
			cmp.Compare(utf8.RuneCountInString(b.second), utf8.RuneCountInString(a.second)))
	})
	merges := make([][2]string, len(all))
	for i, p := range all {
		merges[i] = [2]string{p.first, p.second}
	}
	return merges
}
