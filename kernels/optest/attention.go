package optest

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type attentionCase struct {
	heads, kvHeads, dim int
	lengths             []int
	window              int
	bidirectional       bool
	blockTokens         int
	spread              float64 // deviation of the logits; 0: 1
	rotated             int     // values of a head that are stored by way of a rotation, by nothing
	alibi               bool
	latent              int // values of a key that are its value
	sinks               bool
}

func testAttention(k *kit) {
	for _, c := range []attentionCase{
		{heads: 1, kvHeads: 1, dim: 4, lengths: []int{1}, blockTokens: 16},
		{heads: 2, kvHeads: 2, dim: 8, lengths: []int{3, 1, 17}, blockTokens: 1},
		{heads: 3, kvHeads: 3, dim: 16, lengths: []int{5, 63}, blockTokens: 3},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{64, 65, 1, 128}, blockTokens: 16},
		{heads: 8, kvHeads: 1, dim: 32, lengths: []int{129, 16}, blockTokens: 32},
		{heads: 6, kvHeads: 2, dim: 80, lengths: []int{40, 200}, blockTokens: 16, rotated: 32},
		{heads: 2, kvHeads: 2, dim: 128, lengths: []int{300}, blockTokens: 64, rotated: 128},
		{heads: 2, kvHeads: 1, dim: 256, lengths: []int{70, 2}, blockTokens: 16},
		{heads: 2, kvHeads: 1, dim: 20, lengths: []int{33, 90}, blockTokens: 16},
		{heads: 4, kvHeads: 2, dim: 16, lengths: []int{150, 9, 70}, blockTokens: 16, window: 1},
		{heads: 4, kvHeads: 2, dim: 16, lengths: []int{150, 9, 70}, blockTokens: 16, window: 37},
		{heads: 4, kvHeads: 4, dim: 64, lengths: []int{150}, blockTokens: 5, window: 64},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{1, 77, 31}, blockTokens: 16, bidirectional: true},
		{heads: 6, kvHeads: 6, dim: 64, lengths: []int{1, 77, 131}, blockTokens: 16, alibi: true},
		{heads: 6, kvHeads: 2, dim: 20, lengths: []int{40, 70}, blockTokens: 5, alibi: true, window: 37},
		{heads: 34, kvHeads: 1, dim: 128, lengths: []int{150, 2}, blockTokens: 64, alibi: true},
		{heads: 3, kvHeads: 1, dim: 24, latent: 16, lengths: []int{1, 77, 31}, blockTokens: 16, rotated: 8},
		{heads: 6, kvHeads: 2, dim: 20, latent: 20, lengths: []int{40, 70}, blockTokens: 5, window: 37},
		{heads: 5, kvHeads: 1, dim: 576, latent: 512, lengths: []int{2, 100}, blockTokens: 16, rotated: 64},
		{heads: 16, kvHeads: 1, dim: 576, latent: 512, lengths: []int{100, 3}, blockTokens: 16, spread: 6},
		{heads: 40, kvHeads: 1, dim: 576, latent: 512, lengths: []int{1, 33}, blockTokens: 7, window: 20},
		{heads: 128, kvHeads: 1, dim: 576, latent: 512, lengths: []int{19, 1}, blockTokens: 64},
		{heads: 6, kvHeads: 2, dim: 576, latent: 512, lengths: []int{1, 29, 66}, blockTokens: 16, bidirectional: true},
		{heads: 37, kvHeads: 1, dim: 80, latent: 64, lengths: []int{9, 70}, blockTokens: 64, rotated: 16},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{64, 65, 1, 150}, blockTokens: 16, sinks: true},
		{heads: 8, kvHeads: 1, dim: 128, lengths: []int{1, 40, 131}, blockTokens: 16, window: 37, sinks: true},
		{heads: 34, kvHeads: 2, dim: 20, lengths: []int{40, 70}, blockTokens: 5, sinks: true},
		{heads: 2, kvHeads: 1, dim: 256, lengths: []int{70, 2}, blockTokens: 16, window: 16, sinks: true},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{1, 77, 31}, blockTokens: 16, bidirectional: true, sinks: true},
		{heads: 6, kvHeads: 3, dim: 64, lengths: []int{90, 3}, blockTokens: 16, alibi: true, sinks: true},
		{heads: 8, kvHeads: 4, dim: 64, lengths: []int{130, 3}, blockTokens: 16, spread: 30, sinks: true},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{200}, blockTokens: 16, spread: 30},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{200, 3}, blockTokens: 16, spread: 3000},
	} {
		for _, act := range k.activations() {
			for _, d := range []kernels.DType{kernels.F32, kernels.BF16} {
				v := k.conversation(c, act, d)
				want, scale := v.byDefinition()
				for name, steps := range map[string][][]chunk{"whole": v.whole(), "in steps": v.ragged(k)} {
					if c.bidirectional && name != "whole" {
						continue // what a token sees of its sequence must be there
					}
					what := fmt.Sprintf("attention %+v, cache %v, %s", c, d, name)
					got := v.play(k, steps)
					tol := max(k.tol.of(d), k.tol.of(act)) * (1 + largestOf(c.spread)/4)
					for s := range want {
						k.nearBy(fmt.Sprintf("%s: sequence %d", what, s), decode(act, got[s]), want[s], 8*tol*scale)
					}
				}
				k.release()
			}
		}
	}
}

// byDefinition is the rows of each sequence, and the largest magnitude of V.
func (v *conversation) byDefinition() (rows [][]float64, scale float64) {
	for i, s := range v.seqs {
		var out []float64
		for t := range s.length {
			out = append(out, v.rowByDefinition(i, t)...)
		}
		rows = append(rows, out)
		scale = max(scale, largestOf(s.kept[1]...))
	}
	return rows, scale
}

// rowByDefinition is that of token t of a sequence.
func (v *conversation) rowByDefinition(seq, t int) []float64 {
	heads, dim, values, group, s := v.spec.Heads, v.spec.HeadDim, v.cacheOf.Values(), v.spec.Heads/v.spec.KVHeads, v.seqs[seq]
	lo, hi := 0, t+1
	if !v.spec.Causal {
		hi = s.length
	}
	if v.spec.Window > 0 {
		lo = max(0, t+1-v.spec.Window)
	}
	out := make([]float64, heads*values)
	for h := range heads {
		at := func(x []float64, dim int) func(p int) []float64 {
			return func(p int) []float64 { return x[(p*v.spec.KVHeads+h/group)*dim:][:dim] }
		}
		lean := func(int) float64 { return 0 }
		if v.slopes != nil {
			lean = func(p int) float64 { return v.slopes[h] * float64(p-t) }
		}
		sink := math.Inf(-1)
		if v.sinks != nil {
			sink = v.sinks[h]
		}
		attendByDefinition(out[h*values:][:values], s.q[(t*heads+h)*dim:][:dim], float64(v.spec.Scale), lo, hi, sink, lean, at(s.kept[0], dim), at(s.kept[1], values))
	}
	return out
}

func attendByDefinition(out, q []float64, scale float64, lo, hi int, sink float64, lean func(int) float64, k, v func(int) []float64) {
	logits, top := make([]float64, hi-lo), sink
	for i := range logits {
		logits[i] = lean(lo + i)
		for d, x := range k(lo + i) {
			logits[i] += scale * q[d] * x
		}
		top = max(top, logits[i])
	}
	sum := math.Exp(sink - top)
	for _, l := range logits {
		sum += math.Exp(l - top)
	}
	for i, l := range logits {
		weight := math.Exp(l-top) / sum
		for d, x := range v(lo + i) {
			out[d] += weight * x
		}
	}
}
