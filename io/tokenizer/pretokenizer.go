package tokenizer

import (
	"encoding/json"
	"fmt"
)

// step is one pre-tokenizer: it appends the pieces of a text, none of them empty. What room points to is free to use to work in.
type step interface {
	split(dst []string, text string, room *[]span) ([]string, error)
}

// preTokenizer is the steps in order, and whether the model sees a piece as bytes.
type preTokenizer struct {
	steps     []step
	byteLevel bool
}

const preTokenizerKinds = "Sequence, ByteLevel, Split, Digits"

func readPreTokenizer(raw json.RawMessage) (p preTokenizer, err error) {
	err = eachInSequence(raw, "pretokenizers", func(kind string, raw json.RawMessage) error {
		if p.byteLevel {
			return fmt.Errorf("%s stands behind ByteLevel, which is supported as the last pre-tokenizer only", kind)
		}
		var steps []step
		var one step
		var err error
		switch kind {
		case "ByteLevel":
			p.byteLevel = true
			steps, err = readByteLevelSteps(raw)
		case "Split":
			one, err = readSplit(raw)
			steps = []step{one}
		case "Digits":
			one, err = readDigits(raw)
			steps = []step{one}
		default:
			return unknownKind("pre-tokenizer", preTokenizerKinds)
		}
		p.steps = append(p.steps, steps...)
		return err
	})
	return p, err
}
