package tokenizer

import (
	"testing"

	"pgregory.net/rapid"
)

// TestStreamsOfAnyIDs: what is given out is certain, and the whole is the decoding, for any ids of any family.
func TestStreamsOfAnyIDs(t *testing.T) {
	for _, family := range families {
		tokens := load(t, family)
		rapid.Check(t, func(t *rapid.T) {
			ids := rapid.SliceOfN(rapid.Int32Range(-1, int32(tokens.Size())), 0, 12).Draw(t, "ids")
			skip := rapid.Bool().Draw(t, "skip")
			stream, got := tokens.Stream(skip), ""
			for i, id := range ids {
				got += stream.Push(id)
				if want := tokens.Decode(ids[:i+1], skip); got+stream.Pending() != want {
					t.Fatalf("%s: %v: %q and pending %q, want %q", family, ids[:i+1], got, stream.Pending(), want)
				}
			}
			if got += stream.Flush(); got != tokens.Decode(ids, skip) {
				t.Fatalf("%s: %v: %q, want %q", family, ids, got, tokens.Decode(ids, skip))
			}
		})
	}
}

// TestLossless: what these families encode, they decode to what it was; but a ▁, which is a space's.
func TestLossless(t *testing.T) {
	for _, family := range []string{"gpt2", "llama3", "deepseek_v2", "gpt_oss", "bloom", "llama2", "gemma"} {
		tokens := load(t, family)
		rapid.Check(t, func(t *rapid.T) {
			text := awkwardText().Draw(t, "text")
			ids, err := tokens.Encode(text, false)
			if got := tokens.Decode(ids, false); err != nil || got != text {
				t.Fatalf("%s: %v, %q came back as %q", family, err, text, got)
			}
		})
	}
}
