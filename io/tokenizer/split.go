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
	b, ok := behaviours[s.Behavior]
	if !ok {
		return nil, fmt.Errorf("behavior: %q is not known; Isolated, Removed, Contiguous, MergedWithPrevious and MergedWithNext are", s.Behavior)
	}
	return split{p, s.Invert, b}, nil
}

// split gives the pieces to each, in order; empty ones are left out.
func (s split) split(text string, each func(piece string) error) error {
	give := func(begin, end int) error {
		if begin == end {
			return nil
		}
		return each(text[begin:end])
	}
	if s.behave == isolated {
		return s.spans(text, func(begin, end int, _ bool) error { return give(begin, end) })
	}
	from, to, some, lastMatched := 0, 0, false, false // the piece in the making
	err := s.spans(text, func(begin, end int, match bool) error {
		if s.behave == removed {
			if match {
				return nil
			}
			return give(begin, end)
		}
		joins := some && s.joins(lastMatched, match)
		lastMatched = match
		if joins {
			to = end
			return nil
		}
		done := some
		a, b := from, to
		from, to, some = begin, end, true
		if !done {
			return nil
		}
		return give(a, b)
	})
	if err != nil || !some {
		return err
	}
	return give(from, to)
}

// joins tells whether a span is of one piece with the span before it.
func (s split) joins(before, match bool) bool {
	switch s.behave {
	case contiguous:
		return before == match
	case mergedWithPrevious:
		return match && !before
	default:
		return before && !match
	}
}

// spans cuts text into matches and what lies between them.
func (s split) spans(text string, each func(begin, end int, match bool) error) error {
	last := 0
	err := s.pattern.matches(text, func(begin, end int) error {
		if last < begin {
			if err := each(last, begin, s.invert); err != nil {
				return err
			}
		}
		last = end
		return each(begin, end, !s.invert)
	})
	if err != nil || last == len(text) {
		return err
	}
	return each(last, len(text), s.invert)
}

// literal is a pattern that is a plain string.
type literal string

func (p literal) matches(text string, each func(begin, end int) error) error {
	for at := 0; ; {
		n := strings.Index(text[at:], string(p))
		if n < 0 {
			return nil
		}
		if err := each(at+n, at+n+len(p)); err != nil {
			return err
		}
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
	run := &setRun{set: newMembers(category("N")), most: 1}
	if !d.Individual {
		run.most = 0
	}
	return split{pattern: run}, nil
}
