package model_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/modeltest"
)

// Bounds of float32 against the reference implementations' float32: relative to the largest value of a tensor, and
// for log-probabilities absolute.
const (
	hiddenBound  = 1e-4
	logprobBound = 1e-4
	weightBound  = 1e-4 // of a choice's weight, at most 1
	// A smaller margin between the two best logits, or between the last chosen and the first rejected expert, may
	// flip with the order of sums.
	tokenMargin  = 1e-3
	expertMargin = 1e-5
)

var goldens = []string{"gpt2", "gpt2-scale-by-layer", "opt", "gpt_neox", "gptj", "gpt_neo", "bloom", "llama", "llama-rope-scaled", "mixtral", "olmoe", "gpt_oss",
	"qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "bert-embed", "bert-classify", "distilbert-mlm", "bert-mlm",
	"ds-moe-hoisted", "ds-moe-old-files", "megatron-v0-mp2", "megatron-v1-mp2", "megatron-v2-mp4", "megatron-pp2"}

var trained = []string{"austen-prmoe", "austen-mos", "austen-moe8", "austen-moe8-top2", "austen-dense"}

func TestGoldenModels(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) { compare(t, golden(t, name)) })
	}
}

// golden is the folder of a golden, bundled or, where it is too large for that, beside the checkout.
func golden(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join("testdata", "golden", name)
	if _, err := os.Stat(dir); err != nil {
		return modeltest.SharedGolden(t, name)
	}
	return modeltest.Unpacked(t, dir)
}

func TestTrainedModels(t *testing.T) {
	for _, name := range trained {
		t.Run(name, func(t *testing.T) { compare(t, trainedModel(t, name)) })
	}
}

// compare holds hidden states, logits, routing, log-probabilities and greedy tokens against the golden's.
func compare(t *testing.T, dir string) {
	g, r := modeltest.Open(t, dir), newRunner(t, dir, 256, model.LoadOptions{})
	for i := range g.Prompts() {
		ids := g.Ints(t, modeltest.Key(i, "input_ids"))
		y := r.forward(ids)
		logits := y.logits
		for layer, x := range y.hidden {
			for _, name := range []string{"hidden", "hidden_last"} {
				if key := modeltest.Key(i, name, layer); g.Has(key) {
					want, cols := g.Floats(t, key)
					near(t, key, x[len(x)-len(want):], want, cols)
				}
			}
		}
		if key := modeltest.Key(i, "pooler_output"); g.Has(key) {
			want, cols := g.Floats(t, key)
			near(t, key, y.pooled, want, cols)
		}
		for _, name := range []string{"logits", "logits_last"} {
			if key := modeltest.Key(i, name); g.Has(key) {
				want, cols := g.Floats(t, key)
				near(t, key, logits[len(logits)-len(want):], want, cols)
			}
		}
		for layer, got := range y.routed {
			if g.Has(modeltest.Key(i, "moe", layer, "expert_ids")) {
				compareRouting(t, g, modeltest.Key(i, "moe", layer, ""), got)
			}
		}
		a, ok := g.Answers[fmt.Sprint(i)]
		if !ok {
			continue
		}
		vocab := r.model.Config.Vocab
		for at, want := range a.Logprobs {
			row := logits[at*vocab : (at+1)*vocab]
			if got := logprob(row, int(a.Prompt[at+1])); math.Abs(got-want) > logprobBound {
				t.Errorf("prompt %d, token %d: log-probability %.6f, want %.6f", i, at+1, got, want)
			}
		}
		r.greedy(i, a)
	}
}

// greedy continues a prompt by full recomputation and compares the tokens as far as the margins are clear.
func (r *runner) greedy(prompt int, a modeltest.Answer) {
	r.t.Helper()
	ids := append([]int32(nil), a.Prompt...)
	for step, want := range a.Greedy {
		logits := r.forward(ids).logits
		row := logits[len(logits)-r.model.Config.Vocab:]
		best := 0
		for i, v := range row[:r.model.Config.Tokens] {
			if v > row[best] {
				best = i
			}
		}
		if int32(best) != want && a.Margins[step] > tokenMargin {
			r.t.Errorf("prompt %d, step %d: token %d, want %d (margin %g)", prompt, step, best, want, a.Margins[step])
		}
		if int32(best) != want {
			return // another text from here on
		}
		ids = append(ids, want)
	}
}

// compareRouting holds the experts and weights of a gate's choices against the tensors whose names start with key.
// Where the gate's margin is too small to tell, the token's choices are not compared.
func compareRouting(t *testing.T, g *modeltest.Golden, key string, got routed) {
	t.Helper()
	ids := g.Ints(t, key+"expert_ids")
	weights, k := g.Floats(t, key+"gate_weights")
	if k != got.k || len(ids) != len(got.expert) {
		t.Fatalf("%s: %d choices of %d a token, want %d of %d", key, len(got.expert), got.k, len(ids), k)
	}
	close := 0
	for i, want := range ids {
		if got.margin(i/k) <= expertMargin {
			close++
			continue
		}
		if got.expert[i] != want || math.Abs(float64(got.weight[i]-weights[i])) > weightBound {
			t.Errorf("%s: token %d, choice %d: expert %d of weight %g, want %d of %g; the margin is %g",
				key, i/k, i%k, got.expert[i], got.weight[i], want, weights[i], got.margin(i/k))
		}
	}
	if close > len(ids)/10 {
		t.Errorf("%s: %d of %d choices were too close to compare", key, close, len(ids))
	}
}

// near compares to a bound relative to the largest value wanted.
func near(t *testing.T, what string, got, want []float32, cols int) {
	t.Helper()
	var largest float64
	for _, w := range want {
		largest = max(largest, math.Abs(float64(w)))
	}
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= hiddenBound*largest) {
			t.Errorf("%s: row %d, column %d: %g, want %g; the bound is %g", what, i/cols, i%cols, got[i], want[i], hiddenBound*largest)
			return
		}
	}
}

func logprob(row []float32, id int) float64 {
	largest, sum := math.Inf(-1), 0.0
	for _, v := range row {
		largest = max(largest, float64(v))
	}
	for _, v := range row {
		sum += math.Exp(float64(v) - largest)
	}
	return float64(row[id]) - largest - math.Log(sum)
}
