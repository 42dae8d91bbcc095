package model_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
)

// What the two families say of their gates.
var (
	deepSeekV2 = map[string]any{"architectures": []any{"DeepseekV2ForCausalLM"}, "model_type": "deepseek_v2", "scoring_func": "softmax", "topk_method": "greedy", "routed_scaling_factor": 1.5}
	deepSeekV3 = map[string]any{"architectures": []any{"DeepseekV3ForCausalLM"}, "model_type": "deepseek_v3", "scoring_func": "sigmoid", "topk_method": "noaux_tc",
		"norm_topk_prob": true, "n_group": 4.0, "topk_group": 2.0, "routed_scaling_factor": 2.5}
)

// randomDeepSeek makes a model with random weights, of a family and with settings of its own.
func randomDeepSeek(t *testing.T, family, own map[string]any) (dir string, d deepSeek) {
	t.Helper()
	dir = edited(t, "gpt_neox", "config.json", func(config map[string]any, x tensors) {
		clear(config)
		clear(x)
		maps.Copy(config, map[string]any{"hidden_size": 40.0, "num_attention_heads": 6.0, "num_hidden_layers": 3.0, "vocab_size": 160.0, "max_position_embeddings": 64.0,
			"hidden_act": "silu", "intermediate_size": 24.0, "moe_intermediate_size": 12.0, "n_routed_experts": 16.0, "n_shared_experts": 2.0, "num_experts_per_tok": 3.0,
			"first_k_dense_replace": 1.0, "q_lora_rank": 20.0, "kv_lora_rank": 24.0, "qk_nope_head_dim": 10.0, "qk_rope_head_dim": 8.0, "v_head_dim": 14.0,
			"rms_norm_eps": 1e-6, "rope_theta": 100.0})
		maps.Copy(config, family)
		maps.Copy(config, own)
		d = deepSeek{definition{config, x}}
		d.random()
		if config["quantization_config"] != nil {
			d.x = x.inFP8(16, 9)
		}
	})
	return dir, d
}

// TestDeepSeekKinds holds random models of DeepSeek's families, whole, sliced and in stages, against their definition in
// float64: keys and values made of the latent for every head, probabilities of all experts, no cache.
func TestDeepSeekKinds(t *testing.T) {
	yarn := map[string]any{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16.0, "beta_fast": 2.0, "beta_slow": 0.25, "mscale": 0.707, "mscale_all_dim": 0.9}
	v2, v3 := deepSeekV2, deepSeekV3
	for _, c := range []struct {
		kind   string
		family map[string]any
		own    map[string]any
	}{
		{"V2, greedy, no narrow queries", v2, map[string]any{"q_lora_rank": nil}},
		{"V2, best groups, YaRN", v2, map[string]any{"topk_method": "group_limited_greedy", "n_group": 4.0, "topk_group": 2.0, "rope_scaling": yarn}},
		{"V2, renormalised, experts in every other layer, biases", v2, map[string]any{"norm_topk_prob": true, "moe_layer_freq": 2.0, "first_k_dense_replace": 0.0, "attention_bias": true}},
		{"V2, one expert a token, none shared", v2, map[string]any{"num_experts_per_tok": 1.0, "n_shared_experts": nil, "norm_topk_prob": true}},
		{"V3, YaRN", v3, map[string]any{"rope_scaling": yarn}},
		{"V3, one group, no narrow queries, halves rotated", v3, map[string]any{"n_group": 1.0, "topk_group": 1.0, "q_lora_rank": nil, "rope_interleave": false}},
		{"V3, not renormalised, a layer that predicts further tokens", v3, map[string]any{"norm_topk_prob": false, "num_nextn_predict_layers": 1.0}},
		{"V3, in FP8", v3, map[string]any{"num_nextn_predict_layers": 1.0,
			"quantization_config": map[string]any{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": []any{16.0, 9.0}}}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			dir, d := randomDeepSeek(t, c.family, c.own)
			first := map[int][][]float32{} // by tp
			for _, y := range []layout{{}, {pp: 2, piece: 3}, {tp: 2, ep: 1}, {tp: 2, dp: 2, ep: 4, split: true, piece: 4}, {tp: 6, ep: 2, piece: 5}} {
				o, err := y.run(t, dir, texts)
				check(t, err)
				for i, text := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), o.logits[i], d.logits(text))
				}
				if tp := max(y.tp, 1); first[tp] == nil {
					first[tp] = o.logits
				} else {
					compareBits(t, y, o.logits, first[tp])
				}
			}
			if d.config["quantization_config"] == nil {
				return
			}
			// Stored otherwise it gives the same bits: as it is, widened, in slices.
			y := layout{tp: 2, ep: 2}
			for _, form := range []string{converted(t, dir, 0), converted(t, dir, kernels.F32), resharded(t, dir, 2, 2), resharded(t, dir, 6, 1)} {
				o, err := y.run(t, form, texts)
				check(t, err)
				compareBits(t, y, o.logits, first[2])
			}
		})
	}
}

// TestDeepSeekMemory: the cache holds the latent and the rotated key of a token, on every rank of a tp group, and a workspace takes
// what is said beforehand.
func TestDeepSeekMemory(t *testing.T) {
	dir, _ := randomDeepSeek(t, deepSeekV3, nil)
	for _, o := range []model.LoadOptions{{}, {TP: &comm.Group{World: two{mpi.Alone()}}}} {
		one, err := cpu.New(cpu.Options{Threads: 1})
		check(t, err)
		device := counting{one, new(int64)}
		m := load(t, dir, device, o)
		if got := m.CacheSpec(5, 16).Bytes(); got != 3*5*16*(24+8)*4 {
			t.Errorf("a cache of 80 tokens takes %d bytes", got)
		}
		before := *device.bytes
		w, err := m.NewWorkspace(33)
		check(t, err)
		if got, want := *device.bytes-before, m.WorkspaceBytes(33); got != want {
			t.Errorf("a workspace takes %d bytes, not %d", got, want)
		}
		w.Free()
	}
}

// counting is a device that counts the bytes of the tensors that it is asked for.
type counting struct {
	kernels.Device
	bytes *int64
}

func (c counting) Alloc(what string, d kernels.DType, rows, cols int) (kernels.Tensor, error) {
	t, err := c.Device.Alloc(what, d, rows, cols)
	*c.bytes += t.Bytes()
	return t, err
}

// inFP8 puts random numbers of 8 bits and scales of blocks in the place of the weights that DeepSeek-V3 has so, and returns what
// they stand for.
func (all tensors) inFP8(rows, cols int64) tensors {
	r, wide := rand.New(rand.NewPCG(8, 8)), maps.Clone(all)
	for _, name := range slices.Sorted(maps.Keys(wide)) {
		y := wide[name]
		if len(y.Shape) != 2 || !strings.Contains(name, "_proj") {
			continue
		}
		across := (y.Shape[1] + cols - 1) / cols
		scales := make([]float32, (y.Shape[0]+rows-1)/rows*across)
		var scaleData, data, floats []byte
		for i := range scales {
			scales[i] = 0.1 + 0.5*r.Float32()
			scaleData = binary.LittleEndian.AppendUint32(scaleData, math.Float32bits(scales[i]))
		}
		for i := range y.Shape[0] {
			for j := range y.Shape[1] {
				b := byte(r.IntN(64) + r.IntN(2)*128) // magnitudes up to 1.875
				v := math.Ldexp(float64(b&7)/8, -6)
				if exponent := int(b >> 3 & 15); exponent > 0 {
					v = math.Ldexp(1+float64(b&7)/8, exponent-7)
				}
				if b >= 128 {
					v = -v
				}
				data = append(data, b)
				floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(float32(v*float64(scales[i/rows*across+j/cols]))))
			}
		}
		wide[name] = tensor{DType: "F32", Shape: y.Shape, data: floats}
		all[name] = tensor{DType: "F8_E4M3", Shape: y.Shape, data: data}
		all[name+"_scale_inv"] = tensor{DType: "F32", Shape: []int64{int64(len(scales)) / across, across}, data: scaleData}
	}
	return wide
}

// deepSeek is a model of these families by the book.
type deepSeek struct{ definition }

// sizeOr is an integer of the config, or absent where there is none.
func (d deepSeek) sizeOr(key string, absent int) int {
	if v, ok := d.config[key].(float64); ok {
		return int(v)
	}
	return absent
}

// numberOr is a number of the config, or absent where there is none.
func numberOr(config map[string]any, key string, absent float64) float64 {
	if v, ok := config[key].(float64); ok {
		return v
	}
	return absent
}

func (d deepSeek) experts(layer int) bool {
	return layer >= d.number("first_k_dense_replace") && layer%d.sizeOr("moe_layer_freq", 1) == 0
}

// random makes the tensors.
func (d deepSeek) random() {
	x, hidden, heads := d.x, d.number("hidden_size"), d.number("num_attention_heads")
	plain, turned, value, kv := d.number("qk_nope_head_dim"), d.number("qk_rope_head_dim"), d.number("v_head_dim"), d.number("kv_lora_rank")
	bias := d.flag("attention_bias")
	mlp := func(at string, inside int) {
		x.randomModule(at+"gate_proj", inside, hidden, false)
		x.randomModule(at+"up_proj", inside, hidden, false)
		x.randomModule(at+"down_proj", hidden, inside, false)
	}
	x.random("model.embed_tokens.weight", 160, hidden)
	x.random("lm_head.weight", 160, hidden)
	x.randomModule("model.norm", hidden, 0, false)
	for layer := range d.number("num_hidden_layers") + d.sizeOr("num_nextn_predict_layers", 0) {
		at := fmt.Sprintf("model.layers.%d.", layer)
		x.randomModule(at+"input_layernorm", hidden, 0, false)
		x.randomModule(at+"post_attention_layernorm", hidden, 0, false)
		if narrow := d.sizeOr("q_lora_rank", 0); narrow > 0 {
			x.randomModule(at+"self_attn.q_a_proj", narrow, hidden, bias)
			x.randomModule(at+"self_attn.q_a_layernorm", narrow, 0, false)
			x.randomModule(at+"self_attn.q_b_proj", heads*(plain+turned), narrow, false)
		} else {
			x.randomModule(at+"self_attn.q_proj", heads*(plain+turned), hidden, false)
		}
		x.randomModule(at+"self_attn.kv_a_proj_with_mqa", kv+turned, hidden, bias)
		x.randomModule(at+"self_attn.kv_a_layernorm", kv, 0, false)
		x.randomModule(at+"self_attn.kv_b_proj", heads*(plain+value), kv, false)
		x.randomModule(at+"self_attn.o_proj", hidden, heads*value, bias)
		if !d.experts(layer) {
			mlp(at+"mlp.", d.number("intermediate_size"))
			continue
		}
		inside := d.number("moe_intermediate_size")
		x.randomModule(at+"mlp.gate", d.number("n_routed_experts"), hidden, false)
		if d.config["scoring_func"] == "sigmoid" {
			x.random(at+"mlp.gate.e_score_correction_bias", d.number("n_routed_experts"), 1)
			x.flatten(at + "mlp.gate.e_score_correction_bias")
		}
		for e := range d.number("n_routed_experts") {
			mlp(fmt.Sprintf("%smlp.experts.%d.", at, e), inside)
		}
		if shared := d.sizeOr("n_shared_experts", 0); shared > 0 {
			mlp(at+"mlp.shared_experts.", shared*inside)
		}
	}
}

func (d deepSeek) logits(ids []int32) []float32 {
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = d.row("model.embed_tokens.weight", int(id))
	}
	for layer := range d.number("num_hidden_layers") {
		at := fmt.Sprintf("model.layers.%d.", layer)
		x = added(x, d.attention(d.rmsNorm(x, at+"input_layernorm", 1e-6), at+"self_attn."))
		h := d.rmsNorm(x, at+"post_attention_layernorm", 1e-6)
		if !d.experts(layer) {
			x = added(x, d.gated(h, at+"mlp."))
			continue
		}
		for t := range h {
			one := h[t : t+1]
			for e, weight := range d.chosen(d.linear(one, at+"mlp.gate")[0], d.row(at+"mlp.gate.e_score_correction_bias", 0)) {
				for i, v := range d.gated(one, fmt.Sprintf("%smlp.experts.%d.", at, e))[0] {
					x[t][i] += weight * v
				}
			}
			if d.sizeOr("n_shared_experts", 0) > 0 {
				x[t] = added(x[t:t+1], d.gated(one, at+"mlp.shared_experts."))[0]
			}
		}
	}
	return flat(d.linear(d.rmsNorm(x, "model.norm", 1e-6), "lm_head"))
}

func (d deepSeek) gated(x [][]float64, at string) [][]float64 {
	gate, up := d.linear(x, at+"gate_proj"), d.linear(x, at+"up_proj")
	for t := range gate {
		for i, v := range gate[t] {
			up[t][i] *= v / (1 + math.Exp(-v))
		}
	}
	return d.linear(up, at+"down_proj")
}

func (d deepSeek) attention(h [][]float64, at string) [][]float64 {
	heads, plain, turned, value, kv := d.number("num_attention_heads"), d.number("qk_nope_head_dim"), d.number("qk_rope_head_dim"), d.number("v_head_dim"), d.number("kv_lora_rank")
	var q [][]float64
	if d.sizeOr("q_lora_rank", 0) > 0 {
		q = d.linear(d.rmsNorm(d.linear(h, at+"q_a_proj"), at+"q_a_layernorm", 1e-6), at+"q_b_proj")
	} else {
		q = d.linear(h, at+"q_proj")
	}
	down := d.linear(h, at+"kv_a_proj_with_mqa")
	latent, shared := make([][]float64, len(h)), make([][]float64, len(h))
	for t, row := range down {
		latent[t], shared[t] = row[:kv], row[kv:]
		d.turn(shared[t], t)
		for one := range slices.Chunk(q[t], plain+turned) {
			d.turn(one[plain:], t)
		}
	}
	both, scale := d.linear(d.rmsNorm(latent, at+"kv_a_layernorm", 1e-6), at+"kv_b_proj"), 1/math.Sqrt(float64(plain+turned))
	if yarn, ok := d.config["rope_scaling"].(map[string]any); ok {
		m := 0.1*numberOr(yarn, "mscale_all_dim", 0)*math.Log(numberOr(yarn, "factor", 1)) + 1
		scale *= m * m
	}
	out := make([][]float64, len(h))
	for t := range h {
		for head := range heads {
			query, weights, sum := q[t][head*(plain+turned):][:plain+turned], make([]float64, t+1), 0.0
			for p := range weights {
				for i, v := range both[p][head*(plain+value):][:plain] {
					weights[p] += scale * query[i] * v
				}
				for i, v := range shared[p] {
					weights[p] += scale * query[plain+i] * v
				}
			}
			top := slices.Max(weights)
			for p := range weights {
				weights[p] = math.Exp(weights[p] - top)
				sum += weights[p]
			}
			y := make([]float64, value)
			for p, w := range weights {
				for i, v := range both[p][head*(plain+value)+plain:][:value] {
					y[i] += w / sum * v
				}
			}
			out[t] = append(out[t], y...)
		}
	}
	return d.linear(out, at+"o_proj")
}

// turn rotates a vector: pairs of neighbours, or of its halves; with YaRN those that turn seldom in the original window turn
// more slowly.
func (d deepSeek) turn(x []float64, position int) {
	halves := d.config["rope_interleave"] == false
	theta, magnitude := d.config["rope_theta"].(float64), 1.0
	yarn, stretched := d.config["rope_scaling"].(map[string]any)
	for i := range len(x) / 2 {
		frequency := math.Pow(theta, -2*float64(i)/float64(len(x)))
		if stretched {
			factor, window := numberOr(yarn, "factor", 1), numberOr(yarn, "original_max_position_embeddings", 0)
			pair := func(turns float64) float64 {
				return float64(len(x)) * math.Log(window/(turns*2*math.Pi)) / (2 * math.Log(theta))
			}
			low, high := max(math.Floor(pair(numberOr(yarn, "beta_fast", 32))), 0), min(math.Ceil(pair(numberOr(yarn, "beta_slow", 1))), float64(len(x)-1))
			slow := min(max((float64(i)-low)/(high-low), 0), 1)
			frequency *= slow/factor + 1 - slow
			scale := func(key string) float64 { return 0.1*numberOr(yarn, key, 0)*math.Log(factor) + 1 }
			magnitude = scale("mscale") / scale("mscale_all_dim")
		}
		a, b := 2*i, 2*i+1
		if halves {
			a, b = i, i+len(x)/2
		}
		sin, cos := math.Sincos(float64(position) * frequency)
		x[a], x[b] = magnitude*(x[a]*cos-x[b]*sin), magnitude*(x[b]*cos+x[a]*sin)
	}
}

// chosen is the weights of the experts that a token goes to.
func (d deepSeek) chosen(logits, bias []float64) map[int]float64 {
	scores, sum := make([]float64, len(logits)), 0.0
	for e, x := range logits {
		scores[e] = math.Exp(x)
		sum += scores[e]
	}
	for e, x := range logits {
		if scores[e] /= sum; d.config["scoring_func"] == "sigmoid" {
			scores[e] = 1 / (1 + math.Exp(-x))
		}
	}
	by := slices.Clone(scores)
	for e := range bias {
		by[e] += bias[e]
	}
	best := func(x []float64, n int) []int {
		order := make([]int, len(x))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(x[b], x[a]) })
		return order[:n]
	}
	if method := d.config["topk_method"]; method != "greedy" {
		var groups []float64
		each := len(by) / d.number("n_group")
		for group := range slices.Chunk(slices.Clone(by), each) {
			slices.Sort(group)
			if method == "noaux_tc" {
				groups = append(groups, group[each-1]+group[each-2])
			} else {
				groups = append(groups, group[each-1])
			}
		}
		in := best(groups, d.number("topk_group"))
		for e := range by {
			if !slices.Contains(in, e/each) {
				by[e] = math.Inf(-1)
			}
		}
	}
	weights, total := map[int]float64{}, 0.0
	for _, e := range best(by, d.number("num_experts_per_tok")) {
		weights[e] = scores[e]
		total += scores[e]
	}
	renormalise, scale := d.flag("norm_topk_prob") && len(weights) > 1, numberOr(d.config, "routed_scaling_factor", 1)
	if renormalise && d.config["scoring_func"] == "softmax" {
		scale = 1
	}
	for e := range weights {
		if weights[e] *= scale; renormalise {
			weights[e] /= total
		}
	}
	return weights
}
