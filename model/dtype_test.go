package model_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
)

// TestNarrowWeights holds models with bf16 and int8 weights against themselves in float32, token by token.
//
// The trained models were saved in bf16, so that a bf16 weight is exact: what differs is the KV cache, and at the
// levels that round activations to bf16 those. Int8 rounds every weight but gates, coefficients and the table of ids.
func TestNarrowWeights(t *testing.T) {
	h := openHeldout(t)
	for _, name := range []string{"austen-prmoe", "austen-moe8-top2"} {
		t.Run(name, func(t *testing.T) {
			dir := trainedModel(t, name)
			exact := newRunner(t, dir, 512, model.LoadOptions{})
			var windows [][]int32
			var want [][]float32
			var best [][]int32
			// These weights are exact in fp16. Activations are not where the device rounds them to it: it has three bits more
			// than bf16.
			fp16 := [2]float64{1e-5, 1e-6}
			if exact.model.Device().Activations(kernels.F16) != kernels.F32 {
				fp16 = [2]float64{0.01 / 8, 0.001 / 8}
			}
			every := heldoutSample
			if !fast(exact) || testing.Short() {
				every = len(h.ids) // the first
			}
			for i := 0; i < len(h.ids); i += every {
				p, top := exact.score(h.ids[i])
				windows, want, best = append(windows, h.ids[i]), append(want, p), append(best, top)
			}
			for _, c := range []struct {
				options model.LoadOptions
				mean    float64 // the bound of the mean absolute difference of a token's log-probability
				bias    float64 // and of the mean difference, which perplexity shows
			}{
				{model.LoadOptions{DType: kernels.BF16}, 0.01, 0.001},
				{model.LoadOptions{DType: kernels.F16}, fp16[0], fp16[1]},
				{model.LoadOptions{DType: kernels.I8}, 0.05, 0.005},
				{model.LoadOptions{DType: kernels.I8, Group: 64}, 0.05, 0.005},
			} {
				r := newRunner(t, dir, 512, c.options)
				var off, bias, worst, logprob, agree float64
				tokens := 0
				for i, ids := range windows {
					p, top := r.score(ids)
					for j, got := range p {
						d := float64(got) - float64(want[i][j])
						off, bias, worst, logprob = off+math.Abs(d), bias+d, max(worst, math.Abs(d)), logprob+float64(got)
						if top[j] == best[i][j] {
							agree++
						}
						tokens++
					}
				}
				off, bias, agree = off/float64(tokens), bias/float64(tokens), agree/float64(tokens)
				what := fmt.Sprintf("%v, group %d", c.options.DType, c.options.Group)
				t.Logf("%s: %d tokens, perplexity %.4f, %.2g off on average, %.2g at most, mean %+.2g; the same best token at %.2f %%; %d bytes of weights, %d in fp32",
					what, tokens, math.Exp(-logprob/float64(tokens)), off, worst, bias, 100*agree, r.model.Bytes(), exact.model.Bytes())
				if !(off <= c.mean) || !(math.Abs(bias) <= c.bias) {
					t.Errorf("%s: log-probabilities are off by %g on average, %g with sign; the bounds are %g and %g", what, off, bias, c.mean, c.bias)
				}
				if r.model.Bytes()*10 > exact.model.Bytes()*6 {
					t.Errorf("%s: %d bytes of weights, %d in float32", what, r.model.Bytes(), exact.model.Bytes())
				}
			}
		})
	}
}

// notes is a device that notes what weights are packed as.
type notes struct {
	kernels.Device
	packed map[string]kernels.DType
}

func (n notes) Pack(what string, s kernels.WeightSpec) (kernels.Weights, error) {
	n.packed[what] = s.DType
	return n.Device.Pack(what, s)
}

// Whatever the weights are, what decides a token's way stays in float32; all others are as narrow as was asked for, the
// output embedding among them.
func TestGateIsFloat32(t *testing.T) {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8} {
		device, err := cpu.New(cpu.Options{Threads: 1})
		check(t, err)
		n := notes{device, map[string]kernels.DType{}}
		load(t, trainedModel(t, "austen-prmoe"), n, model.LoadOptions{DType: d})
		seen := 0
		for what, got := range n.packed {
			want := d
			if strings.Contains(what, "gate") || strings.Contains(what, "coefficients") {
				want = kernels.F32
				seen++
			}
			if got != want {
				t.Errorf("a model in %v: %s is packed as %v, want %v", d, what, got, want)
			}
		}
		if seen != 6 { // of three MoE layers
			t.Errorf("a model in %v: %d gates and coefficients among %v", d, seen, n.packed)
		}
	}
}
