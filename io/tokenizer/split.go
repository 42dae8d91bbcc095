package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// split cuts a text at the matches of a pattern: a match and the text between two are kept, dropped or joined as
// the behaviour says.
type split struct {
	pattern pattern
	invert  bool // what is between the matches counts as the match
	behave  behaviour
}

type behaviour int

const (
	isolated           behaviour = iota // each match and each text between is a piece
	removed                             // only the text between
	contiguous                          // matches that touch are one piece
	mergedWithPrevious                  // a match ends the piece before it
	mergedWithNext                      // a match begins the piece after it
)

var behaviours = map[string]behaviour{
	"Isolated": isolated, "Removed": removed, "Contiguous": contiguous,
	"MergedWithPrevious": mergedWithPrevious, "MergedWithNext": mergedWithNext,
}

func readSplit(raw json.RawMessage) (step, error) {
	var s struct {
		Pattern  json.RawMessage `json:"pattern"`
		Behavior string          `json:"behavior"`
		Invert   bool            `json:"invert"`
	}
	if err := readJSON(raw, &s); err != nil {
		return nil, err
	}
	p, err := readPattern(s.Pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	b, err := readBehaviour(s.Behavior)
	return split{p, s.Invert, b}, err
}

func readBehaviour(name string) (behaviour, error) {
	b, ok := behaviours[name]
	if !ok {
		return b, fmt.Errorf("behavior: %q is not known; Isolated, Removed, Contiguous, MergedWithPrevious and MergedWithNext are", name)
	}
	return b, nil
}

func (s split) split(dst []string, text string, r *room) ([]string, error) {
	matches, err := s.pattern.matches(r.spans[:0], text)
	if err != nil {
		return nil, err
	}
	r.spans = matches
	if s.behave == removed && len(matches) > 0 && (matches[0].begin == 0) != s.invert {
		r.begin = false
	}
	p := pieces{split: s, text: text, done: dst}
	last := 0
	for _, m := range matches {
		if last < m.begin {
			p.add(span{last, m.begin}, s.invert)
		}
		p.add(m, !s.invert)
		last = m.end
	}
	if last < len(text) {
		p.add(span{last, len(text)}, s.invert)
	}
	p.give(p.open)
	return p.done, nil
}

// pieces are made of a text's spans, matches and what lies between them, as they come.
type pieces struct {
	split
	text  string
	done  []string
	open  span // the last piece, which the next span may join
	match bool // the span before was one
	some  bool // there was a span before
}

func (p *pieces) add(s span, match bool) {
	switch {
	case p.behave == isolated:
		p.give(s)
	case p.behave == removed:
		if !match {
			p.give(s)
		}
	case p.some && p.joins(match):
		p.open.end = s.end
	default:
		p.give(p.open)
		p.open = s
	}
	p.match, p.some = match, true
}

// joins tells whether a span is of one piece with the span before it.
func (p *pieces) joins(match bool) bool {
	switch p.behave {
	case contiguous:
		return p.match == match
	case mergedWithPrevious:
		return match && !p.match
	default:
		return p.match && !match
	}
}

// give appends a piece that is whole, unless it is empty.
func (p *pieces) give(s span) {
	if s.begin < s.end {
		p.done = append(p.done, p.text[s.begin:s.end])
	}
}

// literal is a pattern that is a plain string.
type literal string

func (p literal) matches(dst []span, text string) ([]span, error) {
	for at := 0; ; {
		n := strings.Index(text[at:], string(p))
		if n < 0 {
			return dst, nil
		}
		dst = append(dst, span{at + n, at + n + len(p)})
		at += n + len(p)
	}
}

// readDigits: every number character (the categories Nd, Nl, No) a piece, or every run of them.
func readDigits(raw json.RawMessage) (step, error) {
	var d struct {
		Individual bool `json:"individual_digits"`
	}
	if err := readJSON(raw, &d); err != nil {
		return nil, err
	}
	most := 1
	if !d.Individual {
		most = 0
	}
	return split{pattern: runsOf(newMembers(category("N")), most)}, nil
}
