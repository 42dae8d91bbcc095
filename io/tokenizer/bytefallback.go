package tokenizer

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// byteFallback makes text of the pieces <0xNN>, each a byte of a character that the vocabulary lacks. A run of them
// that is not UTF-8 as a whole becomes one U+FFFD a byte, so that nothing of a run is certain before it has ended.
type byteFallback struct{ run []byte }

func (s *byteFallback) push(dst []string, piece string) []string {
	if b, ok := fallbackByte(piece); ok {
		s.run = append(s.run, b)
		return dst
	}
	return append(s.flush(dst), piece)
}

func (s *byteFallback) flush(dst []string) []string {
	switch {
	case len(s.run) == 0:
		return dst
	case utf8.Valid(s.run):
		dst = append(dst, string(s.run))
	default:
		for range s.run {
			dst = append(dst, "\uFFFD")
		}
	}
	s.run = s.run[:0]
	return dst
}

func (s *byteFallback) clone() stage { return &byteFallback{slices.Clone(s.run)} }

// fallbackByte reads <0xNN>. The reference's number may have a plus sign.
func fallbackByte(piece string) (b byte, ok bool) {
	if len(piece) != len("<0xNN>") || !strings.HasPrefix(piece, "<0x") || piece[5] != '>' {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(piece[3:5], "+"), 16, 8)
	return byte(n), err == nil
}
