package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"unicode"
	"unicode/utf8"
)

// step is one pre-tokenizer: it appends the pieces of a text, none of them empty. Of the room it works in the spans,
// and it clears begin where it drops the text's begin.
type step interface {
	split(dst []string, text string, r *room) ([]string, error)
}

// preTokenizer is the steps in order, and whether the last is ByteLevel, which leaves to the model to see a piece as
// bytes.
type preTokenizer struct {
	steps     []step
	byteLevel bool
}

const preTokenizerKinds = "Sequence, ByteLevel, Split, Digits, Metaspace, BertPreTokenizer, Whitespace, WhitespaceSplit, " +
	"Punctuation, CharDelimiterSplit, FixedLength"

func readPreTokenizer(raw json.RawMessage) (p preTokenizer, err error) {
	err = eachInSequence(raw, "pretokenizers", func(kind string, raw json.RawMessage) error {
		if p.byteLevel {
			p.steps, p.byteLevel = append(p.steps, toByteCharacters{}), false
		}
		steps, err := readSteps(kind, raw)
		p.steps = append(p.steps, steps...)
		p.byteLevel = kind == "ByteLevel"
		return err
	})
	return p, err
}

func readSteps(kind string, raw json.RawMessage) (steps []step, err error) {
	var one step
	switch kind {
	case "ByteLevel":
		return readByteLevelSteps(raw)
	case "BertPreTokenizer":
		return []step{
			split{pattern: runsOf(blanks(), 1), behave: removed},
			split{pattern: runsOf(punctuation(), 1)},
		}, nil
	case "Split":
		one, err = readSplit(raw)
	case "Digits":
		one, err = readDigits(raw)
	case "Metaspace":
		one, err = readMetaspace(raw)
	case "Whitespace":
		one = split{pattern: wordsAndSigns{newMembers(words().with(fromTables(unicode.Join_Control)...)), blanks()}, invert: true, behave: removed}
	case "WhitespaceSplit":
		one = split{pattern: runsOf(blanks(), 1), behave: removed}
	case "Punctuation":
		one, err = readPunctuation(raw)
	case "CharDelimiterSplit":
		one, err = readDelimiter(raw)
	case "FixedLength":
		one, err = readFixedLength(raw)
	case "UnicodeScripts":
		err = errors.New("this pre-tokenizer is not supported: the reference's table of scripts is an old one; use Split with \\p{…}")
	default:
		err = unknownKind("pre-tokenizer", preTokenizerKinds)
	}
	return []step{one}, err
}

// punctuation is ASCII's signs and the category P as the reference knows it.
var punctuation = sync.OnceValue(func() *members {
	set := fromTables(unicode.P).without(punctuationSince9...).with(runes{0x166D, 0x166D}, runes{0x111C9, 0x111C9})
	return newMembers(set.with(runes{'!', '/'}, runes{':', '@'}, runes{'[', '`'}, runes{'{', '~'}))
})

func readPunctuation(raw json.RawMessage) (step, error) {
	f := struct {
		Behavior string `json:"behavior"`
	}{"Isolated"}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	b, err := readBehaviour(f.Behavior)
	return split{pattern: runsOf(punctuation(), 1), behave: b}, err
}

func readDelimiter(raw json.RawMessage) (step, error) {
	var f struct {
		Delimiter string `json:"delimiter"`
	}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(f.Delimiter) != 1 {
		return nil, fmt.Errorf("delimiter: %q is not one character", f.Delimiter)
	}
	return split{pattern: literal(f.Delimiter), behave: removed}, nil
}

func readFixedLength(raw json.RawMessage) (step, error) {
	f := struct {
		Length int `json:"length"`
	}{5}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	if f.Length < 1 {
		return nil, fmt.Errorf("length: a piece of %d characters is none", f.Length)
	}
	all := newMembers(charset(nil).not())
	return split{pattern: runsOf(all, f.Length)}, nil
}

// wordsAndSigns is \w+|[^\w\s]+, the regex of Whitespace.
type wordsAndSigns struct{ word, space *members }

func (p wordsAndSigns) matches(dst []span, text string) ([]span, error) {
	const none, word, sign = 0, 1, 2
	last := none
	for i := 0; i < len(text); {
		kind, size := word, p.word.at(text, i)
		if size == 0 {
			if kind, size = none, p.space.at(text, i); size == 0 {
				kind = sign
				_, size = utf8.DecodeRuneInString(text[i:])
			}
		}
		switch {
		case kind == none:
		case kind == last:
			dst[len(dst)-1].end = i + size
		default:
			dst = append(dst, span{i, i + size})
		}
		last = kind
		i += size
	}
	return dst, nil
}
