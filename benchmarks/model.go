package benchmarks

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Shape is the shape of a random model of the OLMoE family.
type Shape struct {
	Hidden, Layers, Heads, Experts, Active, FFN, Vocab, Window int
}

// DefaultShape has 502 million parameters, of which a token uses 167 million.
func DefaultShape() Shape {
	return Shape{Hidden: 1024, Layers: 8, Heads: 16, Experts: 16, Active: 4, FFN: 1024, Vocab: 32000, Window: 4096}
}

// RandomModel writes a model of random bf16 weights of a standard deviation of 0.02 as a Hugging Face folder, without a
// tokenizer. Memory: one tensor.
func RandomModel(folder string, s Shape, seed uint64) error {
	config, err := json.MarshalIndent(map[string]any{
		"architectures": []string{"OlmoeForCausalLM"}, "model_type": "olmoe", "hidden_act": "silu", "torch_dtype": "bfloat16",
		"hidden_size": s.Hidden, "num_hidden_layers": s.Layers, "num_attention_heads": s.Heads, "num_key_value_heads": s.Heads,
		"num_experts": s.Experts, "num_experts_per_tok": s.Active, "norm_topk_prob": false, "intermediate_size": s.FFN,
		"vocab_size": s.Vocab, "max_position_embeddings": s.Window, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"tie_word_embeddings": false, "attention_bias": false, "eos_token_id": nil, "bos_token_id": nil, "pad_token_id": nil,
	}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), config, 0o644); err != nil {
		return err
	}
	return writeSafetensors(filepath.Join(folder, "model.safetensors"), s.tensors(), seed)
}

// tensor is a tensor to be invented: a vector of ones, or a matrix of noise.
type tensor struct {
	name  string
	shape []int
}

func (t tensor) values() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// tensors are all of a model's, by the family's names.
func (s Shape) tensors() []tensor {
	all := []tensor{{"model.embed_tokens.weight", []int{s.Vocab, s.Hidden}}, {"model.norm.weight", []int{s.Hidden}}, {"lm_head.weight", []int{s.Vocab, s.Hidden}}}
	for l := range s.Layers {
		layer := func(name string, shape ...int) {
			all = append(all, tensor{fmt.Sprintf("model.layers.%d.%s.weight", l, name), shape})
		}
		for _, norm := range []string{"input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"} {
			layer(norm, s.Hidden)
		}
		for _, projection := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
			layer("self_attn."+projection, s.Hidden, s.Hidden)
		}
		layer("mlp.gate", s.Experts, s.Hidden)
		for e := range s.Experts {
			layer(fmt.Sprintf("mlp.experts.%d.gate_proj", e), s.FFN, s.Hidden)
			layer(fmt.Sprintf("mlp.experts.%d.up_proj", e), s.FFN, s.Hidden)
			layer(fmt.Sprintf("mlp.experts.%d.down_proj", e), s.Hidden, s.FFN)
		}
	}
	return all
}

func writeSafetensors(path string, tensors []tensor, seed uint64) (err error) {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header, at := map[string]entry{}, int64(0)
	for _, t := range tensors {
		end := at + 2*int64(t.values())
		header[t.name] = entry{"BF16", t.shape, [2]int64{at, end}}
		at = end
	}
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	for len(text)%8 != 0 { // tensors are to lie aligned
		text = append(text, ' ')
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	w := bufio.NewWriterSize(file, 1<<20)
	if _, err := w.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for _, t := range tensors {
		data := make([]byte, 0, 2*t.values())
		if len(t.shape) == 1 {
			for range t.values() {
				data = append(data, 0x80, 0x3f) // 1
			}
		} else {
			data = noise(r, t.values(), 0.02)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return w.Flush()
}
