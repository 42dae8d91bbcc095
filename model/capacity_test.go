package model_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/modeltest"
	"github.com/dsbatch/dsbatch/moe"
)

// capacities is expected-capacity.json: several prompts of one length in one call, tokens dropped by each policy.
type capacities struct {
	Batch    int     `json:"batch"`
	N        int     `json:"n"`
	Factor   float64 `json:"eval_capacity_factor"`
	Min      int     `json:"min_capacity"`
	Policies map[string][]struct {
		Capacity int     `json:"capacity"`
		Counts   []int32 `json:"exp_counts_before_dropping"`
		Dropped  [][]int `json:"dropped"` // token, choice
	} `json:"policies"`
}

// TestCapacity runs whole models with tokens dropped, by DeepSpeed's gates, against DeepSpeed. (Its policy "torch"
// depends on torch's sort and is not compared.)
func TestCapacity(t *testing.T) {
	policies := map[string]kernels.DropPolicy{"position": kernels.DropByPosition, "probs": kernels.DropByProbs, "top2": kernels.DropByPosition}
	for name, compared := range map[string][]string{
		"austen-prmoe": {"position", "probs"}, "austen-mos": {"position", "probs"},
		"austen-moe8": {"position", "probs"}, "austen-moe8-top2": {"top2"},
	} {
		for _, policy := range compared {
			t.Run(name+", "+policy, func(t *testing.T) { compareCapacity(t, trainedModel(t, name), policy, policies[policy]) })
		}
	}
}

func compareCapacity(t *testing.T, dir, policy string, drop kernels.DropPolicy) {
	var c capacities
	text, err := os.ReadFile(filepath.Join(dir, "expected-capacity.json"))
	check(t, err)
	check(t, json.Unmarshal(text, &c))
	g := modeltest.OpenTensors(t, filepath.Join(dir, "expected-capacity.safetensors"))
	r := newRunner(t, dir, 128, model.LoadOptions{Capacity: &moe.Capacity{Factor: c.Factor, Min: c.Min, Policy: drop}})
	var prompts [][]int32
	for p := range slices.Chunk(g.Ints(t, "input_ids"), c.N) {
		prompts = append(prompts, p)
	}
	y := r.forward(prompts...)
	if len(y.routed) != len(c.Policies[policy]) || len(prompts) != c.Batch {
		t.Fatalf("%d MoE layers, %d prompts", len(y.routed), len(prompts))
	}
	counted := r.workspace.ExpertTokens()
	for l, got := range y.routed {
		key := fmt.Sprintf("%s.moe.%d.", policy, l)
		ids := g.Ints(t, key+"expert_ids")
		weights, k := g.Floats(t, key+"gate_weights")
		kept, dropped := make([]int32, got.experts), 0
		for i, want := range ids {
			if want < 0 {
				dropped++
			} else {
				kept[want]++
			}
			if got.expert[i] != want || math.Abs(float64(got.weight[i]-weights[i])) > weightBound {
				t.Fatalf("%s: token %d, choice %d: expert %d of weight %g, want %d of %g", key, i/k, i%k, got.expert[i], got.weight[i], want, weights[i])
			}
		}
		if want := len(c.Policies[policy][l].Dropped); dropped != want || dropped == 0 {
			t.Errorf("%s: %d choices dropped, want %d", key, dropped, want)
		}
		if !slices.Equal(counted[l], kept) {
			t.Errorf("%s: counts %v, want %v", key, counted[l], kept)
		}
		if limit := c.Policies[policy][l].Capacity; int(slices.Max(kept)) != limit {
			t.Errorf("%s: %v kept, but the capacity is %d", key, kept, limit)
		}
	}
	hidden, cols := g.Floats(t, policy+".hidden_final")
	near(t, policy+".hidden_final", y.hidden[len(y.hidden)-1], hidden, cols)
	logits, vocab := g.Floats(t, policy+".logits_last")
	var last []float32
	for p := range prompts {
		at := (p+1)*c.N - 1
		last = append(last, y.logits[at*vocab:(at+1)*vocab]...)
	}
	near(t, policy+".logits_last", last, logits, vocab)
}
