package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// metaspace writes a space as a mark ("▁"), puts one before a text, and cuts before each mark.
type metaspace struct {
	mark    string
	prepend prependScheme
	cut     bool
}

type prependScheme string

const (
	prependAlways prependScheme = "always" // before each text between added tokens
	prependFirst  prependScheme = "first"  // before the first, if no added token stands before it
	prependNever  prependScheme = "never"
)

func readMetaspace(raw json.RawMessage) (m metaspace, err error) {
	f := struct {
		Mark    string         `json:"replacement"`
		Prefix  *bool          `json:"add_prefix_space"` // the older spelling: true is always
		Prepend *prependScheme `json:"prepend_scheme"`
		Split   bool           `json:"split"`
	}{Mark: "▁", Split: true}
	if err := readJSON(raw, &f); err != nil {
		return m, err
	}
	if utf8.RuneCountInString(f.Mark) != 1 {
		return m, fmt.Errorf("replacement: %q is not one character", f.Mark)
	}
	m = metaspace{f.Mark, prependAlways, f.Split}
	switch {
	case f.Prepend != nil:
		m.prepend = *f.Prepend
	case f.Prefix != nil && !*f.Prefix:
		m.prepend = prependNever
	}
	switch m.prepend {
	case prependAlways, prependFirst, prependNever:
	default:
		return m, fmt.Errorf("prepend_scheme: %q is not known; always, first and never are", m.prepend)
	}
	if f.Prefix != nil && !*f.Prefix && m.prepend != prependNever {
		return m, fmt.Errorf("add_prefix_space is false, but prepend_scheme is %q", m.prepend)
	}
	return m, nil
}

func (m metaspace) split(dst []string, text string, r *room) ([]string, error) {
	text = strings.ReplaceAll(text, " ", m.mark)
	if m.prepend == prependAlways || m.prepend == prependFirst && r.begin {
		if !strings.HasPrefix(text, m.mark) {
			text = m.mark + text
		}
	}
	for m.cut {
		n := strings.Index(text[1:], m.mark) + 1
		if n == 0 {
			break
		}
		dst = append(dst, text[:n])
		text = text[n:]
	}
	return append(dst, text), nil
}

// metaspaceStage decodes it: no space for the marks of the first piece, where one has been put before the text.
type metaspaceStage struct {
	metaspace
	some bool
}

func readMetaspaceStage(raw json.RawMessage) (func() stage, error) {
	m, err := readMetaspace(raw)
	return func() stage { return &metaspaceStage{metaspace: m} }, err
}

func (s *metaspaceStage) push(dst []string, piece string) []string {
	space := " "
	if !s.some && s.prepend != prependNever {
		space = ""
	}
	s.some = true
	return append(dst, strings.ReplaceAll(piece, s.mark, space))
}

func (s *metaspaceStage) flush(dst []string) []string {
	s.some = false
	return dst
}

func (s *metaspaceStage) clone() stage {
	c := *s
	return &c
}

func errEmpty(field string) error { return errors.New(field + ": is empty") }
