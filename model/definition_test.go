package model_test

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestKindsWithoutGoldens holds kinds of OPT and GPT-NeoX that no bundled golden has against their definitions in float64, and
// so the definitions against the goldens' own kinds; BLOOM, GPT-Neo and gpt-oss with random weights; and all of them sliced, and
// in stages.
func TestKindsWithoutGoldens(t *testing.T) {
	for _, c := range []struct {
		golden, kind string
		edit         func(c map[string]any, x tensors)
	}{
		{"opt", "as it is", func(map[string]any, tensors) {}},
		{"opt", "norms after the additions, narrow embeddings", func(c map[string]any, x tensors) { // OPT-350m's
			c["do_layer_norm_before"], c["word_embed_proj_dim"] = false, 24
			x.random("model.decoder.embed_tokens.weight", 160, 24)
			x.random("model.decoder.project_in.weight", 48, 24)
			x.random("model.decoder.project_out.weight", 24, 48)
			x.drop("model.decoder.final_layer_norm")
		}},
		{"opt", "wide embeddings, a head of its own", func(c map[string]any, x tensors) {
			c["word_embed_proj_dim"], c["tie_word_embeddings"], c["activation_function"] = 64, false, "gelu"
			x.random("model.decoder.embed_tokens.weight", 160, 64)
			x.random("lm_head.weight", 160, 64)
			x.random("model.decoder.project_in.weight", 48, 64)
			x.random("model.decoder.project_out.weight", 64, 48)
		}},
		{"opt", "no final norm, no biases", func(c map[string]any, x tensors) {
			c["_remove_final_layer_norm"], c["enable_bias"] = true, false
			x.drop("model.decoder.final_layer_norm")
			for name, y := range x {
				if len(y.Shape) == 2 && name != "model.decoder.embed_positions.weight" {
					delete(x, name[:len(name)-len("weight")]+"bias")
				}
			}
		}},
		{"gpt_neox", "as it is", func(map[string]any, tensors) {}},
		{"gpt_neox", "one part after the other", func(c map[string]any, _ tensors) { c["use_parallel_residual"] = false }},
		{"gpt_neox", "whole heads rotated, no biases of attention", func(c map[string]any, x tensors) {
			c["rope_parameters"], c["attention_bias"] = map[string]any{"rope_theta": 500.0, "partial_rotary_factor": 1.0}, false
			for layer := range 3 {
				delete(x, fmt.Sprintf("gpt_neox.layers.%d.attention.query_key_value.bias", layer))
				delete(x, fmt.Sprintf("gpt_neox.layers.%d.attention.dense.bias", layer))
			}
		}},
		{"gpt_neox", "bloom", randomBLOOM},
		{"gpt_neox", "gpt_neo", randomGPTNeo},
		{"gpt_neox", "gpt_oss", randomGPTOSS},
		{"gpt_neox", "gpt_oss, MXFP4, other windows, whole pairs blended", func(c map[string]any, x tensors) {
			inMXFP4(c, x)
			c["layer_types"] = []any{"full_attention", "full_attention", "sliding_attention"}
			rope := maps.Clone(ossRope) // as published configs have it
			delete(rope, "truncate")
			delete(c, "rope_parameters")
			c["rope_scaling"], c["rope_theta"] = rope, rope["rope_theta"]
			delete(rope, "rope_theta")
		}},
	} {
		t.Run(c.golden+": "+c.kind, func(t *testing.T) {
			var d definition
			dir := edited(t, c.golden, "config.json", func(config map[string]any, x tensors) {
				c.edit(config, x)
				d = definition{config, x}
			})
			define := map[string]func([]int32) []float32{"opt": d.opt, "gpt_neox": d.gptNeoX, "bloom": d.bloom, "gpt_neo": d.gptNeo, "gpt_oss": d.gptOSS}[d.config["model_type"].(string)]
			first := map[int][][]float32{} // by tp
			for _, y := range []layout{{}, {pp: 2, piece: 3}, {tp: 2}, {tp: 2, pp: 3}, {tp: 4, piece: 2}} {
				o, err := y.run(t, dir, texts)
				check(t, err)
				for i, text := range texts {
					nearLogits(t, fmt.Sprintf("%v: text %d", y, i), o.logits[i], define(text))
				}
				if tp := max(y.tp, 1); first[tp] == nil {
					first[tp] = o.logits
				} else {
					compareBits(t, y, o.logits, first[tp])
				}
			}
		})
	}
}

// random puts a matrix into x, of mean 0 and deviation 0.2.
func (all tensors) random(name string, rows, cols int) {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(name)) // never fails
	r, data := rand.New(rand.NewPCG(uint64(rows*cols), seed.Sum64())), make([]byte, 0, 4*rows*cols)
	for range rows * cols {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(0.2*r.NormFloat64())))
	}
	all[name] = tensor{DType: "F32", Shape: []int64{int64(rows), int64(cols)}, data: data}
}

// drop takes a module's weight and bias out.
func (all tensors) drop(module string) {
	delete(all, module+".weight")
	delete(all, module+".bias")
}

// definition is a model by the book, in float64, a token a row.
type definition struct {
	config map[string]any
	x      tensors
}

func (d definition) number(key string) int { return int(d.config[key].(float64)) }

// flag is a switch of the config, off where it is absent.
func (d definition) flag(key string) bool { on, _ := d.config[key].(bool); return on }

// row is row i of a matrix, or a vector; nil where there is none of the name.
func (d definition) row(name string, i int) []float64 {
	y, ok := d.x[name]
	if !ok {
		return nil
	}
	n := int(y.Shape[len(y.Shape)-1])
	row := make([]float64, n)
	for j := range row {
		row[j] = float64(math.Float32frombits(binary.LittleEndian.Uint32(y.data[4*(i*n+j):])))
	}
	return row
}

// linear is x·Wᵀ and, where there is one, the bias.
func (d definition) linear(x [][]float64, module string) [][]float64 {
	bias := d.row(module+".bias", 0)
	y := make([][]float64, len(x))
	for out := range int(d.x[module+".weight"].Shape[0]) {
		w := d.row(module+".weight", out)
		for t := range x {
			var sum float64
			for i, v := range w {
				sum += v * x[t][i]
			}
			if bias != nil {
				sum += bias[out]
			}
			y[t] = append(y[t], sum)
		}
	}
	return y
}

func (d definition) norm(x [][]float64, module string) [][]float64 {
	weight, bias := d.row(module+".weight", 0), d.row(module+".bias", 0)
	y := make([][]float64, len(x))
	for t, row := range x {
		var mean, variance float64
		for _, v := range row {
			mean += v / float64(len(row))
		}
		for _, v := range row {
			variance += (v - mean) * (v - mean) / float64(len(row))
		}
		for i, v := range row {
			y[t] = append(y[t], (v-mean)/math.Sqrt(variance+1e-5)*weight[i]+bias[i])
		}
	}
	return y
}

// mlp is two linear ops with an activation between.
func (d definition) mlp(x [][]float64, up, down, activation string) [][]float64 {
	inner := d.linear(x, up)
	for _, row := range inner {
		for i, v := range row {
			switch row[i] = max(v, 0); activation {
			case "gelu":
				row[i] = v / 2 * (1 + math.Erf(v/math.Sqrt2))
			case "gelu_new":
				row[i] = v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
			}
		}
	}
	return d.linear(inner, down)
}

func added(x, y [][]float64) [][]float64 {
	sum := make([][]float64, len(x))
	for t := range x {
		for i := range x[t] {
			sum[t] = append(sum[t], x[t][i]+y[t][i])
		}
	}
	return sum
}

// attend is causal attention of heads, whose scores are divided by the square root of their size.
func attend(q, k, v [][]float64, heads int) [][]float64 {
	return attention{scale: 1 / math.Sqrt(float64(len(q[0])/heads))}.of(q, k, v, heads)
}

// attention is a kind of it.
type attention struct {
	scale  float64
	slopes []float64 // ALiBi's; nil: none
	window int       // 0: none
	sinks  []float64 // a logit a head that has no value; nil: none
}

func (a attention) of(q, k, v [][]float64, heads int) [][]float64 {
	dim := len(q[0]) / heads
	out := make([][]float64, len(q))
	for t := range q {
		out[t] = make([]float64, heads*dim)
		for h := range heads {
			weights, sum := make([]float64, t+1), 0.0
			for p := range weights {
				for i := h * dim; i < (h+1)*dim; i++ {
					weights[p] += q[t][i] * k[p][i] * a.scale
				}
				if a.slopes != nil {
					weights[p] -= a.slopes[h] * float64(t-p)
				}
				if a.window > 0 && t-p >= a.window {
					weights[p] = math.Inf(-1)
				}
			}
			top := slices.Max(weights)
			if a.sinks != nil {
				top = max(top, a.sinks[h])
				sum = math.Exp(a.sinks[h] - top)
			}
			for p := range weights {
				weights[p] = math.Exp(weights[p] - top)
				sum += weights[p]
			}
			for p, w := range weights {
				for i := h * dim; i < (h+1)*dim; i++ {
					out[t][i] += w / sum * v[p][i]
				}
			}
		}
	}
	return out
}

// flat is logits as a model gives them.
func flat(x [][]float64) (all []float32) {
	for _, row := range x {
		for _, v := range row {
			all = append(all, float32(v))
		}
	}
	return all
}

func (d definition) opt(ids []int32) []float32 {
	const decoder = "model.decoder."
	x, narrow := make([][]float64, len(ids)), d.x[decoder+"project_in.weight"].data != nil
	for t, id := range ids {
		x[t] = d.row(decoder+"embed_tokens.weight", int(id))
	}
	if narrow {
		x = d.linear(x, decoder+"project_in")
	}
	for t := range x {
		for i, v := range d.row(decoder+"embed_positions.weight", t+2) {
			x[t][i] += v
		}
	}
	before, act := d.flag("do_layer_norm_before"), d.config["activation_function"].(string)
	for layer := range d.number("num_hidden_layers") {
		at := fmt.Sprintf("%slayers.%d.", decoder, layer)
		part := func(norm string, f func([][]float64) [][]float64) {
			if before {
				x = added(x, f(d.norm(x, at+norm)))
			} else {
				x = d.norm(added(x, f(x)), at+norm)
			}
		}
		part("self_attn_layer_norm", func(h [][]float64) [][]float64 {
			q, k, v := d.linear(h, at+"self_attn.q_proj"), d.linear(h, at+"self_attn.k_proj"), d.linear(h, at+"self_attn.v_proj")
			return d.linear(attend(q, k, v, d.number("num_attention_heads")), at+"self_attn.out_proj")
		})
		part("final_layer_norm", func(h [][]float64) [][]float64 { return d.mlp(h, at+"fc1", at+"fc2", act) })
	}
	if before && !d.flag("_remove_final_layer_norm") {
		x = d.norm(x, decoder+"final_layer_norm")
	}
	if narrow {
		x = d.linear(x, decoder+"project_out")
	}
	if d.flag("tie_word_embeddings") {
		return flat(d.linear(x, decoder+"embed_tokens"))
	}
	return flat(d.linear(x, "lm_head"))
}

func (d definition) gptNeoX(ids []int32) []float32 {
	x, heads := make([][]float64, len(ids)), d.number("num_attention_heads")
	for t, id := range ids {
		x[t] = d.row("gpt_neox.embed_in.weight", int(id))
	}
	rope := d.config["rope_parameters"].(map[string]any)
	attended := func(at string, h [][]float64) [][]float64 {
		q, k, v := byHeads(d.linear(h, at+"attention.query_key_value"), heads)
		for _, x := range [][][]float64{q, k} {
			for t, row := range x {
				for one := range slices.Chunk(row, len(row)/heads) {
					rotateHalves(one[:int(float64(len(one))*rope["partial_rotary_factor"].(float64))], t, rope["rope_theta"].(float64))
				}
			}
		}
		return d.linear(attend(q, k, v, heads), at+"attention.dense")
	}
	for layer := range d.number("num_hidden_layers") {
		at := fmt.Sprintf("gpt_neox.layers.%d.", layer)
		mlp := func(of [][]float64) [][]float64 {
			return d.mlp(d.norm(of, at+"post_attention_layernorm"), at+"mlp.dense_h_to_4h", at+"mlp.dense_4h_to_h", "gelu")
		}
		y := added(x, attended(at, d.norm(x, at+"input_layernorm")))
		if d.flag("use_parallel_residual") {
			x = added(y, mlp(x))
		} else {
			x = added(y, mlp(y))
		}
	}
	return flat(d.linear(d.norm(x, "gpt_neox.final_layer_norm"), "embed_out"))
}

// rotateHalves turns the first half of x with the second.
func rotateHalves(x []float64, position int, theta float64) {
	half := len(x) / 2
	for i := range half {
		sin, cos := math.Sincos(float64(position) * math.Pow(theta, -float64(i)/float64(half)))
		x[i], x[i+half] = x[i]*cos-x[i+half]*sin, x[i+half]*cos+x[i]*sin
	}
}

// byHeads takes rows of q, k and v of each head together apart.
func byHeads(qkv [][]float64, heads int) (q, k, v [][]float64) {
	for _, row := range qkv {
		var parts [3][]float64
		for i, one := range slices.Collect(slices.Chunk(row, len(row)/heads/3)) {
			parts[i%3] = append(parts[i%3], one...)
		}
		q, k, v = append(q, parts[0]), append(k, parts[1]), append(v, parts[2])
	}
	return q, k, v
}

// The random models have 6 heads of 8, which is no power of two.
const randomHeads, randomHidden = 6, 48

// randomModule puts a linear op of out × in, or a norm of out where in is 0, and its bias into x.
func (all tensors) randomModule(name string, out, in int, bias bool) {
	if all.random(name+".weight", out, max(in, 1)); in == 0 {
		all.flatten(name + ".weight")
	}
	if bias {
		all.random(name+".bias", out, 1)
		all.flatten(name + ".bias")
	}
}

// flatten makes a vector of a column.
func (all tensors) flatten(name string) {
	y := all[name]
	y.Shape = y.Shape[:1]
	all[name] = y
}
