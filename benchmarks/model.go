package benchmarks

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// Family is the architecture of a random model.
type Family string

// The families of random models.
const (
	OLMoE    Family = "olmoe"
	Qwen3MoE Family = "qwen3_moe"
	Mixtral  Family = "mixtral"
	DeepSeek Family = "deepseek_v2" // latent attention; experts after the first dense layers, beside shared ones
	Llama    Family = "llama"       // dense
	DSMoE    Family = "deepspeed"   // GPT with experts in every second layer, as DeepSpeed-MoE's models have them
	GPTOSS   Family = "gpt_oss"     // experts in MXFP4, as it is published
)

// Shape is the shape of a random model.
type Shape struct {
	Family                                                     Family // "": OLMoE
	Hidden, Layers, Heads, Experts, Active, FFN, Vocab, Window int
	KVHeads, HeadDim                                           int // 0: Heads, and Hidden over Heads

	// Of DeepSeek alone: the first layers that have no experts, and their size; experts that see every token; columns of the
	// latent; and of a head's values those that are rotated, those of its key that are not, and those of its value.
	Dense, DenseFFN, Shared, Latent, Rotated, Plain, Value int

	// Residual makes a PR-MoE of a DSMoE: a dense branch beside the experts, and half as many experts in all layers that
	// have some but the last two.
	Residual bool
}

// DefaultShape has 502 million parameters, of which a token uses 167 million.
func DefaultShape() Shape {
	return Shape{Hidden: 1024, Layers: 8, Heads: 16, Experts: 16, Active: 4, FFN: 1024, Vocab: 32000, Window: 4096}
}

// Shapes are those of known models, by name.
func Shapes() map[string]Shape {
	return map[string]Shape{
		"olmoe-1b-7b":   {Hidden: 2048, Layers: 16, Heads: 16, Experts: 64, Active: 8, FFN: 1024, Vocab: 50304, Window: 4096},
		"qwen3-30b-a3b": {Family: Qwen3MoE, Hidden: 2048, Layers: 48, Heads: 32, KVHeads: 4, HeadDim: 128, Experts: 128, Active: 8, FFN: 768, Vocab: 151936, Window: 40960},
		"mixtral-8x7b":  {Family: Mixtral, Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 8, Experts: 8, Active: 2, FFN: 14336, Vocab: 32000, Window: 32768},
		"deepseek-v2-lite": {Family: DeepSeek, Hidden: 2048, Layers: 27, Heads: 16, Experts: 64, Active: 6, FFN: 1408, Vocab: 102400, Window: 32768,
			Dense: 1, DenseFFN: 10944, Shared: 2, Latent: 512, Rotated: 64, Plain: 128, Value: 128},
		"llama-3-8b":  {Family: Llama, Hidden: 4096, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, FFN: 14336, Vocab: 128256, Window: 8192},
		"ds-52b":      {Family: DSMoE, Hidden: 2048, Layers: 24, Heads: 16, Experts: 128, Active: 1, FFN: 8192, Vocab: 50304, Window: 2048},
		"ds-13b":      {Family: DSMoE, Hidden: 1024, Layers: 24, Heads: 16, Experts: 128, Active: 1, FFN: 4096, Vocab: 50304, Window: 2048},
		"ds-107b":     {Family: DSMoE, Hidden: 3584, Layers: 16, Heads: 28, Experts: 128, Active: 1, FFN: 14336, Vocab: 50304, Window: 2048},
		"gpt-oss-20b": {Family: GPTOSS, Hidden: 2880, Layers: 24, Heads: 64, KVHeads: 8, HeadDim: 64, Experts: 32, Active: 4, FFN: 2880, Vocab: 201088, Window: 131072},
	}
}

func (s Shape) kvHeads() int {
	if s.KVHeads == 0 {
		return s.Heads
	}
	return s.KVHeads
}

func (s Shape) headDim() int {
	if s.HeadDim == 0 {
		return s.Hidden / s.Heads
	}
	return s.HeadDim
}

// expertsOf is how many experts a layer has; 0: it is dense.
func (s Shape) expertsOf(layer int) int {
	switch {
	case s.Family == Llama, s.Family == DSMoE && layer%2 == 0, layer < s.Dense:
		return 0
	case s.Residual && layer < s.Layers-4:
		return s.Experts / 2
	}
	return s.Experts
}

// config is what stands beside the weights, as encoding/json reads it.
func (s Shape) config() (map[string]any, error) {
	c := map[string]any{
		"hidden_act": "silu", "torch_dtype": "bfloat16", "hidden_size": s.Hidden, "num_hidden_layers": s.Layers,
		"num_attention_heads": s.Heads, "num_key_value_heads": s.kvHeads(), "head_dim": s.headDim(), "num_experts": s.Experts,
		"num_experts_per_tok": s.Active, "vocab_size": s.Vocab, "max_position_embeddings": s.Window, "rms_norm_eps": 1e-5,
		"rope_theta": 10000.0, "tie_word_embeddings": false, "attention_bias": false,
		"eos_token_id": nil, "bos_token_id": nil, "pad_token_id": nil,
	}
	switch s.Family {
	case Qwen3MoE:
		c["architectures"], c["model_type"] = []string{"Qwen3MoeForCausalLM"}, "qwen3_moe"
		c["norm_topk_prob"], c["moe_intermediate_size"], c["intermediate_size"] = true, s.FFN, 4*s.Hidden
	case Mixtral:
		c["architectures"], c["model_type"] = []string{"MixtralForCausalLM"}, "mixtral"
		c["num_local_experts"], c["intermediate_size"] = s.Experts, s.FFN
	case DeepSeek:
		c["architectures"], c["model_type"] = []string{"DeepseekV2ForCausalLM"}, "deepseek_v2"
		c["kv_lora_rank"], c["q_lora_rank"], c["v_head_dim"] = s.Latent, nil, s.Value
		c["qk_rope_head_dim"], c["qk_nope_head_dim"], c["head_dim"] = s.Rotated, s.Plain, s.Rotated
		c["first_k_dense_replace"], c["intermediate_size"], c["moe_intermediate_size"] = s.Dense, s.DenseFFN, s.FFN
		c["n_routed_experts"], c["n_shared_experts"], c["norm_topk_prob"] = s.Experts, s.Shared, false
		c["scoring_func"], c["topk_method"], c["routed_scaling_factor"] = "softmax", "greedy", 1.0
	case Llama:
		c["architectures"], c["model_type"], c["intermediate_size"] = []string{"LlamaForCausalLM"}, "llama", s.FFN
	case GPTOSS:
		maps.Copy(c, s.gptOSSConfig())
	case DSMoE:
		var at, experts []int
		for l := range s.Layers {
			if n := s.expertsOf(l); n > 0 {
				at, experts = append(at, l), append(experts, n)
			}
		}
		kind := "standard"
		if s.Residual {
			kind = "residual"
		}
		c = map[string]any{
			"architecture": "megatron-deepspeed-gpt-moe", "num_layers": s.Layers, "hidden_size": s.Hidden, "num_attention_heads": s.Heads,
			"ffn_hidden_size": s.FFN, "max_position_embeddings": s.Window, "vocab_size": s.Vocab, "padded_vocab_size": s.Vocab,
			"moe_layers": at, "experts_per_moe_layer": experts, "mlp_type": kind, "topk": s.Active, "activation": "gelu_tanh",
		}
	default:
		c["architectures"], c["model_type"] = []string{"OlmoeForCausalLM"}, "olmoe"
		c["norm_topk_prob"], c["intermediate_size"] = false, s.FFN
	}
	text, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return nil, err
	}
	var read map[string]any
	return read, json.Unmarshal(text, &read)
}

// RandomModel writes a model of random bf16 weights as a Hugging Face folder, without a tokenizer. Memory: one tensor.
func RandomModel(folder string, s Shape, seed uint64) error {
	if err := s.writeConfig(folder); err != nil {
		return err
	}
	return writeSafetensors(filepath.Join(folder, weightsFile), s.tensors(), seed)
}

const weightsFile = "model.safetensors"

func (s Shape) writeConfig(folder string) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(config, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "config.json"), text, 0o644)
}

// HollowModel writes a model whose weights are a hole in a file: all that a plan looks at, in some hundred kilobytes of
// a disk whatever the model's size.
func HollowModel(folder string, s Shape) (err error) {
	if err := s.writeConfig(folder); err != nil {
		return err
	}
	header, bytes, err := safetensorsHeader(s.tensors())
	if err != nil {
		return err
	}
	path := filepath.Join(folder, weightsFile)
	if err := os.WriteFile(path, header, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, int64(len(header))+bytes)
}

// tensor is a tensor to be invented: a vector of ones (a norm's) or zeros (a bias), or a matrix of noise.
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

func (t tensor) vector() bool { return len(t.shape) == 1 }

// deviation is the standard deviation of a matrix. Embeddings are as large as a trained model's residual stream: were they
// as small as the rest, what all tokens have in common would drown them, and all would go to the same few experts.
func (t tensor) deviation() float64 {
	if strings.Contains(t.name, "embed_tokens") || strings.Contains(t.name, "word_embeddings") {
		return 1
	}
	return deviation
}

const deviation = 0.02 // of all other matrices

// fill makes the values of a vector.
func (t tensor) fill() []byte {
	data := make([]byte, 2*t.values())
	if !strings.HasSuffix(t.name, ".bias") {
		for i := 0; i < len(data); i += 2 {
			data[i], data[i+1] = 0x80, 0x3f // 1
		}
	}
	return data
}

// tensors are all of a model's, by the family's names.
func (s Shape) tensors() []tensor {
	switch s.Family {
	case DSMoE:
		return s.deepspeedTensors()
	case GPTOSS:
		return s.gptOSSTensors()
	}
	all := []tensor{{"model.embed_tokens.weight", []int{s.Vocab, s.Hidden}}, {"model.norm.weight", []int{s.Hidden}}, {"lm_head.weight", []int{s.Vocab, s.Hidden}}}
	for l := range s.Layers {
		layer := func(name string, shape ...int) {
			all = append(all, tensor{fmt.Sprintf("model.layers.%d.%s.weight", l, name), shape})
		}
		layer("input_layernorm", s.Hidden)
		layer("post_attention_layernorm", s.Hidden)
		s.attentionTensors(layer)
		mlp := func(name string, ffn int, gate, up, down string) {
			layer(name+"."+gate, ffn, s.Hidden)
			layer(name+"."+up, ffn, s.Hidden)
			layer(name+"."+down, s.Hidden, ffn)
		}
		if s.expertsOf(l) == 0 {
			mlp("mlp", cmp.Or(s.DenseFFN, s.FFN), "gate_proj", "up_proj", "down_proj")
			continue
		}
		if s.Shared > 0 {
			mlp("mlp.shared_experts", s.Shared*s.FFN, "gate_proj", "up_proj", "down_proj")
		}
		name, gate, up, down := "mlp", "gate_proj", "up_proj", "down_proj"
		if s.Family == Mixtral {
			name, gate, up, down = "block_sparse_moe", "w1", "w3", "w2"
		}
		layer(name+".gate", s.Experts, s.Hidden)
		for e := range s.Experts {
			mlp(fmt.Sprintf("%s.experts.%d", name, e), s.FFN, gate, up, down)
		}
	}
	return all
}

// attentionTensors are those of a layer's attention.
func (s Shape) attentionTensors(layer func(name string, shape ...int)) {
	if s.Family == DeepSeek {
		layer("self_attn.q_proj", s.Heads*(s.Plain+s.Rotated), s.Hidden)
		layer("self_attn.kv_a_proj_with_mqa", s.Latent+s.Rotated, s.Hidden)
		layer("self_attn.kv_a_layernorm", s.Latent)
		layer("self_attn.kv_b_proj", s.Heads*(s.Plain+s.Value), s.Latent)
		layer("self_attn.o_proj", s.Hidden, s.Heads*s.Value)
		return
	}
	heads, kv := s.Heads*s.headDim(), s.kvHeads()*s.headDim()
	switch s.Family {
	case Mixtral, Llama:
	case Qwen3MoE:
		layer("self_attn.q_norm", s.headDim())
		layer("self_attn.k_norm", s.headDim())
	default:
		layer("self_attn.q_norm", heads)
		layer("self_attn.k_norm", kv)
	}
	layer("self_attn.q_proj", heads, s.Hidden)
	layer("self_attn.k_proj", kv, s.Hidden)
	layer("self_attn.v_proj", kv, s.Hidden)
	layer("self_attn.o_proj", s.Hidden, heads)
}

func (s Shape) deepspeedTensors() []tensor {
	const root = "language_model."
	all := []tensor{{root + "embedding.word_embeddings.weight", []int{s.Vocab, s.Hidden}}, {root + "embedding.position_embeddings.weight", []int{s.Window, s.Hidden}}}
	both := func(name string, out int, in ...int) { // weight and bias
		all = append(all, tensor{name + ".weight", append([]int{out}, in...)}, tensor{name + ".bias", []int{out}})
	}
	both(root+"encoder.final_layernorm", s.Hidden)
	for l := range s.Layers {
		layer := fmt.Sprintf("%sencoder.layers.%d.", root, l)
		both(layer+"input_layernorm", s.Hidden)
		both(layer+"post_attention_layernorm", s.Hidden)
		both(layer+"attention.query_key_value", 3*s.Hidden, s.Hidden)
		both(layer+"attention.dense", s.Hidden, s.Hidden)
		if s.expertsOf(l) == 0 {
			both(layer+"mlp.dense_h_to_4h", s.FFN, s.Hidden)
			both(layer+"mlp.dense_4h_to_h", s.Hidden, s.FFN)
			continue
		}
		if s.Residual {
			both(layer+"mlp.mlp.dense_h_to_4h", s.FFN, s.Hidden)
			both(layer+"mlp.mlp.dense_4h_to_h", s.Hidden, s.FFN)
			both(layer+"mlp.coefficient", 2, s.Hidden)
		}
		moe := layer + "mlp.deepspeed_moe."
		all = append(all, tensor{moe + "gate.wg.weight", []int{s.expertsOf(l), s.Hidden}})
		for e := range s.expertsOf(l) {
			expert := fmt.Sprintf("%sexperts.deepspeed_experts.%d.", moe, e)
			both(expert+"dense_h_to_4h", s.FFN, s.Hidden)
			both(expert+"dense_4h_to_h", s.Hidden, s.FFN)
		}
	}
	return all
}

// safetensorsHeader is what precedes the tensors, and the bytes of them.
func safetensorsHeader(tensors []tensor) (header []byte, bytes int64, err error) {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	entries := map[string]entry{}
	for _, t := range tensors {
		end := bytes + 2*int64(t.values())
		entries[t.name] = entry{"BF16", t.shape, [2]int64{bytes, end}}
		bytes = end
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, 0, err
	}
	for len(text)%8 != 0 { // tensors are to lie aligned
		text = append(text, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), bytes, nil
}

func writeSafetensors(path string, tensors []tensor, seed uint64) (err error) {
	header, _, err := safetensorsHeader(tensors)
	if err != nil {
		return err
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
	if _, err := w.Write(header); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for _, t := range tensors {
		var data []byte
		if t.vector() {
			data = t.fill()
		} else {
			data = noise(r, t.values(), t.deviation())
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return w.Flush()
}
