package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// families are the folders of testdata: tokenizers of some 3000 pieces with the pipelines of real families, and the
// answers of Hugging Face's tokenizers 0.22.2 (testdata/README.md).
var families = []string{
	"gpt2", "gpt2-vocab-merges", "opt", "opt-vocab-merges", "llama3", "qwen2", "qwen3", "gpt_neox", "olmoe",
	"added-flags", "deepseek_v2", "deepseek_v3", "gpt_oss", "gpt4o", "bloom", "bert-uncased", "bert-cased",
	"llama2", "mistral-metaspace", "gemma", "t5-unigram", "xlmr-unigram",
}

// answer is one line of cases.jsonl; what is left out is nil.
type answer struct {
	Kind        string
	Text        string
	TextPair    string  `json:"text_pair"`
	IDs         []int32 `json:"ids"`
	Special     []int32 `json:"ids_special"`
	Transformed []int32 `json:"ids_special_transformers"`
	Segments    []int32 `json:"type_ids"`
	Decoded     *string
	DecodedSkip *string `json:"decoded_skip"`
	Offsets     []int
	Skip        bool `json:"skip_special_tokens"`
	Final       string
	Pieces      []*string
}

func load(t testing.TB, family string) *Tokenizer {
	t.Helper()
	tokens, err := Load(folder(t, family))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func answers(t testing.TB, family, kind string) (list []answer) {
	t.Helper()
	for line := range bytes.Lines(readWhole(t, family, "cases.jsonl")) {
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatal(err)
		}
		if a.Kind == kind {
			list = append(list, a)
		}
	}
	return list
}

func TestTexts(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			tokens := load(t, family)
			list := answers(t, family, "text")
			if len(list) < 100 {
				t.Fatalf("%d cases", len(list))
			}
			for _, a := range list {
				checkText(t, tokens, a)
			}
		})
	}
}

func checkText(t *testing.T, tokens *Tokenizer, a answer) {
	t.Helper()
	special := a.Special // by tokenizer.json alone
	if special == nil {
		special = a.IDs
	}
	decoded, skipped := a.Text, a.Text
	if a.Decoded != nil {
		decoded = *a.Decoded
	}
	if a.DecodedSkip != nil {
		skipped = *a.DecodedSkip
	}
	if got := tokens.Decode(special, false); got != decoded {
		t.Errorf("%q: decoded %q, want %q", a.Text, got, decoded)
	}
	if got := tokens.Decode(special, true); got != skipped {
		t.Errorf("%q: decoded without special tokens %q, want %q", a.Text, got, skipped)
	}
	if a.Transformed != nil {
		special = a.Transformed // the folder's own answer, tokenizer_config.json obeyed
	}
	if got, err := tokens.Encode(a.Text, false); err != nil || !slices.Equal(got, a.IDs) {
		t.Errorf("%q: %v, ids %v, want %v", a.Text, err, got, a.IDs)
	}
	if got, err := tokens.Encode(a.Text, true); err != nil || !slices.Equal(got, special) {
		t.Errorf("%q: %v, ids with special tokens %v, want %v", a.Text, err, got, special)
	}
	if _, bytes := tokens.decoder.(byteLevelDecoder); bytes && a.Offsets != nil {
		checkOffsets(t, tokens, a)
	}
}

// TestBehind: without that many tokens at its end, what the post-processor has made of a text ends with the text's own.
func TestBehind(t *testing.T) {
	for family, want := range map[string]int{"gpt2": 0, "llama2": 0, "bert-cased": 1, "t5-unigram": 1, "xlmr-unigram": 1} {
		if got := load(t, family).Behind(); got != want {
			t.Errorf("%s: %d, want %d", family, got, want)
		}
	}
}

// checkOffsets lays the tokens' bytes along the text: each must cover the characters that the reference says.
// It holds where no normalizer changes the text, which is where offsets are given.
func checkOffsets(t *testing.T, tokens *Tokenizer, a answer) {
	t.Helper()
	var got []int
	begin := 0
	for _, id := range a.IDs {
		piece, _ := tokens.Token(id)
		bytes, _ := appendBytes(nil, piece)
		end := begin + len(bytes)
		if end > len(a.Text) || a.Text[begin:end] != string(bytes) {
			t.Errorf("%q: token %q is not at byte %d", a.Text, piece, begin)
			return
		}
		last := end - 1
		for !utf8.RuneStart(a.Text[last]) {
			last--
		}
		first := begin
		for !utf8.RuneStart(a.Text[first]) {
			first--
		}
		got = append(got, utf8.RuneCountInString(a.Text[:first]), utf8.RuneCountInString(a.Text[:last])+1)
		begin = end
	}
	if !slices.Equal(got, a.Offsets) {
		t.Errorf("%q: offsets %v, want %v", a.Text, got, a.Offsets)
	}
}

func TestPairs(t *testing.T) {
	some := 0
	for _, family := range families {
		tokens := load(t, family)
		for _, a := range answers(t, family, "pair") {
			some++
			ids, segments, err := tokens.EncodePair(a.Text, a.TextPair)
			if err != nil || !slices.Equal(ids, a.Special) || !slices.Equal(segments, a.Segments) {
				t.Errorf("%s: %q, %q: %v, ids %v segments %v, want %v and %v", family, a.Text, a.TextPair, err, ids, segments, a.Special, a.Segments)
			}
		}
	}
	if some != 35 {
		t.Errorf("%d cases of pairs, want 35", some)
	}
}

func TestStreams(t *testing.T) {
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			tokens := load(t, family)
			list := answers(t, family, "stream")
			if len(list) < 70 {
				t.Fatalf("%d cases", len(list))
			}
			stream := map[bool]*Stream{false: tokens.Stream(false), true: tokens.Stream(true)}
			for _, a := range list {
				got, reference := "", ""
				for i, id := range a.IDs {
					got += stream[a.Skip].Push(id)
					if !strings.HasPrefix(a.Final, got) {
						t.Fatalf("%v: given out %q after %d ids, which is no beginning of %q", a.IDs, got, i+1, a.Final)
					}
					if a.Pieces == nil {
						continue
					}
					byteRun := false // of which nothing is certain yet, though the reference gives it out
					if _, bytes := tokens.decoder.(byteLevelDecoder); !bytes {
						piece, _ := tokens.Token(id)
						_, byteRun = fallbackByte(piece)
					}
					if a.Pieces[i] != nil {
						reference += *a.Pieces[i]
					}
					// The reference holds back what ends in U+FFFD; otherwise it is as early as can be.
					if len(got) < len(reference) && !byteRun {
						t.Errorf("%v: given out %q after %d ids, the reference %q", a.IDs, got, i+1, reference)
					}
				}
				if pending := stream[a.Skip].Pending(); got+pending != a.Final {
					t.Errorf("%v: streamed %q, pending %q, want %q", a.IDs, got, pending, a.Final)
				}
				got += stream[a.Skip].Flush()
				if whole := tokens.Decode(a.IDs, a.Skip); got != a.Final || whole != a.Final {
					t.Errorf("%v: streamed %q, decoded %q, want %q", a.IDs, got, whole, a.Final)
				}
			}
		})
	}
}
