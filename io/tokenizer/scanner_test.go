package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dlclark/regexp2/v2"
	"pgregory.net/rapid"
)

// awkward characters, several of each kind that the regexes tell apart, those of contractions and of class borders
// among them. U+0345 is a mark with a capital, U+1E9E and U+017F fold to s, U+2028 ends a line, U+0085 is a control
// character and white space, U+200D joins, U+0378 is unassigned, U+16FE4 is a mark beyond 16 bits.
const awkward = "aZéßǅʰª中ऀ\u0301\u0345\U00016FE4" + "12٣²Ⅷ" + " \t\n\r\v\u0085\u00a0\u2028\u3000" +
	"''’sStTrReEvVmMlLdDſ\u1e9eK" + ".,/!-([$+<=>^`|~_€©" + "\x00\x1b\u200d\u0378\ue000\U000F0000😀"

func awkwardText() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.SampledFrom([]rune(awkward)), 0, 40, -1)
}

// piecesOf cuts text at a pattern's matches, what lies between them included.
func piecesOf(t interface{ Fatal(...any) }, p pattern, text string) []string {
	list, err := split{pattern: p}.split(nil, text, new(room))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// spelledOut is a regex as regexp2 reads it, the ignored case of Oniguruma written out: not through translation,
// which is under test too.
func spelledOut(regex string) string {
	if regex == lineEndRegex {
		return `(?m:\s+$)`
	}
	return strings.ReplaceAll(regex, `(?i:'s|'t|'re|'ve|'m|'ll|'d)`,
		`(?:'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`)
}

func TestScannersMatchTheirRegexes(t *testing.T) {
	var texts []string
	for _, family := range []string{"gpt2", "gpt_oss"} {
		for _, a := range answers(t, family, "text") {
			texts = append(texts, a.Text)
		}
	}
	for regex, byHand := range scanners {
		reference := mustCompile(t, spelledOut(regex))
		dialect, err := regexp2Dialect(regex)
		if err != nil {
			t.Fatal(err)
		}
		translated := mustCompile(t, dialect)
		check := func(t interface {
			Fatal(...any)
			Errorf(string, ...any)
		}, text string,
		) {
			want := piecesOf(t, reference, text)
			if got := piecesOf(t, byHand, text); !slices.Equal(got, want) {
				t.Errorf("%s\n%q: by hand %q, want %q", regex, text, got, want)
			}
			if got := piecesOf(t, translated, text); !slices.Equal(got, want) {
				t.Errorf("%s\n%q: translated %q, want %q", regex, text, got, want)
			}
		}
		for _, text := range texts {
			check(t, text)
		}
		rapid.Check(t, func(t *rapid.T) { check(t, awkwardText().Draw(t, "text")) })
	}
}

func TestSetRunsMatchTheirRegexes(t *testing.T) {
	for _, regex := range []string{
		`[^\s]`, `\p{N}`, `\p{N}{1,3}`, `[\r\n]`, `\s+`, `[一-龥぀-ゟ゠-ヿ]+`, `\s?[A-Za-zµ\x{C0}-ÿ]+`, ` ?[^\s\p{L}\p{N}]+`, `\s?\s+`, `\d?\p{L}+`,
	} {
		run, ok := parseRun(regex)
		if !ok {
			t.Errorf("%s: not read as a run", regex)
			continue
		}
		reference := mustCompile(t, regex)
		rapid.Check(t, func(t *rapid.T) {
			text := awkwardText().Draw(t, "text")
			if got, want := piecesOf(t, run, text), piecesOf(t, reference, text); !slices.Equal(got, want) {
				t.Errorf("%s\n%q: %q, want %q", regex, text, got, want)
			}
		})
	}
	for _, regex := range []string{``, `a|b`, `[a`, `a*`, `\s+$`, `[ab]{2}`, `(a)`, `.`, `\A`, `a?b`, `a?b+c`, `[[:alpha:]]`} {
		if _, ok := parseRun(regex); ok {
			t.Errorf("%s: read as a run", regex)
		}
	}
}

// TestOniguruma has what that dialect means otherwise than regexp2's, by its documentation (RE, syntax Ruby).
func TestOniguruma(t *testing.T) {
	for _, c := range []struct {
		regex, text string
		want        []string
	}{
		{`(?i:'s)`, "x'ſ'S's", []string{"x", "'ſ", "'S", "'s"}},
		{`(?i:k)`, "Kk\u212a", []string{"K", "k", "\u212a"}},
		{`a(?i)b`, "aBAB", []string{"aB", "AB"}},
		{`((?i)a)b`, "AbAB", []string{"Ab", "AB"}},
		{` ?[^(\s|[.,!])]+`, "ab (c|d. e", []string{"ab", " (", "c", "|", "d", ".", " e"}},
		{`x$`, "x\nx", []string{"x", "\n", "x"}},
		{`^x`, "xx\nx", []string{"x", "x\n", "x"}},
		{`\Ax`, "xx\nx", []string{"x", "x\nx"}},
		{`.+`, "ab\ncd", []string{"ab", "\n", "cd"}},
		{`a++b`, "aaab", []string{"aaab"}},
		{`[ab]++b`, "aab", []string{"aab"}}, // possessive: no b is given back, so nothing matches
		{`(?:ab)?+ab`, "abab", []string{"abab"}},
		{`(?:ab)?+ab`, "ab!", []string{"ab!"}},
		{`a{2}`, "aaa", []string{"aa", "a"}},
		{`a{,2}b`, "aaab", []string{"a", "aab"}},
		{`a{x`, "a{x", []string{"a{x"}},
		{`\w`, "a²-", []string{"a", "²", "-"}},
		{`[\w]+`, "a²-", []string{"a", "²-"}},
		{`\W+`, "a²-", []string{"a²", "-"}},
		{`\h+`, "xFg", []string{"x", "F", "g"}},
		{`\p{^L}`, "a1b", []string{"a", "1", "b"}},
		{`\p{Greek}+`, "aωΩb", []string{"a", "ωΩ", "b"}},
		{`[]a]+`, "]ab", []string{"]a", "b"}},
		{`[a-]+`, "b-a", []string{"b", "-a"}},
		{`\x41\u0042\x{43}`, "ABCABC", []string{"ABC", "ABC"}},
		{`\/\-`, "a/-", []string{"a", "/-"}},
	} {
		p, err := compileRegex(c.regex)
		if err != nil {
			t.Errorf("%s: %v", c.regex, err)
			continue
		}
		if got := piecesOf(t, p, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s in %q: %q, want %q", c.regex, c.text, got, c.want)
		}
	}
	for regex, want := range map[string]string{
		`(a`: "not closed", `a)`: "not opened", `[a`: "not closed", `\1`: `\1`, `\bx`: `\b`, `[[:alpha:]]x`: "bracket class",
		strings.Repeat("a|b", 1<<13): "a regex of 24576 bytes", `[a&&b]x`: "&&", `(?<n>a)`: "not supported", `\p{Nobody}`: "not known", `*a`: "repeats nothing", `|*`: "repeats nothing",
		`[^\x{0}-\x{10FFFF}]x`: "no character", `\`: "nothing behind", `[z-a]x`: "range", `\x{110000}`: "no character", `a**`: "a**",
	} {
		if _, err := compileRegex(regex); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", regex, err, want)
		}
	}
}

func TestSplitBehaviours(t *testing.T) {
	for _, c := range []struct {
		behave behaviour
		invert bool
		want   string // pieces of "ab..c.", cut at each full stop, joined by a space
	}{
		{isolated, false, "ab . . c ."},
		{removed, false, "ab c"},
		{contiguous, false, "ab .. c ."},
		{mergedWithPrevious, false, "ab. . c."},
		{mergedWithNext, false, "ab . .c ."},
		{isolated, true, "ab . . c ."},
		{removed, true, ". . ."},
		{contiguous, true, "ab .. c ."},
		{mergedWithPrevious, true, "ab . .c ."},
		{mergedWithNext, true, "ab. . c."},
	} {
		got, err := split{literal("."), c.invert, c.behave}.split(nil, "ab..c.", new(room))
		if s := strings.Join(got, " "); err != nil || s != c.want {
			t.Errorf("behaviour %d, invert %v: %q, want %q", c.behave, c.invert, s, c.want)
		}
	}
}

func mustCompile(t interface{ Fatal(...any) }, dialect string) pattern {
	regex, err := regexp2.Compile(dialect)
	if err != nil {
		t.Fatal(err)
	}
	return backtracking{regex, time.Hour, threadTime}
}

// A regex that backtracks without end is stopped and told of, by the time that it ran: that of a thread which had to wait does
// not count.
func TestRegexThatBlowsUp(t *testing.T) {
	p, err := compileRegex(`(a|aa)+$`)
	if err != nil {
		t.Fatal(err)
	}
	b, looks := p.(backtracking), 0
	b.most = 50 * time.Millisecond        // of what would take years
	for _, waiting := range []int{0, 2} { // attempts in which the thread seems not to run
		b.ran = func() time.Duration {
			if looks++; looks <= 2*waiting {
				return 0
			}
			return threadTime()
		}
		looks = 0
		if spans, err := b.matches(nil, strings.Repeat("a", 100)+"!"); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("%d matches, %v", len(spans), err)
		}
		if looks <= 2*waiting {
			t.Errorf("given up after %d looks at the clock, although it had not run by then", looks)
		}
	}
}
