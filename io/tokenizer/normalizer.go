package tokenizer

import (
	"encoding/json"

	"golang.org/x/text/unicode/norm"
)

// normalizer is one step that rewrites a text before it is cut.
type normalizer interface {
	normalize(text string) string
}

const normalizerKinds = "Sequence, NFC, NFD, NFKC, NFKD"

func readNormalizer(raw json.RawMessage) (steps []normalizer, err error) {
	err = eachInSequence(raw, "normalizers", func(kind string, _ json.RawMessage) error {
		f, ok := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}[kind]
		if !ok {
			return unknownKind("normalizer", normalizerKinds)
		}
		steps = append(steps, unicodeForm{f})
		return nil
	})
	return steps, err
}
