package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// byDefinition joins the pair of the lowest rank, the leftmost of those, until none is left.
func byDefinition(merges map[[2]int32]merge, symbols []int32) []int32 {
	symbols = slices.Clone(symbols)
	for {
		best, rank := -1, int32(never)
		for i := range len(symbols) - 1 {
			if m, ok := merges[[2]int32{symbols[i], symbols[i+1]}]; ok && m.rank < rank {
				best, rank = i, m.rank
			}
		}
		if best < 0 {
			return symbols
		}
		symbols = slices.Replace(symbols, best, best+2, merges[[2]int32{symbols[best], symbols[best+1]}].id)
	}
}

func TestMerges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A vocabulary as training makes one: each merge joins two pieces there are already. Ranks are shuffled, so
		// that a piece may be wanted before its parts are there.
		letters := int32(rapid.IntRange(1, 4).Draw(t, "letters"))
		n := rapid.IntRange(0, 30).Draw(t, "merges")
		ranks := rapid.Permutation(ascending(n)).Draw(t, "ranks")
		table, merges := newMergeTable(n), map[[2]int32]merge{}
		ids := map[string]int32{}
		var pieces []string
		for i := range letters {
			ids[string('a'+i)] = i
			pieces = append(pieces, string('a'+i))
		}
		for i := range n {
			left := rapid.Int32Range(0, int32(len(pieces))-1).Draw(t, "left")
			right := rapid.Int32Range(0, int32(len(pieces))-1).Draw(t, "right")
			joined := pieces[left] + pieces[right]
			if _, ok := ids[joined]; !ok {
				ids[joined] = int32(len(pieces))
				pieces = append(pieces, joined)
			}
			m := merge{ranks[i], ids[joined]}
			merges[[2]int32{left, right}] = m
			table.put(left, right, m)
		}
		symbols := rapid.SliceOfN(rapid.Int32Range(0, letters-1), 0, fewSymbols).Draw(t, "symbols")
		want := byDefinition(merges, symbols)
		if got := table.joinFew(nil, slices.Clone(symbols)); !slices.Equal(got, want) {
			t.Errorf("few: %v, want %v", got, want)
		}
		if got := table.joinMany(nil, slices.Clone(symbols)); !slices.Equal(got, want) {
			t.Errorf("many: %v, want %v", got, want)
		}
	})
}

func ascending(n int) []int32 {
	list := make([]int32, n)
	for i := range list {
		list[i] = int32(i)
	}
	return list
}

func TestUnknownCharacters(t *testing.T) {
	const vocab = `"vocab":{"a":0,"b":1,"ab":2,"?":3,"<0xC3>":4,"<0xA9>":5},"merges":["a b"]`
	for _, c := range []struct {
		flags, text string
		want        []int32
	}{
		{``, "abéxa", []int32{2, 0}}, // no unknown token: left out
		{`"unk_token":"?",`, "xéab?", []int32{3, 3, 2, 3}},
		{`"unk_token":"?","fuse_unk":true,`, "xéab?x", []int32{3, 2, 3, 3}},
		{`"unk_token":"?","byte_fallback":true,`, "éx", []int32{4, 5, 3}},
		{`"unk_token":"?","byte_fallback":true,"fuse_unk":true,`, "xyéz", []int32{4, 5, 3}}, // as tokenizers 0.22.2
		{`"unk_token":"?","byte_fallback":true,`, "xyéz", []int32{3, 4, 5, 3, 3}},
	} {
		tokens, err := parse([]byte(`{"model":{"type":"BPE",` + c.flags + vocab + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tokens.Encode(c.text, false); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, %v, want %v", c.flags, c.text, err, got, c.want)
		}
	}
}

// TestAffixes: the answers are those of tokenizers 0.22.2.
func TestAffixes(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       []int32
	}{
		{`"continuing_subword_prefix":"##","vocab":{"a":0,"b":1,"##b":2,"a##":3,"ab":4},"merges":["a ##b"]`, "abb", []int32{4, 2}},
		{`"end_of_word_suffix":"</w>","vocab":{"a":0,"b":1,"b</w>":2,"ab</w>":3,"a</w>":4},"merges":["a b</w>"]`, "ab", []int32{3}},
		{`"end_of_word_suffix":"</w>","vocab":{"a":0,"b":1,"b</w>":2,"ab</w>":3,"a</w>":4},"merges":["a b</w>"]`, "aba", []int32{0, 1, 4}},
		{`"unk_token":"a","end_of_word_suffix":"</w>","vocab":{"a":0,"b":1,"b</w>":2},"merges":[]`, "ba", []int32{1, 0}},
	} {
		tokens, err := parse([]byte(`{"model":{"type":"BPE",` + c.file + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tokens.Encode(c.text, false); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s %q: %v, %v, want %v", c.file, c.text, err, got, c.want)
		}
	}
}

// TestCutAtMarks: the words of a text, merged one by one, are the text merged as a whole.
func TestCutAtMarks(t *testing.T) {
	for _, family := range []string{"llama2", "gemma"} {
		m := load(t, family).model.(*bpe)
		if m.mark != spaceMark {
			t.Errorf("%s: is never cut", family)
		}
		letters := []rune("▁▁▁▁thehesandin\n\té😀")
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.StringOfN(rapid.SampledFrom(letters), 0, 100, -1).Draw(t, "text")
			got, err := m.append(nil, text)
			want, wrong := m.compute(nil, text)
			if err != nil || wrong != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %q: %v, by words %v, %v, as a whole %v", family, text, err, got, wrong, want)
			}
		})
	}
	for merges, want := range map[string]string{`["▁ ▁","▁ a"]`: spaceMark, `["▁ a","a ▁"]`: ""} {
		tokens, err := parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"▁":1,"▁▁":2,"▁a":3,"a▁":4},"merges":` + merges + `}}`))
		if err != nil || tokens.model.(*bpe).mark != want {
			t.Errorf("%s: %v, cut at %q, want %q", merges, err, tokens.model.(*bpe).mark, want)
		}
	}
}

// TestHostileTexts: a quarter of a megabyte of what makes naive tokenizers quadratic takes some 0.1 s each. The
// bound leaves room for slow machines, yet a quadratic step would take minutes.
func TestHostileTexts(t *testing.T) {
	for _, family := range []string{"gpt2", "llama3", "gpt_oss", "deepseek_v2", "deepseek_v3", "bloom", "added-flags", "bert-uncased", "llama2", "mistral-metaspace", "gemma", "t5-unigram", "xlmr-unigram"} {
		tokens := load(t, family)
		for _, unit := range []string{"a", "A", "1", " ", "\n", " \n", "'", "é", "\u0301\u0323", "ªA", "\x00", "<|", "<|endoftext"} {
			text := strings.Repeat(unit, 1<<18/len(unit)) + "x"
			begin := time.Now()
			ids, err := tokens.Encode(text, true)
			if err != nil {
				t.Errorf("%s: %q again and again: %v", family, unit, err)
				continue
			}
			decoded := tokens.Decode(ids, true)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("%s: %q again and again took %v", family, unit, took)
			}
			if _, bytes := tokens.decoder.(byteLevelDecoder); bytes && tokens.normalizers == nil && decoded != text {
				t.Errorf("%s: %q again and again came back as %d bytes of %d", family, unit, len(decoded), len(text))
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	tokens := load(t, "llama3")
	list := answers(t, "llama3", "text")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for _, a := range list {
				if ids, err := tokens.Encode(a.Text, false); err != nil || !slices.Equal(ids, a.IDs) {
					t.Errorf("%q: %v, %v, want %v", a.Text, err, ids, a.IDs)
				}
			}
		})
	}
	all.Wait()
}

func TestInvalidUTF8(t *testing.T) {
	tokens := load(t, "gpt2")
	for text, at := range map[string]int{"\xff": 0, "ab\xc3": 2, "é\xed\xa0\x80": 2, "\ufffd\x80": 3} {
		want := fmt.Sprintf("byte %d of the text is not UTF-8", at)
		if ids, err := tokens.Encode(text, true); ids != nil || err == nil || err.Error() != want {
			t.Errorf("%q: %v, %v, want %s", text, ids, err, want)
		}
	}
}
