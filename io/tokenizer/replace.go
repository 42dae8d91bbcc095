package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// replace puts a text in the place of each match of a pattern. It is a normalizer, and a decoder of each piece.
type replace struct {
	pattern pattern
	content string
}

func readReplace(raw json.RawMessage) (replace, error) {
	var f struct {
		Pattern json.RawMessage `json:"pattern"`
		Content string          `json:"content"`
	}
	if err := readJSON(raw, &f); err != nil {
		return replace{}, err
	}
	p, err := readPattern(f.Pattern)
	if err != nil {
		return replace{}, fmt.Errorf("pattern: %w", err)
	}
	return replace{p, f.Content}, nil
}

// mostGrowth is how many bytes the replacements of a pipeline may together make of one. Beyond, a short text could fill
// any memory.
const mostGrowth = 1 << 12

// growth is how many bytes one can become.
func (r replace) growth() int {
	if plain, ok := r.pattern.(literal); ok {
		return max(1, (len(r.content)+len(plain)-1)/len(plain))
	}
	return 1 + len(r.content)
}

// grow adds a replacement to those before it, which make so much of one byte.
func (r replace) grow(before int) (int, error) {
	if r.growth() > mostGrowth/before {
		return 0, fmt.Errorf("content: with this replacement, a byte can become more than %d", mostGrowth)
	}
	return before * r.growth(), nil
}

func (r replace) normalize(text string) (string, error) {
	if plain, ok := r.pattern.(literal); ok {
		return strings.ReplaceAll(text, string(plain), r.content), nil
	}
	matches, err := r.pattern.matches(nil, text)
	if err != nil || len(matches) == 0 {
		return text, err
	}
	var out strings.Builder
	last := 0
	for _, m := range matches {
		out.WriteString(text[last:m.begin])
		out.WriteString(r.content)
		last = m.end
	}
	out.WriteString(text[last:])
	return out.String(), nil
}

// readReplaceStage refuses the regexes that can fail, since a decoding cannot.
func readReplaceStage(raw json.RawMessage, growth *int) (func() stage, error) {
	r, err := readReplace(raw)
	if err != nil {
		return nil, err
	}
	if *growth, err = r.grow(*growth); err != nil {
		return nil, err
	}
	if p, ok := r.pattern.(backtracking); ok {
		return nil, fmt.Errorf("pattern: the regex %v could take any time; a decoder's may be a set of characters, once or repeated", p.regex)
	}
	return func() stage {
		return each(func(piece string) string {
			text, err := r.normalize(piece)
			if err != nil {
				return piece // no other pattern fails
			}
			return text
		})
	}, nil
}
