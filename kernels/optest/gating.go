package optest

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// gating is a case of model/testdata/golden/gating.json.gz, which DeepSpeed's own gates wrote; gating.md beside it
// tells what the fields mean.
type gating struct {
	Case          int     `json:"case"`
	Function      string  `json:"function"`
	Tokens        int     `json:"tokens"`
	Experts       int     `json:"experts"`
	K             int     `json:"k"`
	Factor        float64 `json:"capacity_factor"`
	MinCapacity   int     `json:"min_capacity"`
	DropTokens    bool    `json:"drop_tokens"`
	DropPolicy    string  `json:"drop_policy"`
	Logits        string  `json:"logits"`
	Capacity      int     `json:"capacity"`
	Routes        int     `json:"routes"`
	TieInChoice   bool    `json:"tie_in_choice"`
	KeptSetIsFree bool    `json:"kept_set_depends_on_torch"`
	Error         string  `json:"error"`
}

// testGating compares counts, positions and dropped tokens with DeepSpeed's, exactly, and the weights.
func testGating(k *kit) {
	list, tensors := gatingFiles(k)
	text, err := readPacked(list)
	if err != nil {
		k.Fatal(err)
	}
	var cases []gating
	if err := json.Unmarshal(text, &cases); err != nil {
		k.Fatal(err)
	}
	file, err := readSafetensors(tensors)
	if err != nil {
		k.Fatal(err)
	}
	compared := map[string]int{}
	for _, c := range cases {
		if c.Error != "" { // a refusal of the engine's, not of the op's
			continue
		}
		if c.Function == "topkgating" && c.TieInChoice { // which of equals is chosen depends on torch
			compared["skipped"]++
			continue
		}
		compared[c.Function]++
		k.gating(c, file)
		k.release()
	}
	k.Logf("gating: %v", compared)
	if compared["top1gating"] < 50 || compared["top2gating"] < 20 || compared["topkgating"] < 20 {
		k.Errorf("gating: only %v cases were compared", compared)
	}
}

func (k *kit) gating(c gating, file map[string]safetensor) {
	k.Helper()
	what := fmt.Sprintf("gating case %+v", c)
	tensor := func(name string) safetensor { return file[fmt.Sprintf("%d.%s", c.Case, name)] }
	r := k.routing(c.Tokens, c.K, c.Experts)
	logits := k.floats(kernels.F32, c.Tokens, c.Experts, tensor("logits").floats())
	k.stream.Gate(r.Routing, logits.Tensor, kernels.Gate{Experts: c.Experts, K: c.K})
	expert, weight := k.intValues(r.expert), k.values(r.weight)
	if used := tensor("used_token").ints(); used != nil {
		for t, u := range used {
			if u == 0 {
				expert[t], weight[t] = -1, 0
			}
		}
		k.fill(r, expert, weight)
	}
	counts := make([]int64, c.Experts)
	for _, e := range expert {
		if e >= 0 {
			counts[e]++
		}
	}
	if want := tensor("exp_counts").ints(); !slices.Equal(counts, want) {
		k.Fatalf("%s: counts %v, want %v", what, counts, want)
	}
	capacity := c.Tokens
	if c.DropTokens {
		capacity = max(int(math.Ceil(float64(float32(float32(c.Tokens)/float32(c.Experts))*float32(c.Factor*float64(c.K))))), c.MinCapacity)
		if capacity != c.Capacity {
			k.Fatalf("%s: capacity %d", what, capacity)
		}
	}
	p := kernels.Capacity{C: capacity, SecondAfterFirst: c.Function == "top2gating", Renormalise: c.K > 1}
	if c.DropPolicy == "probs" {
		p.Policy = kernels.DropByProbs
	}
	k.stream.Drop(r.Routing, p)
	k.stream.Table(r.Routing)
	k.gatingRoutes(what, c, r, tensor("sparse_indices").ints(), tensor("sparse_locations").ints(), tensor("sparse_gates").floats())
}

// gatingRoutes compares with index, location and gate [k, tokens].
func (k *kit) gatingRoutes(what string, c gating, r *routing, index, location []int64, gates []float64) {
	k.Helper()
	expert, weight := k.intValues(r.expert), k.values(r.weight)
	place, offsets := k.intValues(r.place), k.intValues(r.offsets)
	kept, wantKept := make([]int, c.Experts), make([]int, c.Experts)
	for i, e := range index {
		if e >= 0 {
			wantKept[e]++
		}
		if f := expert[i%c.Tokens*c.K+i/c.Tokens]; f >= 0 {
			kept[f]++
		}
	}
	if !slices.Equal(kept, wantKept) {
		k.Fatalf("%s: %v choices kept, want %v", what, kept, wantKept)
	}
	for e, n := range kept {
		if int(offsets[e+1]-offsets[e]) != n {
			k.Fatalf("%s: offsets %v for %v choices", what, offsets, kept)
		}
	}
	if c.KeptSetIsFree {
		return
	}
	next := make([]int64, c.Experts)
	for i := range index { // rank by rank, in each in token order
		t, choice := i%c.Tokens, i/c.Tokens
		e := expert[t*c.K+choice]
		if int64(e) != index[i] {
			k.Fatalf("%s: choice %d of token %d is %d, want %d", what, choice, t, e, index[i])
		}
		if e < 0 {
			continue
		}
		at := int64(place[t*c.K+choice] - offsets[e])
		if c.Function == "top2gating" { // DeepSpeed's places: all first choices before any second one
			at = next[e]
			next[e]++
		}
		if at != location[i] {
			k.Fatalf("%s: choice %d of token %d takes place %d of expert %d, want %d", what, choice, t, at, e, location[i])
		}
		if w := weight[t*c.K+choice]; math.Abs(w-gates[i]) > 16*k.tol.F32 {
			k.Fatalf("%s: choice %d of token %d weighs %v, want %v", what, choice, t, w, gates[i])
		}
	}
}

// gatingFiles are the list of cases and their tensors: all of them where ../shared lies beside the checkout, else the
// bundled ones, all small ones and ten large ones.
func gatingFiles(k *kit) (list, tensors string) {
	bundled := goldenFolder(k)
	all := filepath.Join(bundled, "../../../../shared/golden")
	list, tensors = filepath.Join(all, "gating.json"), filepath.Join(all, "gating.safetensors")
	if _, err := os.Stat(tensors); err == nil {
		return list, tensors
	}
	return filepath.Join(bundled, "gating.json.gz"), filepath.Join(bundled, "gating.safetensors.gz")
}

// goldenFolder is found from the folder that the test runs in.
func goldenFolder(k *kit) string {
	dir, err := os.Getwd()
	if err != nil {
		k.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		golden := filepath.Join(dir, "model", "testdata", "golden")
		if _, err := os.Stat(golden); err == nil {
			return golden
		}
		if dir == filepath.Dir(dir) {
			k.Fatal("model/testdata/golden is in no folder above the test's")
		}
	}
}
