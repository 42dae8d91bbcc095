package model_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/modeltest"
	"github.com/dsbatch/dsbatch/model/policies"
)

// Bounds of float32 against the reference implementations' float32: relative to the largest value of a tensor, and
// for log-probabilities absolute.
const (
	hiddenBound  = 1e-4
	logprobBound = 1e-4
	// A smaller margin between the two best logits, or between the last chosen and the first rejected expert, may
	// flip with the order of sums.
	tokenMargin  = 1e-3
	expertMargin = 1e-5
)

var goldens = []string{"gpt2", "gpt2-scale-by-layer", "llama", "llama-rope-scaled", "mixtral", "olmoe", "qwen3_moe",
	"ds-moe-hoisted", "ds-moe-old-files", "megatron-v0-mp2", "megatron-v1-mp2", "megatron-v2-mp4", "megatron-pp2"}

var trained = []string{"austen-prmoe", "austen-mos", "austen-moe8", "austen-moe8-top2", "austen-dense"}

func TestGoldenModels(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) { compare(t, filepath.Join("testdata", "golden", name)) })
	}
}

func TestTrainedModels(t *testing.T) {
	for _, name := range trained {
		t.Run(name, func(t *testing.T) { compare(t, modeltest.Shared(t, name)) })
	}
}

// compare holds hidden states, logits, routing, log-probabilities and greedy tokens against the golden's.
func compare(t *testing.T, dir string) {
	g, r := modeltest.Open(t, dir), newRunner(t, dir, 256)
	for i := range g.Prompts() {
		ids := g.Ints(t, modeltest.Key(i, "input_ids"))
		hidden, logits := r.forward(ids)
		for layer, x := range hidden {
			for _, name := range []string{"hidden", "hidden_last"} {
				if key := modeltest.Key(i, name, layer); g.Has(key) {
					want, cols := g.Floats(t, key)
					near(t, key, x[len(x)-len(want):], want, cols)
				}
			}
		}
		for _, name := range []string{"logits", "logits_last"} {
			if key := modeltest.Key(i, name); g.Has(key) {
				want, cols := g.Floats(t, key)
				near(t, key, logits[len(logits)-len(want):], want, cols)
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

// runner runs one sequence at a time through a model, with a cache of its own.
type runner struct {
	t         *testing.T
	model     *model.Model
	stream    kernels.Stream
	workspace *model.Workspace
	cache     kernels.Cache
	device    kernels.Device
}

const runnerBlock = 16

func newRunner(t *testing.T, dir string, tokens int) *runner {
	t.Helper()
	device, err := openDevice()
	check(t, err)
	m := load(t, dir, device)
	r := &runner{t: t, model: m, device: device}
	r.stream, err = device.NewStream()
	check(t, err)
	r.workspace, err = m.NewWorkspace(tokens)
	check(t, err)
	r.cache, err = device.NewCache(m.CacheSpec((tokens+runnerBlock-1)/runnerBlock, runnerBlock))
	check(t, err)
	return r
}

func load(t *testing.T, dir string, device kernels.Device) *model.Model {
	t.Helper()
	path := dir
	if list, err := filepath.Glob(filepath.Join(dir, "megatron.json")); err == nil && len(list) == 1 {
		path = list[0]
	}
	c, err := ckpt.Open(path, ckpt.Options{})
	check(t, err)
	facts := model.NewFacts(c.Config().Source, c.Config().Values)
	policy, err := policies.Find(facts)
	check(t, err)
	config, err := policy.Configure(facts)
	check(t, err)
	m, err := model.Load(context.Background(), c, policy, config, device, model.LoadOptions{})
	check(t, err)
	t.Cleanup(func() {
		m.Close()
		check(t, c.Close())
		check(t, device.Close())
	})
	return m
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// forward runs ids as a whole prompt and returns the hidden states before each layer and after the last, and the
// logits, [tokens, cols] each.
func (r *runner) forward(ids []int32) (hidden [][]float32, logits []float32) {
	r.t.Helper()
	n := len(ids)
	positions, slots, seq := make([]int32, n), make([]int32, n), make([]int32, n)
	for i := range ids {
		positions[i], slots[i] = int32(i), int32(i)
	}
	blocks := make([]int32, r.cache.Spec().Blocks)
	for i := range blocks {
		blocks[i] = int32(i)
	}
	step := model.Step{IDs: r.ints(1, ids), Cache: r.cache, Batch: kernels.Batch{Tokens: n, Seqs: 1, MaxContext: n,
		Position: r.ints(1, positions), Slot: r.ints(1, slots), Seq: r.ints(1, seq), Start: r.ints(1, []int32{0, int32(n)}),
		Blocks: r.ints(1, blocks)},
		Hidden: func(_ int, x kernels.Tensor) error {
			hidden = append(hidden, r.floats(x))
			return nil
		}}
	h, err := r.model.Forward(context.Background(), r.stream, step, r.workspace)
	check(r.t, err)
	y, err := r.device.Alloc("logits", kernels.F32, n, r.model.Config.Vocab)
	check(r.t, err)
	defer y.Mem.Free()
	r.stream.Linear(y, h, r.model.Head(), kernels.Epilogue{})
	return hidden, r.floats(y)
}

func (r *runner) ints(rows int, v []int32) kernels.Tensor {
	t, err := r.device.Alloc("test", kernels.I32, rows, len(v)/rows)
	check(r.t, err)
	r.t.Cleanup(t.Mem.Free)
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, uint32(x))
	}
	r.stream.Write(t, data)
	return t
}

func (r *runner) floats(t kernels.Tensor) []float32 {
	r.t.Helper()
	data := make([]byte, 4*t.Rows*t.Cols)
	r.stream.Read(data, t)
	check(r.t, r.stream.Sync())
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

// greedy continues a prompt by full recomputation and compares the tokens as far as the margins are clear.
func (r *runner) greedy(prompt int, a modeltest.Answer) {
	r.t.Helper()
	ids := append([]int32(nil), a.Prompt...)
	for step, want := range a.Greedy {
		_, logits := r.forward(ids)
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
