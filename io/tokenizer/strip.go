package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// strip is the decoder that takes so many of one character off a piece's begin and end.
type strip struct {
	content     rune
	start, stop int
}

func readStripStage(raw json.RawMessage) (func() stage, error) {
	var f struct {
		Content string `json:"content"`
		Start   int    `json:"start"`
		Stop    int    `json:"stop"`
	}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(f.Content) != 1 {
		return nil, fmt.Errorf("content: %q is not one character", f.Content)
	}
	if f.Start < 0 || f.Stop < 0 {
		return nil, fmt.Errorf("start and stop: %d and %d characters cannot be taken off", f.Start, f.Stop)
	}
	r, _ := utf8.DecodeRuneInString(f.Content)
	return func() stage { return &strip{r, f.Start, f.Stop} }, nil
}

func (s *strip) push(dst []string, piece string) []string {
	p := stripParts{strip: *s}
	return p.push(dst, piece)
}

func (s *strip) flush(dst []string) []string { return dst }

func (s *strip) clone() stage {
	c := *s
	return &c
}

// stripParts is strip on a piece that comes in parts: it holds back what may be the end to be taken off.
type stripParts struct {
	strip
	gone int  // taken off the begin
	past bool // the begin has been passed
	held int  // characters
}

func (s *stripParts) push(dst []string, part string) []string {
	size := utf8.RuneLen(s.content)
	for !s.past && part != "" {
		if r, _ := utf8.DecodeRuneInString(part); r != s.content || s.gone == s.start {
			s.past = true
			break
		}
		part = part[size:]
		s.gone++
	}
	if part == "" {
		return dst
	}
	tail := 0 // of the characters, at the part's end
	for end := len(part); end >= size; end -= size {
		if r, _ := utf8.DecodeLastRuneInString(part[:end]); r != s.content {
			break
		}
		tail++
	}
	if tail*size < len(part) {
		dst = s.give(dst, s.held)
		tail = min(tail, s.stop)
		s.held = tail
		return append(dst, part[:len(part)-tail*size])
	}
	tail += s.held
	s.held = min(tail, s.stop)
	return s.give(dst, tail-s.held)
}

func (s *stripParts) give(dst []string, n int) []string {
	for range n {
		dst = append(dst, string(s.content))
	}
	return dst
}

func (s *stripParts) flush(dst []string) []string {
	s.gone, s.past, s.held = 0, false, 0
	return dst
}

func (s *stripParts) clone() stage {
	c := *s
	return &c
}
