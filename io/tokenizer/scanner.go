package tokenizer

import "strings"

// A scanner finds the matches of one known regex by hand: at gives where the match that begins at s[i] ends, and i
// where none begins there. No match is empty, and a text is scanned in time that grows with its length alone: the
// backtracking that a regex engine would do is worked out in the comments below.
type scanner struct {
	at func(c *classTable, s string, i int) int
}

func (p scanner) matches(dst []span, text string) ([]span, error) {
	c := classes()
	for i := 0; i < len(text); {
		end := p.at(c, text, i)
		if end == i {
			_, size := c.at(text, i)
			i += size
			continue
		}
		dst = append(dst, span{i, end})
		i = end
	}
	return dst, nil
}

// The regexes that the families' tokenizers use, as they stand in tokenizer.json.
const (
	gpt2Regex     = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Regex   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Regex    = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	o200kRegex    = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	lineEndRegex  = `\s+$`
	deepseekRegex = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

var scanners = map[string]pattern{
	gpt2Regex:     scanner{gpt2At},
	llama3Regex:   scanner{llama3At(3)},
	qwen2Regex:    scanner{llama3At(1)},
	o200kRegex:    scanner{o200kAt},
	deepseekRegex: scanner{deepseekAt},
	lineEndRegex:  spaceAtLineEnd{},
}

func gpt2At(c *classTable, s string, i int) int {
	if end := contraction(s, i, false); end > i {
		return end
	}
	first := i // of the word, after the space it may begin with
	if s[i] == ' ' && i+1 < len(s) {
		first++
	}
	kind, size := c.at(s, first)
	switch {
	case kind&letter != 0:
		return c.run(s, first+size, letter)
	case kind&number != 0:
		return c.run(s, first+size, number)
	case kind&space == 0:
		return c.run(s, first+size, ^(letter | number | space))
	}
	return whiteSpace(c, s, i)
}

// llama3At is also Qwen2's, which takes its digits one at a time.
func llama3At(digits int) func(c *classTable, s string, i int) int {
	return func(c *classTable, s string, i int) int {
		if end := contraction(s, i, true); end > i {
			return end
		}
		kind, size := c.at(s, i)
		switch {
		case kind&letter != 0:
			return c.run(s, i+size, letter)
		case kind&number != 0:
			return numbers(c, s, i, digits)
		case kind != newline:
			if next, n := c.at(s, i+size); next&letter != 0 {
				return c.run(s, i+size+n, letter)
			}
		}
		if end := marksAndSigns(c, s, i, ^(space | letter | number)); end > i {
			return c.run(s, end, newline)
		}
		return lineEndsOrSpace(c, s, i)
	}
}

func o200kAt(c *classTable, s string, i int) int {
	kind, size := c.at(s, i)
	// The first two alternatives are a word in small letters and one in capitals, each tried with one character of
	// anything before it, then without.
	before := kind&(newline|letter|number) == 0
	for _, word := range [...]func(*classTable, string, int) int{smallWord, capitalWord} {
		if before {
			if end := word(c, s, i+size); end > i+size {
				return end
			}
		}
		if kind&(letter|mark) != 0 {
			if end := word(c, s, i); end > i {
				return end
			}
		}
	}
	if kind&number != 0 {
		return numbers(c, s, i, 3)
	}
	if end := marksAndSigns(c, s, i, ^(space | letter | number)); end > i {
		for end < len(s) && (s[end] == '\r' || s[end] == '\n' || s[end] == '/') {
			end++
		}
		return end
	}
	return lineEndsOrSpace(c, s, i)
}

// smallWord is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ and a contraction. The first run takes all
// it can; where no small letter follows, it gives back characters until one that the second run takes as well, a
// caseless letter or a mark. Only capitals follow that one, so the match ends after it.
func smallWord(c *classTable, s string, i int) int {
	end, both := i, i // both: the end of the last character that lies in both runs
	for {
		kind, size := c.at(s, end)
		if kind&lower != 0 {
			both = c.run(s, end, lower|caseless|mark)
			break
		}
		if kind&(upper|caseless|mark) == 0 {
			break
		}
		end += size
		if kind != upper {
			both = end
		}
	}
	if both == i {
		return i
	}
	return max(both, contraction(s, both, true))
}

// capitalWord is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]* and a contraction, where smallWord failed:
// so all are capitals.
func capitalWord(c *classTable, s string, i int) int {
	end := c.run(s, i, upper)
	if end == i {
		return i
	}
	return max(end, contraction(s, end, true))
}

func deepseekAt(c *classTable, s string, i int) int {
	kind, size := c.at(s, i)
	if s[i] < 0x80 && kind&(punct|symbol) != 0 {
		end := i + 1
		for end < len(s) && ('a' <= s[end]|0x20 && s[end]|0x20 <= 'z') {
			end++
		}
		if end > i+1 {
			return end
		}
	}
	if kind&(letter|mark) != 0 {
		return c.run(s, i+size, letter|mark)
	}
	if kind&(newline|punct|symbol) == 0 {
		if end := c.run(s, i+size, letter|mark); end > i+size {
			return end
		}
	}
	if end := marksAndSigns(c, s, i, punct|symbol); end > i {
		return c.run(s, end, newline)
	}
	if kind&space == 0 {
		return i // a digit or a control character: no match begins here
	}
	return lineEndsOrSpace(c, s, i)
}

// contraction is 's|'t|'re|'ve|'m|'ll|'d. With fold it has any case, where Unicode counts the long s as one of s.
func contraction(s string, i int, fold bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return i
	}
	small := func(i int) byte {
		if i >= len(s) {
			return 0
		}
		if fold && 'A' <= s[i] && s[i] <= 'Z' {
			return s[i] | 0x20
		}
		return s[i]
	}
	switch a, b := small(i+1), small(i+2); {
	case a == 's', a == 't', a == 'm', a == 'd':
		return i + 2
	case (a == 'r' || a == 'v') && b == 'e', a == 'l' && b == 'l':
		return i + 3
	case fold && a == 0xC5 && b == 0xBF: // ſ
		return i + 3
	}
	return i
}

// numbers is \p{N}{1,most}, where one begins at i.
func numbers(c *classTable, s string, i, most int) int {
	for ; most > 0; most-- {
		kind, size := c.at(s, i)
		if kind&number == 0 {
			break
		}
		i += size
	}
	return i
}

// marksAndSigns is a space or none, then a run of set.
func marksAndSigns(c *classTable, s string, i int, set class) int {
	first := i
	if s[i] == ' ' {
		first++
	}
	if end := c.run(s, first, set); end > first {
		return end
	}
	return i
}

// lineEndsOrSpace is \s*[\r\n]+|\s+(?!\S)|\s+ at a white space: up to the last line end of the run, if it has one.
func lineEndsOrSpace(c *classTable, s string, i int) int {
	end := i
	for j := i; ; {
		kind, size := c.at(s, j)
		if kind&space == 0 {
			break
		}
		j += size
		if kind == newline {
			end = j
		}
	}
	if end > i {
		return end
	}
	return whiteSpace(c, s, i)
}

// whiteSpace is \s+(?!\S)|\s+ at a white space: the run, less its last character where something follows, which
// then belongs to what follows; that character alone where it is the only one.
func whiteSpace(c *classTable, s string, i int) int {
	end, last := i, i
	for {
		kind, size := c.at(s, end)
		if kind&space == 0 {
			break
		}
		last = end
		end += size
	}
	if end == len(s) || last == i {
		return end
	}
	return last
}

// spaceAtLineEnd is \s+$, where $ is before any \n or at the end. In a run of white space that ends the text, the
// match is the run; in another, it ends before the run's last \n. What is left of the run has no match, and is passed
// at once: tried from each of its places, it would take quadratic time.
type spaceAtLineEnd struct{}

func (spaceAtLineEnd) matches(dst []span, text string) ([]span, error) {
	c := classes()
	for i := 0; i < len(text); {
		kind, size := c.at(text, i)
		if kind&space == 0 {
			i += size
			continue
		}
		run := c.run(text, i, space)
		end := run
		if run < len(text) {
			end = i + max(0, strings.LastIndexByte(text[i:run], '\n'))
		}
		if end > i {
			dst = append(dst, span{i, end})
		}
		i = run
	}
	return dst, nil
}
