package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is found in a text before it is cut into pieces.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only where no word character touches it
	LStrip     bool   `json:"lstrip"`      // takes the white space before it
	RStrip     bool   `json:"rstrip"`      // takes the white space behind it
	Normalized bool   `json:"normalized"`  // is sought, normalized, in the normalized text
	Special    bool   `json:"special"`     // is left out of a decoding that skips special tokens
}

// finder finds added tokens in a text: at the leftmost place, the longest there; of two alike, the first added.
type finder struct {
	tokens []addedToken
	trie   trie
}

func newFinder(tokens []addedToken, normalize func(string) (string, error)) (*finder, error) {
	f := &finder{tokens: tokens}
	for i, token := range tokens {
		content, err := normalize(token.Content)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", token.Content, err)
		}
		if content != "" {
			f.trie.add(content, int32(i))
		}
	}
	return f, nil
}

// cut gives the parts of text in order: a token with its id, or the text between tokens with -1. The part of a
// token that strips holds its white space too.
func (f *finder) cut(text string, each func(part string, id int32) error) error {
	done := 0
	for at := 0; at < len(text); {
		begin, end, which := f.trie.find(text, at)
		if which < 0 {
			break
		}
		at = end
		token := &f.tokens[which]
		if token.SingleWord && (endsInWord(text[:begin]) || beginsWithWord(text[end:])) {
			continue
		}
		if token.LStrip {
			// A token before may have taken this white space already.
			begin = max(done, len(strings.TrimRightFunc(text[:begin], isSpace)))
		}
		if token.RStrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], isSpace))
		}
		if done < begin {
			if err := each(text[done:begin], -1); err != nil {
				return err
			}
		}
		done = end
		if begin >= end {
			continue // nothing but white space, and a token before has taken it
		}
		if err := each(text[begin:end], int32(token.ID)); err != nil {
			return err
		}
	}
	if done == len(text) {
		return nil
	}
	return each(text[done:], -1)
}

func isSpace(r rune) bool { return unicode.Is(unicode.White_Space, r) }

func endsInWord(s string) bool {
	r, size := utf8.DecodeLastRuneInString(s)
	return size > 0 && isWord(r)
}

func beginsWithWord(s string) bool {
	r, size := utf8.DecodeRuneInString(s)
	return size > 0 && isWord(r)
}

// isWord is \w of Unicode's regex standard (UTS 18, annex C), which counts the two joiners in.
func isWord(r rune) bool { return words().has(r) || unicode.Is(unicode.Join_Control, r) }

// trie finds the longest of many strings, byte by byte. The zero value is empty.
type trie struct {
	first [256]int32 // the node behind the root, by byte; 0: none
	nodes []trieNode // nodes[0] stands for none
}

type trieNode struct {
	which int32 // the string that ends here, or -1
	edges []trieEdge
}

type trieEdge struct {
	to   int32
	byte byte
}

func (t *trie) add(s string, which int32) {
	if len(t.nodes) == 0 {
		t.nodes = []trieNode{{which: -1}}
	}
	at := t.first[s[0]]
	if at == 0 {
		at = t.node()
		t.first[s[0]] = at
	}
	for i := 1; i < len(s); i++ {
		next := t.next(at, s[i])
		if next == 0 {
			next = t.node()
			t.nodes[at].edges = append(t.nodes[at].edges, trieEdge{next, s[i]})
		}
		at = next
	}
	if t.nodes[at].which < 0 {
		t.nodes[at].which = which
	}
}

func (t *trie) node() int32 {
	t.nodes = append(t.nodes, trieNode{which: -1})
	return int32(len(t.nodes) - 1)
}

func (t *trie) next(at int32, b byte) int32 {
	for _, e := range t.nodes[at].edges {
		if e.byte == b {
			return e.to
		}
	}
	return 0
}

// find gives the leftmost longest string of the trie in text[from:], or which = -1.
func (t *trie) find(text string, from int) (begin, end int, which int32) {
	if len(t.nodes) == 0 {
		return 0, 0, -1
	}
	for i := from; i < len(text); i++ {
		at := t.first[text[i]]
		if at == 0 {
			continue
		}
		which = -1
		for j := i + 1; ; j++ {
			if w := t.nodes[at].which; w >= 0 {
				which, end = w, j
			}
			if j == len(text) {
				break
			}
			if at = t.next(at, text[j]); at == 0 {
				break
			}
		}
		if which >= 0 {
			return i, end, which
		}
	}
	return 0, 0, -1
}
