package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
)

// template is the post-processor: what stands before, between and behind the ids of one text and of a pair.
type template struct {
	single, pair []templatePart
}

// templatePart is a text's ids or special tokens, and the segment (token type) that they count as.
type templatePart struct {
	text    int     // which of the texts, 0 or 1; -1: special
	special []int32 // where text is -1
	segment int32
}

// plain is the template that adds nothing.
func plain() template {
	first, second := templatePart{text: 0}, templatePart{text: 1, segment: 1}
	return template{[]templatePart{first}, []templatePart{first, second}}
}

const postProcessorKinds = "Sequence, ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing"

// readTemplate reads the post-processor for a tokenizer of that size. ByteLevel only trims offsets, which nobody here
// asks for.
func readTemplate(raw json.RawMessage, size int) (template, error) {
	result, some := plain(), false
	err := eachInSequence(raw, "processors", func(kind string, raw json.RawMessage) error {
		if kind == "ByteLevel" {
			return nil
		}
		if some {
			return errors.New("a second template in one Sequence is not supported")
		}
		some = true
		var err error
		switch kind {
		case "TemplateProcessing":
			result, err = readTemplateProcessing(raw, size)
		case "RobertaProcessing", "BertProcessing":
			result, err = readClsSep(raw, kind == "RobertaProcessing", size)
		default:
			return unknownKind("post-processor", postProcessorKinds)
		}
		return err
	})
	return result, err
}

func readTemplateProcessing(raw json.RawMessage, size int) (t template, err error) {
	type place struct {
		ID      string `json:"id"`
		Segment int32  `json:"type_id"`
	}
	type part struct{ SpecialToken, Sequence *place }
	var f struct {
		Single  []part `json:"single"`
		Pair    []part `json:"pair"`
		Special map[string]struct {
			IDs []int64 `json:"ids"`
		} `json:"special_tokens"`
	}
	if err := readJSON(raw, &f); err != nil {
		return t, err
	}
	read := func(parts []part, texts string) (list []templatePart, err error) {
		for i, p := range parts {
			switch {
			case p.SpecialToken != nil:
				special, ok := f.Special[p.SpecialToken.ID]
				if !ok {
					return nil, fmt.Errorf("[%d]: special_tokens has no %q", i, p.SpecialToken.ID)
				}
				ids, err := checkedIDs(special.IDs, size)
				if err != nil {
					return nil, fmt.Errorf("[%d]: %q: %w", i, p.SpecialToken.ID, err)
				}
				list = append(list, templatePart{-1, ids, p.SpecialToken.Segment})
			case p.Sequence != nil && len(p.Sequence.ID) == 1 && texts[0] <= p.Sequence.ID[0] &&
				p.Sequence.ID[0] <= texts[len(texts)-1]:
				list = append(list, templatePart{int(p.Sequence.ID[0] - 'A'), nil, p.Sequence.Segment})
			default:
				return nil, fmt.Errorf("[%d]: is neither a SpecialToken nor a Sequence out of %s", i, texts)
			}
		}
		return list, nil
	}
	if t.single, err = read(f.Single, "A"); err != nil {
		return t, fmt.Errorf("single%w", err)
	}
	if t.pair, err = read(f.Pair, "AB"); err != nil {
		return t, fmt.Errorf("pair%w", err)
	}
	return t, nil
}

// readClsSep reads the two older kinds: cls A sep, and for a pair cls A sep B sep (BERT, B and its sep of segment 1)
// or cls A sep sep B sep (RoBERTa, all of segment 0).
func readClsSep(raw json.RawMessage, roberta bool, size int) (t template, err error) {
	var f struct {
		Sep json.RawMessage `json:"sep"`
		Cls json.RawMessage `json:"cls"`
	}
	if err := readJSON(raw, &f); err != nil {
		return t, err
	}
	read := func(raw json.RawMessage, segment int32) (templatePart, error) {
		var pair [2]json.RawMessage // token, id
		var id int64
		if err := errors.Join(readJSON(raw, &pair), readJSON(pair[1], &id)); err != nil {
			return templatePart{}, errors.New(`is not ["token", id]`)
		}
		ids, err := checkedIDs([]int64{id}, size)
		return templatePart{-1, ids, segment}, err
	}
	cls, err := read(f.Cls, 0)
	if err != nil {
		return t, fmt.Errorf("cls: %w", err)
	}
	sep, err := read(f.Sep, 0)
	if err != nil {
		return t, fmt.Errorf("sep: %w", err)
	}
	return clsSep(cls, sep, roberta), nil
}

func clsSep(cls, sep templatePart, roberta bool) (t template) {
	a, b := templatePart{text: 0}, templatePart{text: 1}
	t.single = []templatePart{cls, a, sep}
	if roberta {
		t.pair = []templatePart{cls, a, sep, sep, b, sep}
		return t
	}
	last := sep
	b.segment, last.segment = 1, 1
	t.pair = []templatePart{cls, a, sep, b, last}
	return t
}

func checkedIDs(ids []int64, size int) ([]int32, error) {
	list := make([]int32, len(ids))
	for i, id := range ids {
		if id < 0 || id >= int64(size) {
			return nil, fmt.Errorf("the id %d is none of the tokenizer's, 0 to %d", id, size-1)
		}
		list[i] = int32(id)
	}
	return list, nil
}
