package benchmarks

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// A random gpt-oss has its experts in MXFP4: numbers of 4 bits, all alike probable, and a scale that gives them about the
// deviation of the other matrices.
const (
	numbersSuffix = "_blocks"
	scalesSuffix  = "_scales"
	mxfp4Scale    = 120 // 2⁻⁷
)

func randomBytes(r *rand.Rand, n int) []byte {
	data := make([]byte, 0, n+8)
	for len(data) < n {
		data = binary.LittleEndian.AppendUint64(data, r.Uint64())
	}
	return data[:n]
}

func (s Shape) gptOSSConfig() map[string]any {
	return map[string]any{
		"architectures": []string{"GptOssForCausalLM"}, "model_type": "gpt_oss", "intermediate_size": s.FFN, "num_local_experts": s.Experts,
		"attention_bias": true, "sliding_window": 128, "swiglu_limit": 7.0, "rope_theta": 150000.0,
		"quantization_config": map[string]any{"quant_method": "mxfp4"},
	}
}

func (s Shape) gptOSSTensors() []tensor {
	all := []tensor{{"model.embed_tokens.weight", []int{s.Vocab, s.Hidden}}, {"model.norm.weight", []int{s.Hidden}}, {"lm_head.weight", []int{s.Vocab, s.Hidden}}}
	const group = 32
	for l := range s.Layers {
		add := func(name string, shape ...int) {
			all = append(all, tensor{fmt.Sprintf("model.layers.%d.%s", l, name), shape})
		}
		both := func(name string, out, in int) {
			add(name+".weight", out, in)
			add(name+".bias", out)
		}
		add("input_layernorm.weight", s.Hidden)
		add("post_attention_layernorm.weight", s.Hidden)
		both("self_attn.q_proj", s.Heads*s.headDim(), s.Hidden)
		both("self_attn.k_proj", s.kvHeads()*s.headDim(), s.Hidden)
		both("self_attn.v_proj", s.kvHeads()*s.headDim(), s.Hidden)
		both("self_attn.o_proj", s.Hidden, s.Heads*s.headDim())
		add("self_attn.sinks", s.Heads)
		both("mlp.router", s.Experts, s.Hidden)
		for _, m := range []struct {
			name    string
			out, in int
		}{{"gate_up_proj", 2 * s.FFN, s.Hidden}, {"down_proj", s.Hidden, s.FFN}} {
			add("mlp.experts."+m.name+numbersSuffix, s.Experts, m.out, m.in/group, group/2)
			add("mlp.experts."+m.name+scalesSuffix, s.Experts, m.out, m.in/group)
			add("mlp.experts."+m.name+"_bias", s.Experts, m.out)
		}
	}
	return all
}
