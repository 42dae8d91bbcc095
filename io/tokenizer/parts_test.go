package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// part is a line of parts.jsonl: one part of a pipeline as tokenizer.json spells it, with texts and what the reference
// makes of them. The case of a decoder has pieces first; null is an error.
type part struct {
	Normalizer   json.RawMessage
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Model        json.RawMessage
	Decoder      json.RawMessage
	Cases        [][2]json.RawMessage
}

func parts(t *testing.T) (list []part) {
	t.Helper()
	files, err := packed()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(files["parts"]["parts.jsonl"]) {
		var p part
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 140 {
		t.Fatalf("%d parts", len(list))
	}
	return list
}

func decode[T any](t *testing.T, raw json.RawMessage) (value T) {
	t.Helper()
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestNormalizers(t *testing.T) {
	for _, p := range parts(t) {
		if p.Normalizer == nil {
			continue
		}
		spec := p.Normalizer
		if strings.Contains(string(spec), "Precompiled") { // the family's own, which is not written out twice
			spec = decode[pipeline](t, readWhole(t, "xlmr-unigram", "tokenizer.json")).Normalizer
		}
		steps, err := readNormalizer(spec)
		if err != nil {
			t.Errorf("%s: %v", p.Normalizer, err)
			continue
		}
		tokens := &Tokenizer{normalizers: steps}
		for _, c := range p.Cases {
			text, want := decode[string](t, c[0]), decode[string](t, c[1])
			if got, err := tokens.normalize(text); err != nil || got != want {
				t.Errorf("%.200s: %+q: %v, %+q, want %+q", p.Normalizer, text, err, got, want)
			}
		}
	}
}

func TestPreTokenizers(t *testing.T) {
	for _, p := range parts(t) {
		if p.PreTokenizer == nil {
			continue
		}
		pre, err := readPreTokenizer(p.PreTokenizer)
		if err != nil {
			t.Errorf("%s: %v", p.PreTokenizer, err)
			continue
		}
		if pre.byteLevel {
			pre.steps = append(pre.steps, toByteCharacters{})
		}
		var seen pieceModel
		tokens := &Tokenizer{steps: pre.steps, model: &seen}
		for _, c := range p.Cases {
			text, want := decode[string](t, c[0]), decode[[]string](t, c[1])
			seen = nil
			e := encoding{tokens: tokens, room: new(room), first: true}
			if err := e.add(text, -1); err != nil || !slices.Equal(seen, want) {
				t.Errorf("%s: %+q: %v, %+q, want %+q", p.PreTokenizer, text, err, []string(seen), want)
			}
		}
	}
}

// pieceModel is a model that only notes its pieces.
type pieceModel []string

func (m *pieceModel) append(ids []int32, piece string) ([]int32, error) {
	*m = append(*m, piece)
	return ids, nil
}
func (m *pieceModel) vocabulary() map[string]int32 { return nil }

func TestModels(t *testing.T) {
	for _, p := range parts(t) {
		if p.Model == nil {
			continue
		}
		tokens, err := parse([]byte(`{"pre_tokenizer": {"type": "WhitespaceSplit"}, "model": ` + string(p.Model) + `}`))
		if err != nil {
			t.Errorf("%.300s: %v", p.Model, err)
			continue
		}
		for _, c := range p.Cases {
			text, want := decode[string](t, c[0]), decode[[]int32](t, c[1])
			if got, err := tokens.Encode(text, false); (err != nil) != (want == nil) || !slices.Equal(got, want) {
				t.Errorf("%.300s: %q: %v, %v, want %v", p.Model, text, err, got, want)
			}
		}
	}
}

func TestDecoders(t *testing.T) {
	for _, p := range parts(t) {
		if p.Decoder == nil {
			continue
		}
		d, err := readDecoder(p.Decoder)
		if err != nil {
			t.Errorf("%s: %v", p.Decoder, err)
			continue
		}
		decoding := d.start()
		for _, c := range p.Cases { // one decoding for all: each flush begins anew
			pieces, want, got := decode[[]string](t, c[0]), decode[string](t, c[1]), ""
			for _, piece := range pieces {
				got += string(decoding.push(nil, piece))
				if !strings.HasPrefix(want, got) {
					t.Errorf("%s: %+q: given out %+q, which is no beginning of %+q", p.Decoder, pieces, got, want)
				}
			}
			pending := got + string(decoding.pending(nil))
			if got += string(decoding.flush(nil)); got != want || pending != want {
				t.Errorf("%s: %+q: %+q, want %+q", p.Decoder, pieces, got, want)
			}
		}
	}
}
