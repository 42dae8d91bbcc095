package model_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/store"
)

// The random models of gpt-oss.
const ossHidden, ossHeads, ossKVHeads, ossDim, ossFFN, ossExperts, ossK, ossWindow, ossLimit = 64, 8, 2, 8, 32, 6, 3, 4, 1.5

// ossRope is YaRN of three pairs that are kept, blended and divided.
var ossRope = map[string]any{"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16.0, "beta_fast": 1.0,
	"beta_slow": 0.2, "truncate": false}

func randomGPTOSS(c map[string]any, x tensors) {
	clear(c)
	clear(x)
	maps.Copy(c, map[string]any{"architectures": []any{"GptOssForCausalLM"}, "model_type": "gpt_oss", "hidden_size": ossHidden, "num_attention_heads": ossHeads,
		"num_key_value_heads": ossKVHeads, "head_dim": ossDim, "num_hidden_layers": 3, "vocab_size": 160, "max_position_embeddings": 64,
		"intermediate_size": ossFFN, "num_local_experts": ossExperts, "num_experts_per_tok": ossK, "hidden_act": "silu", "rms_norm_eps": 1e-5,
		"sliding_window": ossWindow, "swiglu_limit": ossLimit, "rope_parameters": ossRope})
	x.random("model.embed_tokens.weight", 160, ossHidden)
	x.random("lm_head.weight", 160, ossHidden)
	x.randomModule("model.norm", ossHidden, 0, false)
	for layer := range 3 {
		at := fmt.Sprintf("model.layers.%d.", layer)
		x.randomModule(at+"input_layernorm", ossHidden, 0, false)
		x.randomModule(at+"self_attn.q_proj", ossHeads*ossDim, ossHidden, true)
		x.randomModule(at+"self_attn.k_proj", ossKVHeads*ossDim, ossHidden, true)
		x.randomModule(at+"self_attn.v_proj", ossKVHeads*ossDim, ossHidden, true)
		x.randomModule(at+"self_attn.o_proj", ossHidden, ossHeads*ossDim, true)
		x.random(at+"self_attn.sinks", ossHeads, 1)
		x.flatten(at + "self_attn.sinks")
		x.randomModule(at+"post_attention_layernorm", ossHidden, 0, false)
		x.randomModule(at+"mlp.router", ossExperts, ossHidden, true)
		x.random(at+"mlp.experts.gate_up_proj", ossExperts*ossHidden, 2*ossFFN)
		x.random(at+"mlp.experts.down_proj", ossExperts*ossFFN, ossHidden)
		x.random(at+"mlp.experts.gate_up_proj_bias", ossExperts, 2*ossFFN)
		x.random(at+"mlp.experts.down_proj_bias", ossExperts, ossHidden)
		x.stack(at+"mlp.experts.gate_up_proj", ossExperts)
		x.stack(at+"mlp.experts.down_proj", ossExperts)
	}
}

// stack cuts the rows of a matrix into so many matrices.
func (all tensors) stack(name string, n int64) {
	y := all[name]
	y.Shape = []int64{n, y.Shape[0] / n, y.Shape[1]}
	all[name] = y
}

// inMXFP4 is the same model with experts of random blocks and scales.
func inMXFP4(c map[string]any, x tensors) {
	randomGPTOSS(c, x)
	c["quantization_config"] = map[string]any{"quant_method": "mxfp4", "modules_to_not_convert": []any{"lm_head"}}
	for layer := range 3 {
		at := fmt.Sprintf("model.layers.%d.mlp.experts.", layer)
		for name, size := range map[string][2]int{"gate_up_proj": {2 * ossFFN, ossHidden}, "down_proj": {ossHidden, ossFFN}} {
			delete(x, at+name)
			seed := fnv.New64a()
			_, _ = seed.Write([]byte(at + name)) // never fails
			r := rand.New(rand.NewPCG(4, seed.Sum64()))
			blocks, scales := make([]byte, ossExperts*size[0]*size[1]/2), make([]byte, ossExperts*size[0]*size[1]/32)
			for i := range blocks {
				blocks[i] = byte(r.Uint32())
			}
			for i := range scales {
				scales[i] = byte(127 - 6 + r.IntN(4))
			}
			x[at+name+"_blocks"] = tensor{DType: "U8", Shape: []int64{ossExperts, int64(size[0]), int64(size[1] / 32), 16}, data: blocks}
			x[at+name+"_scales"] = tensor{DType: "U8", Shape: []int64{ossExperts, int64(size[0]), int64(size[1] / 32)}, data: scales}
		}
	}
}

// expertWeight is the weight of an expert's output by one of its inputs.
func (d definition) expertWeight(name string, expert, in, out int) float64 {
	if y, ok := d.x[name]; ok {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(y.data[4*((expert*int(y.Shape[1])+in)*int(y.Shape[2])+out):])))
	}
	blocks, scales := d.x[name+"_blocks"], d.x[name+"_scales"]
	at := (expert*int(blocks.Shape[1])+out)*int(blocks.Shape[2])*32 + in
	code := blocks.data[at/2] >> (at % 2 * 4) & 15
	return []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}[code] * math.Pow(2, float64(scales.data[at/32])-127)
}

// expert is what one makes of a token.
func (d definition) expert(at string, e int, x []float64) []float64 {
	both, inner := d.row(at+"gate_up_proj_bias", e), make([]float64, ossFFN)
	for out := range both {
		for i, v := range x {
			both[out] += v * d.expertWeight(at+"gate_up_proj", e, i, out)
		}
	}
	for i := range inner {
		gate, up := min(both[2*i], ossLimit), max(min(both[2*i+1], ossLimit), -ossLimit)
		inner[i] = (up + 1) * gate / (1 + math.Exp(-1.702*gate))
	}
	y := d.row(at+"down_proj_bias", e)
	for out := range y {
		for i, v := range inner {
			y[out] += v * d.expertWeight(at+"down_proj", e, i, out)
		}
	}
	return y
}

// experts is a layer of them: the best few, weighed by the softmax of their logits.
func (d definition) experts(at string, x [][]float64) [][]float64 {
	y, logits := make([][]float64, len(x)), d.linear(x, at+"router")
	for t, row := range logits {
		best := slices.SortedFunc(maps.Keys(indexed(row)), func(a, b int) int { return cmp.Compare(row[b], row[a]) })[:ossK]
		var sum float64
		for _, e := range best {
			sum += math.Exp(row[e])
		}
		y[t] = make([]float64, ossHidden)
		for _, e := range best {
			for i, v := range d.expert(at+"experts.", e, x[t]) {
				y[t][i] += math.Exp(row[e]) / sum * v
			}
		}
	}
	return y
}

func indexed(x []float64) map[int]float64 {
	y := map[int]float64{}
	for i, v := range x {
		y[i] = v
	}
	return y
}

func (d definition) rmsNorm(x [][]float64, module string, epsilon float64) [][]float64 {
	weight, y := d.row(module+".weight", 0), make([][]float64, len(x))
	for t, row := range x {
		var square float64
		for _, v := range row {
			square += v * v / float64(len(row))
		}
		for i, v := range row {
			y[t] = append(y[t], v/math.Sqrt(square+epsilon)*weight[i])
		}
	}
	return y
}

// ossTurn rotates a head by its position, after YaRN (arXiv 2309.00071, section 3).
func ossTurn(x []float64, position int, rope map[string]any) {
	const half = ossDim / 2
	at := func(turns float64) float64 {
		return ossDim * math.Log(rope["original_max_position_embeddings"].(float64)/(turns*2*math.Pi)) / (2 * math.Log(rope["rope_theta"].(float64)))
	}
	low, high := at(rope["beta_fast"].(float64)), at(rope["beta_slow"].(float64))
	if rope["truncate"] != false {
		low, high = math.Floor(low), math.Ceil(high)
	}
	factor := rope["factor"].(float64)
	magnitude := 0.1*math.Log(factor) + 1
	for i := range half {
		kept := 1 - min(max((float64(i)-low)/(high-low), 0), 1)
		frequency := math.Pow(rope["rope_theta"].(float64), -float64(i)/half)
		frequency = frequency*kept + frequency/factor*(1-kept)
		sin, cos := math.Sincos(float64(position) * frequency)
		x[i], x[i+half] = magnitude*(x[i]*cos-x[i+half]*sin), magnitude*(x[i+half]*cos+x[i]*sin)
	}
}

func (d definition) gptOSS(ids []int32) []float32 {
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = d.row("model.embed_tokens.weight", int(id))
	}
	kinds, _ := d.config["layer_types"].([]any)
	rope, ok := d.config["rope_parameters"].(map[string]any)
	if !ok {
		rope = maps.Clone(d.config["rope_scaling"].(map[string]any))
		rope["rope_theta"] = d.config["rope_theta"]
	}
	for layer := range 3 {
		at := fmt.Sprintf("model.layers.%d.", layer)
		how := attention{scale: 1 / math.Sqrt(ossDim), sinks: d.row(at+"self_attn.sinks", 0)}
		if kinds == nil && layer%2 == 0 || kinds != nil && kinds[layer] == "sliding_attention" {
			how.window = ossWindow
		}
		h := d.rmsNorm(x, at+"input_layernorm", 1e-5)
		q, k, v := d.linear(h, at+"self_attn.q_proj"), d.linear(h, at+"self_attn.k_proj"), d.linear(h, at+"self_attn.v_proj")
		for t := range h {
			for _, row := range [][]float64{q[t], k[t]} {
				for one := range slices.Chunk(row, ossDim) {
					ossTurn(one, t, rope)
				}
			}
			k[t], v[t] = forEachHead(k[t]), forEachHead(v[t])
		}
		x = added(x, d.linear(how.of(q, k, v, ossHeads), at+"self_attn.o_proj"))
		x = added(x, d.experts(at+"mlp.", d.rmsNorm(x, at+"post_attention_layernorm", 1e-5)))
	}
	return flat(d.linear(d.rmsNorm(x, "model.norm", 1e-5), "lm_head"))
}

// forEachHead gives each query head its head of K or V.
func forEachHead(row []float64) (all []float64) {
	for one := range slices.Chunk(row, ossDim) {
		for range ossHeads / ossKVHeads {
			all = append(all, one...)
		}
	}
	return all
}

// TestMXFP4 runs a model whose experts are stored in MXFP4 in the types that weights are packed as: as stored, converted, cut for
// ranks and, of int8, quantized, the bits are the same.
func TestMXFP4(t *testing.T) {
	dir := edited(t, "gpt_neox", "config.json", inMXFP4)
	forms := map[string]string{"converted": converted(t, dir, 0), "cut": resharded(t, dir, 2, 2)}
	small := rewritten(t, dir, func(c *ckpt.Checkpoint, to string) error { return store.Quantize(t.Context(), c, to) })
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.I8} {
		for _, y := range []layout{{dtype: d}, {dtype: d, tp: 2, ep: 2}, {dtype: d, es: 2, dp: 2, ep: 1}} {
			want, err := y.run(t, dir, texts)
			check(t, err)
			for form, path := range forms {
				got, err := y.run(t, path, texts)
				check(t, err)
				t.Run(fmt.Sprintf("%s, %v", form, d), func(t *testing.T) { compareBits(t, y, got.logits, want.logits) })
			}
			if y == (layout{dtype: kernels.I8}) {
				got, err := y.run(t, small, texts)
				check(t, err)
				t.Run("quantized", func(t *testing.T) { compareBits(t, y, got.logits, want.logits) })
			}
		}
	}
}

// TestGPTOSSRefusals: configs and tensors of no such model.
func TestGPTOSSRefusals(t *testing.T) {
	const sinks, router = "model.layers.1.self_attn.sinks", "model.layers.2.mlp.router.bias"
	for _, r := range []refusal{
		{"attention of an unknown kind", set("layer_types", []any{"full_attention", "local", "full_attention"}), model.ErrConfig, []string{"config.json", "layer_types", "layer 1", `"local"`, "sliding_attention"}},
		{"attention of too few layers", set("layer_types", []any{"full_attention"}), model.ErrConfig, []string{"3 layers", "attention of 1"}},
		{"a limit of 0", set("swiglu_limit", 0.0), model.ErrConfig, []string{"config.json", "swiglu_limit", "0"}},
		{"a limit that is a word", set("swiglu_limit", "high"), model.ErrConfig, []string{"config.json", "swiglu_limit", "high"}},
		{"nothing says how many experts there are", unset("num_local_experts"), model.ErrConfig, []string{"config.json", "num_local_experts"}},
		{"an expert too many", set("num_local_experts", ossExperts+1), model.ErrTensor, []string{"router.weight", "[6 64]", "[7 64]"}},
		{"another ffn size", set("intermediate_size", 40), model.ErrTensor, []string{"experts.0.", "[32 64]", "[40 64]"}},
		{"no sinks", func(_ map[string]any, x tensors) { delete(x, sinks) }, model.ErrTensor, []string{sinks, "missing"}},
		{"sinks of fewer heads", func(_ map[string]any, x tensors) { x.random(sinks, 7, 1); x.flatten(sinks) }, model.ErrTensor, []string{sinks, "[7]", "[8]"}},
		{"a gate without its bias", func(_ map[string]any, x tensors) { delete(x, router) }, model.ErrTensor, []string{router, "missing"}},
		{"experts of an odd number of columns", func(_ map[string]any, x tensors) {
			x.random("model.layers.0.mlp.experts.gate_up_proj_bias", ossExperts, 2*ossFFN+1)
		}, ckpt.ErrMismatch, []string{"model.safetensors", "gate_up_proj_bias", "[6 65]"}},
	} {
		edit := r.edit
		r.edit = func(c map[string]any, x tensors) {
			randomGPTOSS(c, x)
			edit(c, x)
		}
		r.run(t, "gpt_neox", "config.json")
	}
}
