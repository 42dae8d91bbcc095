package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/dlclark/regexp2/v2"
)

// pattern is what a Split looks for.
type pattern interface {
	// matches appends where text has a match, left to right, none overlapping another.
	matches(dst []span, text string) ([]span, error)
}

// span is a part of a text, in bytes.
type span struct{ begin, end int }

// A regex that is not known can be one that takes exponential time, or a stack as deep as the text is long. Neither
// bound is met by regexes that were made for cutting texts; what meets one is an error of Encode. Compiling takes time and
// memory by a regex's length; the longest in use has some 1500 bytes.
const (
	longestRegex = 16 << 10
	longestMatch = 5 * time.Second // of a processor
	deepestStack = 1 << 22         // numbers
)

var started = time.Now()

// readPattern reads {"String": …} or {"Regex": …}. A known regex is scanned by hand, another by regexp2, which is
// some ten times slower.
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
	if len(regex) > longestRegex {
		return nil, fmt.Errorf("a regex of %d bytes; none longer than %d is used", len(regex), longestRegex)
	}
	dialect, err := regexp2Dialect(regex)
	if err != nil {
		return nil, err
	}
	compiled, err := regexp2.Compile(dialect, regexp2.OptionMaxBacktrackingStackSize(deepestStack))
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", regex, err)
	}
	return backtracking{compiled, longestMatch, threadTime}, nil
}

// backtracking is a regex whose matches may each take so much time of a processor.
type backtracking struct {
	regex *regexp2.Regexp
	most  time.Duration
	ran   func() time.Duration // how long the calling thread has
}

// matches has regexp2 stop a match by the clock, the only way that it knows, and goes by how long this thread really ran: on a
// busy machine, or in a process that was stopped for a while, a good text is tried again with more patience.
func (p backtracking) matches(dst []span, text string) ([]span, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for patience := 2 * p.most; ; patience *= 2 {
		regex := *p.regex
		regex.MatchTimeout = patience
		begun, ran := time.Now(), p.ran()
		all, err := regex.FindAllStringIndex(text, -1)
		if err == nil {
			for _, m := range all {
				dst = append(dst, span{m[0], m[1]})
			}
			return dst, nil
		}
		// Of the match that was stopped, the thread has run at least what is left of patience without all of its waiting.
		waited := time.Since(begun) - (p.ran() - ran)
		if errors.Is(err, regexp2.ErrBacktrackingStackLimit) || patience-waited >= p.most {
			return nil, fmt.Errorf("regex %v: %w", p.regex, err)
		}
	}
}
