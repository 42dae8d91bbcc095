package ckpt

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// reference is the Megatron-DeepSpeed model by its definition, in float64, one token after the other: a checkpoint
// that was joined, reordered or renumbered wrongly gives other logits than the ones recorded.
type reference struct {
	t     *testing.T
	c     *Checkpoint
	cache map[string]matrix
}

type matrix struct {
	rows, cols int
	v          []float64
}

func (m matrix) row(i int) []float64 { return m.v[i*m.cols : (i+1)*m.cols] }

func (r *reference) get(name string) matrix {
	if m, ok := r.cache[name]; ok {
		return m
	}
	x, ok := r.c.Tensor(name)
	if !ok {
		r.t.Fatalf("no tensor %q", name)
	}
	f, err := x.Floats()
	if err != nil {
		r.t.Fatal(err)
	}
	m := matrix{rows: int(x.Shape[0]), cols: 1}
	if len(x.Shape) == 2 {
		m.cols = int(x.Shape[1])
	}
	for _, v := range f {
		m.v = append(m.v, float64(v))
	}
	r.cache[name] = m
	return m
}

func (r *reference) fact(key string) int { return int(r.c.Config().Values[key].(float64)) }

// linear is w·x + b; a nil bias adds nothing.
func (r *reference) linear(name string, x []float64, bias bool) []float64 {
	w := r.get(name + ".weight")
	y := make([]float64, w.rows)
	for i := range y {
		for k, v := range w.row(i) {
			y[i] += v * x[k]
		}
		if bias {
			y[i] += r.get(name + ".bias").v[i]
		}
	}
	return y
}

func (r *reference) norm(name string, x []float64) []float64 {
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v-mean)/math.Sqrt(variance+r.c.Config().Values["layernorm_epsilon"].(float64))*r.get(name + ".weight").v[i] + r.get(name + ".bias").v[i]
	}
	return y
}

func (r *reference) mlp(name string, x []float64, outputBias bool) []float64 {
	h := r.linear(name+"dense_h_to_4h", x, true)
	for i, v := range h {
		h[i] = 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	}
	return r.linear(name+"dense_4h_to_h", h, outputBias)
}

func softmax(x []float64) []float64 {
	most, sum := slices.Max(x), 0.0
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = math.Exp(v - most)
		sum += y[i]
	}
	for i := range y {
		y[i] /= sum
	}
	return y
}

// experts is the MoE layer: top-1 weighs by the probability, top-2 renormalises.
func (r *reference) experts(layer string, x []float64) []float64 {
	p := softmax(r.linear(layer+"mlp.deepspeed_moe.gate.wg", x, false))
	add := r.c.Config().Values["expert_output_bias"] == "add"
	y := make([]float64, len(x))
	chosen, sum := []int{}, 0.0
	for range r.fact("topk") {
		best := -1
		for e := range p {
			if !slices.Contains(chosen, e) && (best < 0 || p[e] > p[best]) {
				best = e
			}
		}
		chosen, sum = append(chosen, best), sum+p[best]
	}
	if len(chosen) == 1 {
		sum = 1
	}
	for _, e := range chosen {
		for i, v := range r.mlp(fmt.Sprintf("%smlp.deepspeed_moe.experts.deepspeed_experts.%d.", layer, e), x, add) {
			y[i] += p[e] / sum * v
		}
	}
	if r.c.Config().Values["mlp_type"] == "residual" {
		c := softmax(r.linear(layer+"mlp.coefficient", x, true))
		for i, v := range r.mlp(layer+"mlp.mlp.", x, add) {
			y[i] = c[0]*y[i] + c[1]*v
		}
	}
	return y
}

// logits of every position of a prompt.
func (r *reference) logits(ids []int32) [][]float64 {
	heads := r.fact("num_attention_heads")
	dim := r.fact("hidden_size") / heads
	words, positions := r.get("language_model.embedding.word_embeddings.weight"), r.get("language_model.embedding.position_embeddings.weight")
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = slices.Clone(words.row(int(id)))
		for i, v := range positions.row(t) {
			x[t][i] += v
		}
	}
	moe, _ := r.c.Config().Values["moe_layers"].([]any)
	for l := range r.fact("num_layers") {
		layer := layersPrefix + fmt.Sprint(l) + "."
		qkv := make([][]float64, len(ids)) // rows [heads, 3, head_dim]
		for t := range ids {
			qkv[t] = r.linear(layer+"attention.query_key_value", r.norm(layer+"input_layernorm", x[t]), true)
		}
		for t := len(ids) - 1; t >= 0; t-- {
			out := make([]float64, heads*dim)
			for h := range heads {
				q := qkv[t][3*h*dim : (3*h+1)*dim]
				scores := make([]float64, t+1)
				for s := range scores {
					for i, v := range qkv[s][(3*h+1)*dim : (3*h+2)*dim] {
						scores[s] += q[i] * v / math.Sqrt(float64(dim))
					}
				}
				for s, p := range softmax(scores) {
					for i, v := range qkv[s][(3*h+2)*dim : (3*h+3)*dim] {
						out[h*dim+i] += p * v
					}
				}
			}
			for i, v := range r.linear(layer+"attention.dense", out, true) {
				x[t][i] += v
			}
			n := r.norm(layer+"post_attention_layernorm", x[t])
			y := []float64(nil)
			if slices.Contains(moe, any(float64(l))) {
				y = r.experts(layer, n)
			} else {
				y = r.mlp(layer+"mlp.", n, true)
			}
			for i, v := range y {
				x[t][i] += v
			}
		}
	}
	out := make([][]float64, len(ids))
	for t := range x {
		n := r.norm("language_model.encoder.final_layernorm", x[t])
		out[t] = make([]float64, words.rows)
		for i := range out[t] {
			for k, v := range words.row(i) {
				out[t][i] += v * n[k]
			}
		}
	}
	return out
}

// check computes the logits of some recorded prompts and compares them, relative to the largest.
func (r *reference) check(expected *Checkpoint, prompts int) {
	for i := range prompts {
		idsTensor, ok := expected.Tensor(fmt.Sprintf("%d.input_ids", i))
		want, ok2 := expected.Tensor(fmt.Sprintf("%d.logits", i))
		if !ok || !ok2 {
			continue
		}
		b := content(r.t, idsTensor)
		ids := make([]int32, len(b)/4)
		for k := range ids {
			ids[k] = int32(binary.LittleEndian.Uint32(b[4*k:]))
		}
		w, err := want.Floats()
		if err != nil {
			r.t.Fatal(err)
		}
		largest, worst := 0.0, 0.0
		for t, row := range r.logits(ids) {
			for k, v := range row {
				f := float64(w[t*len(row)+k])
				largest, worst = max(largest, math.Abs(f)), max(worst, math.Abs(v-f))
			}
		}
		if worst > 1e-4*largest {
			r.t.Errorf("prompt %d of %d tokens: logits are off by %g of %g", i, len(ids), worst, largest)
		}
	}
}

// TestLayoutsGiveTheirLogits runs every layout of DeepSpeed and Megatron through the reference.
func TestLayoutsGiveTheirLogits(t *testing.T) {
	paths, err := filepath.Glob(goldens + "/megatron-*/model.json")
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob(goldens + "/ds-moe-*/model.json")
	paths = append(paths, more...)
	if len(paths) != 6 {
		t.Fatalf("%d layouts, want 6", len(paths))
	}
	json, _ := filepath.Glob(goldens + "/megatron-*/megatron.json")
	for _, path := range append(paths, json...) {
		dir := filepath.Dir(path)
		if filepath.Base(path) == "model.json" {
			path = dir
		}
		t.Run(filepath.Base(dir)+"/"+filepath.Base(path), func(t *testing.T) {
			r := &reference{t, open(t, path), map[string]matrix{}}
			r.check(open(t, filepath.Join(dir, "expected.safetensors")), 3)
		})
	}
}

func TestTrainedModelsGiveTheirLogits(t *testing.T) {
	for _, name := range []string{"austen-prmoe", "austen-mos", "austen-moe8", "austen-moe8-mp2", "austen-moe8-top2", "austen-dense", "austen-dense-megatron-mp2"} {
		t.Run(name, func(t *testing.T) {
			expected := trained(t, name)
			switch name {
			case "austen-moe8-mp2":
				expected = trained(t, "austen-moe8")
			case "austen-dense-megatron-mp2":
				expected = trained(t, "austen-dense")
			}
			r := &reference{t, open(t, trained(t, name)), map[string]matrix{}}
			r.check(open(t, filepath.Join(expected, "expected.safetensors")), 3)
		})
	}
}

// modelJSON is the facts as their file has them.
func modelJSON(t *testing.T, dir string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "model.json"))
	if err != nil {
		t.Fatal(err)
	}
	var facts map[string]any
	if err := json.Unmarshal(b, &facts); err != nil {
		t.Fatal(err)
	}
	return facts
}
