package moe_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model/modeltest"
	"github.com/dsbatch/dsbatch/moe"
)

// golden is where the layers that DeepSpeed's own code has run lie; gating.md there tells of them.
var golden = filepath.Join("..", "model", "testdata", "golden")

// deepspeed is a case of moe-layers.json.
type deepspeed struct {
	Case        int     `json:"case"`
	Batch       int     `json:"batch"`
	Seq         int     `json:"seq"`
	Hidden      int     `json:"hidden"`
	FFN         int     `json:"ffn"`
	Experts     int     `json:"experts"`
	K           int     `json:"k"`
	Residual    bool    `json:"residual"`
	OutputBias  string  `json:"expert_output_bias"`
	DropTokens  bool    `json:"drop_tokens"`
	Factor      float64 `json:"capacity_factor"`
	MinCapacity int     `json:"min_capacity"`
	Capacity    int     `json:"capacity"`
	Dropped     int     `json:"dropped"`
}

func TestDeepSpeedLayers(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(golden, "moe-layers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []deepspeed
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	tensors := modeltest.OpenTensors(t, filepath.Join(golden, "moe-layers.safetensors"))
	dropping := 0
	for _, c := range cases {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) { compareLayer(t, c, tensors) })
		if c.Dropped > 0 {
			dropping++
		}
	}
	if len(cases) < 13 || dropping < 3 {
		t.Errorf("%d cases, %d of them drop tokens", len(cases), dropping)
	}
}

func compareLayer(t *testing.T, c deepspeed, tensors *modeltest.Golden) {
	floats := func(name string) []float32 {
		v, _ := tensors.Floats(t, modeltest.Key(c.Case, name))
		return v
	}
	read := func(name string, out, in int, bias bool) linear {
		l := linear{weight: matrix{out, in, floats(name + ".weight")}}
		if bias {
			l.bias = matrix{1, out, floats(name + ".bias")}
		}
		return l
	}
	mlp := func(name string) expert {
		return expert{up: read(name+"dense_h_to_4h", c.FFN, c.Hidden, true), down: read(name+"dense_4h_to_h", c.Hidden, c.FFN, c.OutputBias == "add")}
	}
	d := &definition{act: kernels.GELUTanh, wg: read("deepspeed_moe.gate.wg", c.Experts, c.Hidden, false),
		gate: kernels.Gate{Experts: c.Experts, K: c.K, Renormalise: c.K > 1}}
	for e := range c.Experts {
		d.experts = append(d.experts, mlp(fmt.Sprintf("deepspeed_moe.experts.deepspeed_experts.%d.", e)))
	}
	if c.Residual {
		branch := mlp("mlp.")
		d.residual, d.mix = &branch, read("coefficient", 2, c.Hidden, true)
	}
	tokens := c.Batch * c.Seq
	if c.DropTokens {
		d.capacity = &moe.Capacity{Factor: c.Factor, Min: c.MinCapacity}
		if c.K > 2 { // DeepSpeed's top-k drops by probability unless told otherwise
			d.capacity.Policy = kernels.DropByProbs
		}
		if got := d.capacity.Limit(tokens, c.Experts, c.K); got != c.Capacity {
			t.Errorf("capacity %d, want %d", got, c.Capacity)
		}
	}
	m := newMachine(t, 1)
	w := m.workspace(tokens, d)
	y := m.forward(w, matrix{tokens, c.Hidden, floats("input")}, m.layer(d, nil))
	checkTables(t, m, w)
	compareRouting(t, m, c, tensors, w)
	for i, want := range floats("output") {
		if got := y.v[i]; math.Abs(float64(got-want)) > 1e-5 {
			t.Fatalf("token %d, column %d: %g, want %g", i/c.Hidden, i%c.Hidden, got, want)
		}
	}
}

// compareRouting compares with sparse_indices and sparse_gates, both [k, tokens], and counts before dropping.
func compareRouting(t *testing.T, m *machine, c deepspeed, tensors *modeltest.Golden, w *moe.Workspace) {
	t.Helper()
	r, _ := w.Routed()
	expert, weight := m.ints(r.Expert), m.read(r.Weight).v
	gates, n := tensors.Floats(t, modeltest.Key(c.Case, "sparse_gates"))
	kept, dropped := make([]int32, c.Experts), 0
	for i, want := range tensors.Ints(t, modeltest.Key(c.Case, "sparse_indices")) {
		at := i%n*c.K + i/n
		if expert[at] != want || math.Abs(float64(weight[at]-gates[i])) > 1e-6 {
			t.Fatalf("token %d, choice %d: expert %d of weight %g, want %d of %g", i%n, i/n, expert[at], weight[at], want, gates[i])
		}
		if want < 0 {
			dropped++
		} else {
			kept[want]++
		}
	}
	if dropped != c.Dropped {
		t.Errorf("%d choices dropped, want %d", dropped, c.Dropped)
	}
	if got := w.Counts()[0]; !slices.Equal(got, kept) {
		t.Errorf("counts %v, want %v", got, kept)
	}
	if asked := tensors.Ints(t, modeltest.Key(c.Case, "exp_counts")); dropped == 0 && !slices.Equal(kept, asked) {
		t.Errorf("counts %v, DeepSpeed's %v", kept, asked)
	}
}
