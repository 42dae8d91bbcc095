package tokenizer

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// Byte-level vocabularies write each of the 256 bytes as one printable character, so that pieces are strings
// without spaces: a byte that is itself printable in Latin-1 stands for itself, the other 68 for U+0100 and on.

// byteRune gives the character that stands for a byte.
func byteRune(b byte) rune {
	switch {
	case '!' <= b && b <= '~', 0xA1 <= b && b <= 0xAC, 0xAE <= b:
		return rune(b)
	case b <= ' ':
		return 0x100 + rune(b)
	case b <= 0xA0:
		return 0x100 + 33 + rune(b-0x7F)
	}
	return 0x100 + 67 // 0xAD
}

// runeByte is byteRune's inverse; ok is false for a character that stands for no byte.
func runeByte(r rune) (b byte, ok bool) {
	switch {
	case '!' <= r && r <= '~', 0xA1 <= r && r <= 0xFF && r != 0xAD:
		return byte(r), true
	case 0x100 <= r && r <= 0x120:
		return byte(r - 0x100), true
	case 0x121 <= r && r <= 0x142:
		return byte(r-0x121) + 0x7F, true
	case r == 0x143:
		return 0xAD, true
	}
	return 0, false
}

// appendBytes appends the bytes that a piece stands for; ok is false, and dst as it was, where a character of the
// piece stands for none.
func appendBytes(dst []byte, piece string) (_ []byte, ok bool) {
	whole := dst
	for _, r := range piece {
		b, ok := runeByte(r)
		if !ok {
			return whole, false
		}
		dst = append(dst, b)
	}
	return dst, true
}

// readByteLevelSteps reads the ByteLevel pre-tokenizer: its split by GPT-2's regex and the space put before a text
// that does not begin with one. That the model then works on bytes is the model's business.
func readByteLevelSteps(raw json.RawMessage) ([]step, error) {
	b := struct {
		AddPrefixSpace bool `json:"add_prefix_space"`
		UseRegex       bool `json:"use_regex"`
	}{true, true}
	if err := readJSON(raw, &b); err != nil {
		return nil, err
	}
	var steps []step
	if b.AddPrefixSpace {
		steps = append(steps, spaceBefore{})
	}
	if b.UseRegex {
		steps = append(steps, split{pattern: scanner{gpt2At}})
	}
	return steps, nil
}

type spaceBefore struct{}

func (spaceBefore) split(dst []string, text string, _ *room) ([]string, error) {
	if !strings.HasPrefix(text, " ") {
		text = " " + text
	}
	return append(dst, text), nil
}

// toByteCharacters writes the bytes of a piece as the vocabulary does, for a model or a step that works on characters.
type toByteCharacters struct{}

func (toByteCharacters) split(dst []string, text string, _ *room) ([]string, error) {
	return append(dst, byteCharacters(text)), nil
}

// byteLevelDecoder gives the bytes that the pieces stand for, a piece of other characters (an added token) as it
// is; what is then not UTF-8 is replaced.
type byteLevelDecoder struct{}

func (byteLevelDecoder) start() decoding { return new(byteLevelDecoding) }

type byteLevelDecoding struct {
	repair repair
	bytes  []byte // of one piece
}

func (d *byteLevelDecoding) push(dst []byte, piece string) []byte {
	bytes, ok := appendBytes(d.bytes[:0], piece)
	d.bytes = bytes
	if !ok {
		bytes = append(bytes, piece...)
		d.bytes = bytes
	}
	return d.repair.push(dst, bytes)
}

func (d *byteLevelDecoding) flush(dst []byte) []byte { return d.repair.flush(dst) }

func (d *byteLevelDecoding) pending(dst []byte) []byte {
	held := repair{d.repair.held}
	return held.flush(dst)
}

// repair makes UTF-8 of bytes that come in parts, each broken part of a sequence becoming one U+FFFD as the WHATWG
// encoding standard (and Unicode, section 3.9, "maximal subparts") has it. It holds back at most three bytes: a
// beginning that the next bytes may complete.
type repair struct{ held []byte }

func (r *repair) push(dst, bytes []byte) []byte {
	if len(r.held) == 0 && utf8.Valid(bytes) {
		return append(dst, bytes...)
	}
	r.held = append(r.held, bytes...)
	rest := r.held
	for len(rest) > 0 {
		size, state := firstSequence(rest)
		if state == unfinished {
			break
		}
		if state == broken {
			dst = append(dst, "\uFFFD"...)
		} else {
			dst = append(dst, rest[:size]...)
		}
		rest = rest[size:]
	}
	r.held = append(r.held[:0], rest...)
	return dst
}

func (r *repair) flush(dst []byte) []byte {
	if len(r.held) > 0 {
		dst = append(dst, "\uFFFD"...)
	}
	r.held = r.held[:0]
	return dst
}

type sequence int

const (
	whole sequence = iota
	broken
	unfinished
)

// firstSequence tells how long the UTF-8 sequence at the begin of bytes is, or its longest part that could begin one.
func firstSequence(bytes []byte) (size int, state sequence) {
	length := 0
	lo, hi := byte(0x80), byte(0xBF) // of the second byte
	switch c := bytes[0]; {
	case c < 0x80:
		return 1, whole
	case c < 0xC2, c > 0xF4:
		return 1, broken
	case c < 0xE0:
		length = 2
	case c < 0xF0:
		length = 3
	default:
		length = 4
	}
	switch bytes[0] { // no sequence longer than needed, no surrogate, nothing beyond U+10FFFF
	case 0xE0:
		lo = 0xA0
	case 0xED:
		hi = 0x9F
	case 0xF0:
		lo = 0x90
	case 0xF4:
		hi = 0x8F
	}
	for size = 1; size < length; size++ {
		if size == len(bytes) {
			return size, unfinished
		}
		if bytes[size] < lo || bytes[size] > hi {
			return size, broken
		}
		lo, hi = 0x80, 0xBF
	}
	return size, whole
}

// byteLevelStage is that decoder among others.
type byteLevelStage struct {
	byteLevelDecoding
	text []byte
}

func (s *byteLevelStage) push(dst []string, piece string) []string {
	s.text = s.byteLevelDecoding.push(s.text[:0], piece)
	return append(dst, string(s.text))
}

func (s *byteLevelStage) flush(dst []string) []string {
	s.text = s.byteLevelDecoding.flush(s.text[:0])
	return append(dst, string(s.text))
}

func (s *byteLevelStage) clone() stage {
	return &byteLevelStage{byteLevelDecoding: byteLevelDecoding{repair: repair{slices.Clone(s.repair.held)}}}
}
