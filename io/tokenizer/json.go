package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// pipeline is tokenizer.json as it stands: https://huggingface.co/docs/tokenizers names its parts. Truncation and
// padding, which the file can also hold, are the caller's business and are left unread, as transformers does.
type pipeline struct {
	AddedTokens   json.RawMessage `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// readJSON decodes raw and words the decoder's errors for a person who has the file, not this program, before him.
func readJSON(raw []byte, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return errors.New("is missing")
	}
	err := json.Unmarshal(raw, into)
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong):
		if wrong.Field != "" {
			return fmt.Errorf("%s: %s cannot be read as %s", wrong.Field, wrong.Value, wrong.Type)
		}
		return fmt.Errorf("%s cannot be read as %s", wrong.Value, wrong.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("byte %d: %w", syntax.Offset, err)
	}
	return err
}

func isNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// kindOf reads the field "type" that every part of the pipeline has, "" where it is missing. It stands first in
// files in use, so that little of a large part is read twice.
func kindOf(raw json.RawMessage) (string, error) {
	fields := json.NewDecoder(bytes.NewReader(raw))
	if open, err := fields.Token(); err != nil || open != json.Delim('{') {
		return "", errors.New("is no object")
	}
	for fields.More() {
		name, err := fields.Token()
		if err != nil {
			return "", err
		}
		if name != "type" {
			var other json.RawMessage
			if err := fields.Decode(&other); err != nil {
				return "", err
			}
			continue
		}
		var kind string
		if err := fields.Decode(&kind); err != nil {
			return "", errors.New("type: is no string")
		}
		return kind, nil
	}
	return "", nil
}

// deepest is how far a Sequence may lie in Sequences: real files have one level.
const deepest = 8

// eachInSequence calls do for a part that stands alone, or for each part of a Sequence (and of Sequences in it),
// whose list is the field named list. Null is no part.
func eachInSequence(raw json.RawMessage, list string, do func(kind string, raw json.RawMessage) error) error {
	return eachAtDepth(raw, list, do, 0)
}

func eachAtDepth(raw json.RawMessage, list string, do func(string, json.RawMessage) error, depth int) error {
	if isNull(raw) {
		return nil
	}
	kind, err := kindOf(raw)
	if err != nil {
		return err
	}
	if kind == "" {
		return errors.New("type: is missing")
	}
	if kind != "Sequence" {
		if err := do(kind, raw); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		return nil
	}
	if depth == deepest {
		return fmt.Errorf("a Sequence lies in %d Sequences", deepest)
	}
	var fields map[string]json.RawMessage
	if err := readJSON(raw, &fields); err != nil {
		return err
	}
	var parts []json.RawMessage
	if err := readJSON(fields[list], &parts); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	for i, part := range parts {
		if err := eachAtDepth(part, list, do, depth+1); err != nil {
			return fmt.Errorf("%s[%d]: %w", list, i, err)
		}
	}
	return nil
}

func unknownKind(part, known string) error {
	return fmt.Errorf("this kind of %s is not supported; supported: %s", part, known)
}
