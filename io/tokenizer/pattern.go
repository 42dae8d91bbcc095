package tokenizer

import (
	"encoding/json"
	"fmt"

	"github.com/dlclark/regexp2/v2"
)

// pattern is what a Split looks for.
type pattern interface {
	// matches calls each with the begin and the end of every match in text, left to right, until each fails.
	matches(text string, each func(begin, end int) error) error
}

// readPattern reads {"String": …} or {"Regex": …}. A known regex is scanned by hand, another by regexp2, which is
// some 20 times slower and, as regex engines are, at the mercy of the regex.
func readPattern(raw json.RawMessage) (pattern, error) {
	var p struct{ String, Regex *string }
	if err := readJSON(raw, &p); err != nil {
		return nil, err
	}
	switch {
	case p.Regex != nil:
		return compileRegex(*p.Regex)
	case p.String == nil || *p.String == "":
		return nil, fmt.Errorf(`is neither {"String": …} nor {"Regex": …}`)
	}
	return literal(*p.String), nil
}

func compileRegex(regex string) (pattern, error) {
	if known, ok := scanners[regex]; ok {
		return known, nil
	}
	if simple, ok := parseRun(regex); ok {
		return simple, nil
	}
	dialect, err := regexp2Dialect(regex)
	if err != nil {
		return nil, err
	}
	compiled, err := regexp2.Compile(dialect)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", regex, err)
	}
	return backtracking{compiled}, nil
}

type backtracking struct{ regex *regexp2.Regexp }

func (p backtracking) matches(text string, each func(begin, end int) error) error {
	all, err := p.regex.FindAllStringIndex(text, -1)
	if err != nil {
		return fmt.Errorf("regex %v: %w", p.regex, err)
	}
	for _, m := range all {
		if err := each(m[0], m[1]); err != nil {
			return err
		}
	}
	return nil
}
