package tokenizer

import (
	"encoding/json"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer is one step that rewrites a text before it is cut.
type normalizer interface {
	normalize(text string) (string, error)
}

const normalizerKinds = "Sequence, NFC, NFD, NFKC, NFKD, BertNormalizer, Lowercase, Strip, StripAccents, Prepend, " +
	"Replace, ByteLevel, Nmt, Precompiled"

func readNormalizer(raw json.RawMessage) (steps []normalizer, err error) {
	growth := 1
	err = eachInSequence(raw, "normalizers", func(kind string, raw json.RawMessage) error {
		one, err := readOneNormalizer(kind, raw)
		if r, ok := one.(replace); ok && err == nil {
			growth, err = r.grow(growth)
		}
		steps = append(steps, one)
		return err
	})
	return steps, err
}

func readOneNormalizer(kind string, raw json.RawMessage) (normalizer, error) {
	switch kind {
	case "NFC":
		return rewrite(unicodeForm{norm.NFC}.normalize), nil
	case "NFD":
		return rewrite(unicodeForm{norm.NFD}.normalize), nil
	case "NFKC":
		return rewrite(unicodeForm{norm.NFKC}.normalize), nil
	case "NFKD":
		return rewrite(unicodeForm{norm.NFKD}.normalize), nil
	case "BertNormalizer":
		return readBertNormalizer(raw)
	case "Lowercase":
		return rewrite(lowered), nil
	case "StripAccents":
		return rewrite(func(text string) string { return without(text, marks()) }), nil
	case "Strip":
		return readStrip(raw)
	case "Prepend":
		return readPrepend(raw)
	case "Replace":
		return readReplace(raw)
	case "ByteLevel":
		return rewrite(byteCharacters), nil
	case "Precompiled":
		return readPrecompiled(raw)
	case "Nmt":
		return rewrite(nmt), nil
	}
	return nil, unknownKind("normalizer", normalizerKinds)
}

// rewrite is a normalizer that cannot fail.
type rewrite func(text string) string

func (f rewrite) normalize(text string) (string, error) { return f(text), nil }

// marks is the category M.
var marks = sync.OnceValue(func() *members {
	return newMembers(fromTables(unicode.M).without(marksSince10...).with(runes{0x1CF2, 0x1CF3}))
})

func readStrip(raw json.RawMessage) (normalizer, error) {
	f := struct {
		Left  bool `json:"strip_left"`
		Right bool `json:"strip_right"`
	}{true, true}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return rewrite(func(text string) string {
		if f.Left {
			text = strings.TrimLeftFunc(text, isSpace)
		}
		if f.Right {
			text = strings.TrimRightFunc(text, isSpace)
		}
		return text
	}), nil
}

func readPrepend(raw json.RawMessage) (normalizer, error) {
	var f struct {
		Prepend string `json:"prepend"`
	}
	if err := readJSON(raw, &f); err != nil {
		return nil, err
	}
	return rewrite(func(text string) string {
		if text == "" {
			return ""
		}
		return f.Prepend + text
	}), nil
}

// byteCharacters writes the text's bytes as byte-level vocabularies do.
func byteCharacters(text string) string {
	var out strings.Builder
	for i := range len(text) {
		out.WriteRune(byteRune(text[i]))
	}
	return out.String()
}

// nmt drops control characters and makes all white space, and what passes for it, a space.
func nmt(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 1 <= r && r <= 8, r == 0xB, 0xE <= r && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
			return -1
		case r == 9, r == 0xA, r == 0xC, r == 0xD, r == 0x1680, 0x200B <= r && r <= 0x200F, r == 0x2028, r == 0x2029,
			r == 0x2581, r == 0xFEFF, r == 0xFFFD:
			return ' '
		}
		return r
	}, text)
}
