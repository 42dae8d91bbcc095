package model_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// texts are of many lengths; with four replicas one has none.
var texts = [][]int32{{1, 5, 9, 2, 7, 3, 11, 4, 8, 150, 33}, {17}, {90, 12, 12, 12, 12, 12, 64}}

// layouts are those of worlds of 1 to 8 ranks, by tp and es: the bits of a model are to depend on these two alone.
var layouts = []layout{
	{}, {pp: 2}, {dp: 2}, {dp: 2, ep: 1, piece: 3}, {dp: 4, ep: 2, piece: 4}, {pp: 2, dp: 2, piece: 5}, {dp: 3, ep: 1},
	{tp: 2}, {tp: 2, ep: 1, split: true}, {tp: 2, ep: 2, split: true, piece: 1}, {tp: 2, dp: 2}, {tp: 2, dp: 2, ep: 4, split: true, piece: 3},
	{tp: 2, pp: 2, ep: 1}, {tp: 2, pp: 2, dp: 2, ep: 2, split: true, piece: 5}, {tp: 2, dp: 3, ep: 1, split: true},
	{tp: 4, ep: 1}, {tp: 4, ep: 2, split: true, piece: 6}, {tp: 4, ep: 4, pp: 2, split: true}, {tp: 4, dp: 2, ep: 2, piece: 2},
	{es: 2, dp: 2, ep: 1}, {es: 2, dp: 4, ep: 2}, {es: 2, dp: 4, ep: 1, piece: 3}, {es: 2, dp: 2, ep: 1, pp: 2, piece: 4}, {es: 2, dp: 8, ep: 4, piece: 7},
	{tp: 2, es: 2, ep: 1}, {tp: 2, es: 2, ep: 1, split: true, piece: 3}, {tp: 2, es: 2, dp: 2, ep: 2, split: true}, {tp: 2, es: 2, dp: 2, ep: 2, piece: 2}, {tp: 2, es: 2, dp: 2, ep: 1, pp: 2, split: true},
	{tp: 2, ep: 2, coordinated: true}, {tp: 2, dp: 2, ep: 4, coordinated: true, piece: 3}, {tp: 2, dp: 2, ep: 2, coordinated: true},
	{dp: 4, placed: true}, {dp: 2, pp: 2, placed: true, copies: 1, piece: 3}, {es: 2, dp: 4, ep: 2, placed: true, copies: 2}, {tp: 2, dp: 2, ep: 4, coordinated: true, placed: true, copies: 1},
	{dp: 8, placed: true, copies: 2}, {tp: 2, dp: 2, ep: 4, placed: true, copies: 3, piece: 3}, {tp: 2, dp: 2, ep: 2, split: true, placed: true, copies: 1},
	{tp: 4, ep: 4, coordinated: true, piece: 2}, {tp: 4, dp: 2, ep: 2, coordinated: true},
	{tp: 4, es: 4, ep: 1, split: true}, {tp: 4, es: 4, dp: 2, ep: 2, piece: 5}, {tp: 4, es: 4, dp: 2, ep: 2, split: true},
}

// slicedModels are one of each kind of attention, of MLP and of checkpoint.
var slicedModels = []string{"gpt2", "opt", "gpt_neox", "gptj", "gpt_neo", "bloom", "llama", "megatron-v1-mp2", "ds-moe-old-files", "ds-moe-hoisted", "mixtral",
	"olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "distilbert-mlm", "bert-classify"}

// TestSameBitsOnEveryLayout is promise 1: logits have the same bits whatever pp, ep, dp, the all-to-all's split and the
// cut into steps are, and are near those of one rank whatever tp and es are.
func TestSameBitsOnEveryLayout(t *testing.T) {
	models := slicedModels
	if device, err := openRankDevice(0); err == nil {
		if device.Arch() == "cpu/reference" { // slow, and the same road through the ranks
			models = []string{"llama", "ds-moe-hoisted"}
		}
		// Open until the end: for the first device of a process a GPU's driver sets up anew, which takes as long as a layout.
		defer func() { check(t, device.Close()) }()
	}
	for _, name := range models {
		t.Run(name, func(t *testing.T) {
			compareLayouts(t, name, layouts)
		})
	}
}

// TestUnevenSlices: heads, KV heads, MLPs and vocabularies that ranks cannot share out evenly.
func TestUnevenSlices(t *testing.T) {
	for name, list := range map[string][]layout{
		"gpt2":         {{tp: 3}, {tp: 3, pp: 2, piece: 4}},                           // 4 heads; a vocabulary of 160
		"llama":        {{tp: 3}, {tp: 3, dp: 2}, {tp: 6}, {tp: 6, piece: 5}},         // 8 heads, 2 of K and V
		"qwen3_moe":    {{tp: 3, ep: 1}, {tp: 3, ep: 1, split: true, piece: 5}},       // 4 heads, 2 of K and V; 16 experts
		"mixtral":      {{es: 5, dp: 5, ep: 1}, {es: 5, dp: 10, ep: 2, piece: 4}},     // experts of 48
		"austen-prmoe": {{tp: 4, ep: 2}, {tp: 4, ep: 4, coordinated: true, piece: 3}}, // 6 heads; trained
	} {
		t.Run(name, func(t *testing.T) {
			compareLayouts(t, name, list)
		})
	}
}

// compareLayouts runs a model in each layout: logits near those of one rank, and of the same bits wherever tp and es are the same.
func compareLayouts(t *testing.T, name string, layouts []layout) {
	t.Helper()
	whole, first := layout{}.logits(t, name), map[[2]int][][]float32{}
	for _, y := range layouts {
		got, key := y.logits(t, name), [2]int{max(y.tp, 1), max(y.es, 1)}
		for i := range texts {
			nearLogits(t, fmt.Sprintf("%v: text %d", y, i), got[i], whole[i])
		}
		if first[key] == nil {
			first[key] = got
		}
		compareBits(t, y, got, first[key])
	}
}

// TestInvariantSlices is --tp-invariant: with a fixed number of slices logits have the same bits whatever tp and es are.
func TestInvariantSlices(t *testing.T) {
	for _, c := range []struct {
		name    string
		layouts []layout
	}{
		{"llama", []layout{{}, {tp: 2}, {tp: 4, piece: 3}, {tp: 8}, {tp: 2, pp: 2}}},
		{"ds-moe-hoisted", []layout{{}, {tp: 2, ep: 1}, {es: 2, dp: 2, ep: 1}, {tp: 4, es: 2, ep: 2, split: true}, {tp: 2, es: 4, dp: 4, ep: 2, piece: 3}}},
		{"mixtral", []layout{{}, {tp: 4, ep: 2, split: true}, {es: 8, dp: 8, ep: 1}, {tp: 2, es: 4, dp: 2, ep: 1, split: true}, {dp: 8, ep: 4, es: 2, piece: 2}}},
		{"olmoe", []layout{{}, {tp: 4, ep: 2}, {tp: 2, es: 2, ep: 1, split: true}, {es: 8, dp: 8, ep: 1}, {tp: 2, pp: 2, dp: 2, ep: 4, piece: 4}}},
		{"qwen2_moe", []layout{{}, {tp: 4, es: 2, ep: 1, split: true}, {tp: 2, ep: 2, pp: 2}}},
		{"qwen3_moe", []layout{{}, {tp: 4, es: 4, ep: 1, split: true}, {tp: 2, ep: 2}, {es: 4, dp: 4, ep: 1}}},
		{"gpt_oss", []layout{{}, {tp: 4, es: 2, ep: 1, split: true}, {tp: 2, ep: 2, pp: 2}, {es: 4, dp: 4, ep: 1, piece: 3}}},
		{"deepseek_v3", []layout{{}, {tp: 4, es: 2, ep: 1, split: true}, {tp: 2, pp: 2, ep: 2, piece: 3}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, want := layout{}.logits(t, c.name), [][]float32(nil)
			for _, y := range c.layouts {
				y.slices = 8
				got := y.logits(t, c.name)
				if want == nil {
					want = got
				}
				for i := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), got[i], whole[i])
				}
				compareBits(t, y, got, want)
			}
		})
	}
}

// TestNarrowWeightsKeepTheBits is both promises for weights of 16 and 8 bits, whose kernels sum in other orders.
func TestNarrowWeightsKeepTheBits(t *testing.T) {
	for _, d := range []kernels.DType{kernels.BF16, kernels.F16, kernels.I8} {
		for _, c := range [][]layout{
			{{tp: 2}, {tp: 2, pp: 2, piece: 3}, {tp: 2, dp: 2, ep: 2, split: true}},
			{{es: 2, dp: 2, ep: 1}, {es: 2, dp: 4, ep: 2, piece: 4}},
			{{slices: 4}, {slices: 4, tp: 4}, {slices: 4, tp: 2, es: 2, ep: 1}, {slices: 4, es: 4, dp: 4, ep: 1, piece: 5}},
		} {
			for _, name := range []string{"olmoe", "mixtral", "gpt_oss", "deepseek_v3"} {
				t.Run(fmt.Sprintf("%s, %v", name, d), func(t *testing.T) {
					var want [][]float32
					for _, y := range c {
						y.dtype = d
						got := y.logits(t, name)
						if want == nil {
							want = got
						}
						compareBits(t, y, got, want)
					}
				})
			}
		}
	}
}

// TestOrderOfArrivalShows: partial results added as they come, not in the order of the ranks, change bits; so the tests
// above would notice.
func TestOrderOfArrivalShows(t *testing.T) {
	right, wrong := layout{tp: 4, ep: 1, piece: 3}, layout{tp: 4, ep: 1, piece: 3, wrongOrder: true}
	want, got := right.logits(t, "llama"), wrong.logits(t, "llama")
	for i := range texts {
		if !sameBits(got[i], want[i]) {
			return
		}
	}
	t.Error("partial results in another order give the same bits: the layouts' tests could not fail")
}

// TestSameBitsOverBoards: where the ranks' devices put slices together by themselves, logits have the bits, and ranks count the bytes,
// of the hosts' way: partial results, columns of logits and of q and k, shares of tokens, sliced experts, uneven ones among them.
func TestSameBitsOverBoards(t *testing.T) {
	for name, list := range map[string][]layout{
		"llama":     {{tp: 2}, {tp: 3, piece: 4}, {tp: 8}, {tp: 2, pp: 2}, {tp: 2, slices: 8}, {tp: 4, dp: 2, dtype: kernels.BF16}},
		"olmoe":     {{tp: 2, ep: 2}, {tp: 4, ep: 1, split: true, piece: 3}, {tp: 2, ep: 2, dp: 2, split: true}},
		"mixtral":   {{es: 2, dp: 2, ep: 1}, {es: 3, dp: 6, ep: 2, piece: 4}, {tp: 2, es: 4, dp: 2, ep: 1, split: true, slices: 8}},
		"qwen3_moe": {{tp: 3, ep: 1, split: true, piece: 5}, {tp: 2, ep: 2, coordinated: true}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, y := range list {
				want, err := y.run(t, golden(t, name), texts)
				check(t, err)
				y.boards = true
				got, err := y.run(t, golden(t, name), texts)
				check(t, err)
				compareBits(t, y, got.logits, want.logits)
				if !slices.Equal(got.sent, want.sent) || want.sent[0] == 0 {
					t.Errorf("%v: %v bytes sent, through the hosts %v", y, got.sent, want.sent)
				}
			}
		})
	}
}
