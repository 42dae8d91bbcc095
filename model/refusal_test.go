package model_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
)

// tensor is one of a safetensors file.
type tensor struct {
	DType string  `json:"dtype"`
	Shape []int64 `json:"shape"`
	Span  [2]int  `json:"data_offsets"`
	data  []byte
}

type tensors map[string]tensor

func readTensors(t *testing.T, path string) tensors {
	t.Helper()
	file, err := os.ReadFile(path)
	check(t, err)
	n := binary.LittleEndian.Uint64(file)
	var raw map[string]json.RawMessage
	check(t, json.Unmarshal(file[8:8+n], &raw))
	delete(raw, "__metadata__")
	all := tensors{}
	for name, r := range raw {
		var x tensor
		check(t, json.Unmarshal(r, &x))
		x.data = file[8+int(n):][x.Span[0]:x.Span[1]]
		all[name] = x
	}
	return all
}

func (all tensors) write(t *testing.T, path string) {
	t.Helper()
	var body []byte
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x := all[name]
		x.Span = [2]int{len(body), len(body) + len(x.data)}
		body, all[name] = append(body, x.data...), x
	}
	header, err := json.Marshal(all)
	check(t, err)
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	check(t, os.WriteFile(path, append(append(file, header...), body...), 0o600))
}

// edited is a copy of a golden model with its config and, where it has safetensors, its tensors changed.
func edited(t *testing.T, name, config string, edit func(c map[string]any, x tensors)) string {
	t.Helper()
	from, to := golden(t, name), t.TempDir()
	check(t, os.CopyFS(to, os.DirFS(from)))
	text, err := os.ReadFile(filepath.Join(to, config))
	check(t, err)
	var c map[string]any
	check(t, json.Unmarshal(text, &c))
	file := filepath.Join(to, "model.safetensors")
	var x tensors
	if _, err := os.Stat(file); err == nil {
		x = readTensors(t, file)
	}
	edit(c, x)
	text, err = json.Marshal(c)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(to, config), text, 0o600))
	if x != nil {
		x.write(t, file)
	}
	return to
}

// refusal is an edit that must be refused with one sentence.
type refusal struct {
	name  string
	edit  func(c map[string]any, x tensors)
	is    error
	words []string // what and where, in the message
}

func set(key string, value any) func(map[string]any, tensors) {
	return func(c map[string]any, _ tensors) { c[key] = value }
}

func unset(key string) func(map[string]any, tensors) {
	return func(c map[string]any, _ tensors) { delete(c, key) }
}

func TestDeepSeekConfigsThatCannotBe(t *testing.T) {
	for _, r := range []refusal{
		{"an unknown way to choose", set("topk_method", "lottery"), model.ErrConfig, []string{"config.json", "lottery", "group_limited_greedy", "noaux_tc"}},
		{"an unknown score", set("scoring_func", "tanh"), model.ErrConfig, []string{"config.json", "scoring_func", "tanh", "sigmoid"}},
		{"a score of another way to choose", set("scoring_func", "softmax"), model.ErrConfig, []string{"softmax", "noaux_tc"}},
		{"no latent", unset("kv_lora_rank"), model.ErrConfig, []string{"config.json", "kv_lora_rank"}},
		{"a latent of nothing", set("kv_lora_rank", 0), model.ErrConfig, []string{"latent of 0"}},
		{"values of nothing", set("v_head_dim", -1), model.ErrConfig, []string{"values of -1"}},
		{"no rotated values", set("qk_rope_head_dim", 0), model.ErrConfig, []string{"rotated"}},
		{"an odd number of rotated values", set("qk_rope_head_dim", 7), model.ErrConfig, []string{"7", "rotated"}},
		{"unequal groups", set("n_group", 3), model.ErrConfig, []string{"16 experts", "3 groups"}},
		{"groups that hold too few experts", set("num_experts_per_tok", 9), model.ErrConfig, []string{"9 of 16", "2 of 4 groups"}},
		{"experts in every 0th layer", set("moe_layer_freq", 0), model.ErrConfig, []string{"config.json", "moe_layer_freq", "0"}},
		{"a negative number of predicting layers", set("num_nextn_predict_layers", -1), model.ErrConfig, []string{"num_nextn_predict_layers", "-1"}},
		{"the bias is missing", func(_ map[string]any, x tensors) { delete(x, "model.layers.1.mlp.gate.e_score_correction_bias") }, model.ErrTensor, []string{"model.layers.1.mlp.gate.e_score_correction_bias"}},
		{"a layer too many", func(_ map[string]any, x tensors) { x["model.layers.4.norm.weight"] = x["model.norm.weight"] }, model.ErrTensor, []string{"model.layers.4.norm.weight"}},
	} {
		r.run(t, "deepseek_v3", "config.json")
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	for _, r := range []refusal{
		{"no architecture", unset("architectures"), model.ErrConfig, []string{"config.json", "MixtralForCausalLM"}},
		{"an unknown architecture", set("architectures", []any{"MambaForCausalLM"}), model.ErrConfig, []string{"MambaForCausalLM", "MixtralForCausalLM"}},
		{"a size is missing", unset("hidden_size"), model.ErrConfig, []string{"config.json", "hidden_size"}},
		{"a size is a word", set("num_hidden_layers", "two"), model.ErrConfig, []string{"config.json", "num_hidden_layers", `"two"`}},
		{"a size is a fraction", set("num_attention_heads", 2.5), model.ErrConfig, []string{"config.json", "num_attention_heads", "2.5"}},
		{"no layer", set("num_hidden_layers", 0), model.ErrConfig, []string{"layers", "0"}},
		{"layers that no memory holds", set("num_hidden_layers", 1e12), model.ErrConfig, []string{"layers", "1000000000000"}},
		{"more layers than a list has", set("num_hidden_layers", 1e18), model.ErrConfig, []string{"layers", "1000000000000000000"}},
		{"a negative size", set("hidden_size", -32), model.ErrConfig, []string{"hidden size", "-32"}},
		{"heads that do not divide the hidden size", set("num_attention_heads", 5), model.ErrConfig, []string{"32", "5"}},
		{"key-value heads that do not divide", set("num_key_value_heads", 3), model.ErrConfig, []string{"4 attention heads", "3 key-value heads"}},
		{"no key-value head", set("num_key_value_heads", 0), model.ErrConfig, []string{"key-value heads", "0"}},
		{"a head of odd size", set("head_dim", 7), model.ErrConfig, []string{"7"}},
		{"an unknown activation", set("hidden_act", "swoosh"), model.ErrConfig, []string{"config.json", "hidden_act", "swoosh", "silu"}},
		{"an unknown rotary scaling", set("rope_parameters", map[string]any{"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4}), model.ErrConfig, []string{"longrope", "llama3"}},
		{"yarn without a factor", set("rope_parameters", map[string]any{"rope_type": "yarn", "rope_theta": 1e4}), model.ErrConfig, []string{"yarn", "factor"}},
		{"yarn that blends backwards", set("rope_parameters", map[string]any{"rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 32.0}), model.ErrConfig, []string{"beta_fast"}},
		{"rotary facts are no object", set("rope_parameters", "default"), model.ErrConfig, []string{"config.json", "rope_parameters"}},
		{"a rotary base of 0", set("rope_parameters", map[string]any{"rope_theta": 0.0}), model.ErrConfig, []string{"base", "0"}},
		{"a scaling without a factor", set("rope_parameters", map[string]any{"rope_type": "linear", "factor": 0.0}), model.ErrConfig, []string{"factor", "0"}},
		{"epsilon is a word", set("rms_norm_eps", "small"), model.ErrConfig, []string{"rms_norm_eps", "small"}},
		{"epsilon is negative", set("rms_norm_eps", -1e-5), model.ErrConfig, []string{"epsilon", "-1e-05"}},
		{"more experts a token than there are", set("num_experts_per_tok", 9), model.ErrConfig, []string{"layer 0", "9 of 8 experts"}},
		{"experts that no memory holds", set("num_local_experts", 1e12), model.ErrConfig, []string{"layer 0", "1000000000000 experts", "65536"}},
		{"no expert a token", set("num_experts_per_tok", 0), model.ErrConfig, []string{"layer 0", "0 of 8 experts"}},
		{"a negative window", set("max_position_embeddings", -1), model.ErrConfig, []string{"window", "-1"}},
		{"a window that no memory holds", set("max_position_embeddings", 1e15), model.ErrConfig, []string{"window", "1000000000000000"}},
		{"a negative sliding window", set("sliding_window", -4), model.ErrConfig, []string{"sliding window", "-4"}},
	} {
		r.run(t, "mixtral", "config.json")
	}
	for _, r := range []refusal{
		{"an MoE layer beyond the last", set("moe_layers", []any{1, 4}), ckpt.ErrMismatch, []string{"model.json", "moe_layers", "[1 4]", "[1 3]"}},
		{"MoE layers without experts", set("experts_per_moe_layer", []any{2}), ckpt.ErrMismatch, []string{"model.json", "experts_per_moe_layer", "[2]", "[2 4]"}},
		{"an MLP of an unknown kind", set("mlp_type", "pyramid"), model.ErrConfig, []string{"model.json", "mlp_type", "pyramid", "residual"}},
		{"an output bias neither added nor dropped", set("expert_output_bias", "keep"), model.ErrConfig, []string{"model.json", "expert_output_bias", "keep"}},
		{"heads that do not divide the hidden size", set("num_attention_heads", 5), model.ErrConfig, []string{"32", "5"}},
		{"more tokens than rows", set("vocab_size", 257), model.ErrConfig, []string{"257", "256"}},
		{"more choices than experts", set("topk", 3), model.ErrConfig, []string{"layer 1", "3 of 2 experts"}},
	} {
		r.run(t, "ds-moe-hoisted", "model.json")
	}
	for _, c := range []struct {
		golden string
		refusal
	}{
		{"opt", refusal{"norms without weights", set("layer_norm_elementwise_affine", false), model.ErrConfig, []string{"config.json", "layer_norm_elementwise_affine", "not supported"}}},
		{"opt", refusal{"an unknown activation", set("activation_function", "swoosh"), model.ErrConfig, []string{"activation_function", "swoosh"}}},
		{"opt", refusal{"heads that do not divide", set("num_attention_heads", 5), model.ErrConfig, []string{"hidden_size 48", "num_attention_heads 5"}}},
		{"opt", refusal{"embeddings without a width", set("word_embed_proj_dim", -1), model.ErrConfig, []string{"width of the embeddings", "-1"}}},
		{"gpt_neox", refusal{"more of a head rotated than it has", set("rope_parameters", map[string]any{"partial_rotary_factor": 1.5}), model.ErrConfig, []string{"12 of 8 values"}}},
		{"gptj", refusal{"nothing says what is rotated", unset("rotary_dim"), model.ErrConfig, []string{"config.json", "rotary_dim"}}},
		{"gpt_neo", refusal{"attention of an unknown kind", set("attention_layers", []any{"global", "sparse", "global", "local"}), model.ErrConfig, []string{"layer 1", "sparse", "local"}}},
		{"gpt_neo", refusal{"attention of too few layers", set("attention_layers", []any{"global"}), model.ErrConfig, []string{"attention_layers", "1 layers", "4"}}},
		{"gpt_neo", refusal{"attention types that are no pairs", func(c map[string]any, _ tensors) {
			delete(c, "attention_layers")
			c["attention_types"] = []any{"global"}
		}, model.ErrConfig, []string{"attention_types", "[global]"}}},
		{"qwen2_moe", refusal{"nothing says how large the shared expert is", unset("shared_expert_intermediate_size"), model.ErrConfig, []string{"config.json", "shared_expert_intermediate_size"}}},
		{"qwen2_moe", refusal{"a shared expert without an inside", set("shared_expert_intermediate_size", 0), model.ErrConfig, []string{"config.json", "shared_expert_intermediate_size", "0"}}},
		{"qwen2_moe", refusal{"windows in layers that nothing names", func(c map[string]any, _ tensors) {
			delete(c, "layer_types")
			c["use_sliding_window"], c["sliding_window"] = true, 16
		}, model.ErrConfig, []string{"use_sliding_window", "layer_types"}}},
		{"bloom", refusal{"a residual stream of the norm", set("apply_residual_connection_post_layernorm", true), model.ErrConfig, []string{"config.json", "apply_residual_connection_post_layernorm"}}},
	} {
		c.run(t, c.golden, "config.json")
	}
}

// A config that is fine in itself, and tensors that are, but not of one model.
func TestTensorsThatDoNotFit(t *testing.T) {
	const expert = "model.layers.1.block_sparse_moe.experts.3.w1.weight"
	reshape := func(name string, shape ...int64) func(map[string]any, tensors) {
		return func(_ map[string]any, x tensors) {
			y := x[name]
			y.Shape = shape
			x[name] = y
		}
	}
	for _, r := range []refusal{
		{"a norm is missing", func(_ map[string]any, x tensors) { delete(x, "model.norm.weight") }, model.ErrTensor, []string{"model.norm.weight", "missing"}},
		{"an expert is missing", func(_ map[string]any, x tensors) { delete(x, expert) }, model.ErrTensor, []string{expert, "missing"}},
		{"the head is missing", func(_ map[string]any, x tensors) { delete(x, "lm_head.weight") }, model.ErrTensor, []string{"lm_head.weight", "missing"}},
		{"a tensor is transposed", reshape(expert, 32, 48), model.ErrTensor, []string{expert, "[32 48]", "[48 32]"}},
		{"a tensor is flat", reshape(expert, 48*32), model.ErrTensor, []string{expert, "[1536]", "[48 32]"}},
		{"a norm is a matrix", reshape("model.norm.weight", 32, 1), model.ErrTensor, []string{"model.norm.weight", "[32 1]", "[32]"}},
		{"a tensor is of integers", func(_ map[string]any, x tensors) {
			y := x[expert]
			y.DType = "I32"
			x[expert] = y
		}, model.ErrTensor, []string{expert, "I32"}},
		{"a tensor too many", func(_ map[string]any, x tensors) { x["model.layers.0.adapter.weight"] = x[expert] }, model.ErrTensor, []string{"model.layers.0.adapter.weight"}},
		{"the config has a layer too many", set("num_hidden_layers", 3), model.ErrTensor, []string{"model.layers.2.", "missing"}},
		{"the config has a layer too few", set("num_hidden_layers", 1), model.ErrTensor, []string{"model.layers.1."}},
		{"the config has an expert too many", set("num_local_experts", 9), model.ErrTensor, []string{"gate.weight", "[8 32]", "[9 32]"}},
		{"the config has an expert too few", set("num_local_experts", 7), model.ErrTensor, []string{"gate.weight", "[8 32]", "[7 32]"}},
		{"another vocabulary", set("vocab_size", 161), model.ErrTensor, []string{"embed_tokens", "[160 32]", "[161 32]"}},
		{"another ffn size", set("intermediate_size", 64), model.ErrTensor, []string{"[48 32]", "[64 32]"}},
		{"another number of key-value heads", set("num_key_value_heads", 4), model.ErrTensor, []string{"k_proj", "[16 32]", "[32 32]"}},
		{"biases that are not there", set("attention_bias", true), model.ErrTensor, []string{"q_proj.bias", "missing"}},
	} {
		r.run(t, "mixtral", "config.json")
	}
	for _, r := range []refusal{
		{"an MoE layer where a dense one is", set("moe_layers", []any{1, 2}), ckpt.ErrMismatch, []string{"moe_layers", "[1 2]", "[1 3]"}},
		{"experts that are not there", set("experts_per_moe_layer", []any{2, 8}), ckpt.ErrMismatch, []string{"experts_per_moe_layer", "[2 8]", "[2 4]"}},
		{"a residual layer called standard", set("mlp_type", "standard"), model.ErrTensor, []string{"coefficient"}},
		{"a shorter window", set("max_position_embeddings", 32), ckpt.ErrMismatch, []string{"max_position_embeddings", "32", "64"}},
	} {
		r.run(t, "ds-moe-hoisted", "model.json")
	}
	for _, c := range []struct {
		golden string
		refusal
	}{
		{"gpt2", refusal{"another position table", set("n_positions", 127), model.ErrTensor, []string{"wpe", "[128 48]", "[127 48]"}}},
		{"opt", refusal{"another position table", set("max_position_embeddings", 130), model.ErrTensor, []string{"embed_positions", "[130 48]", "[132 48]"}}},
		{"opt", refusal{"narrower embeddings", set("word_embed_proj_dim", 24), model.ErrTensor, []string{"embed_tokens", "[160 48]", "[160 24]"}}},
		{"opt", refusal{"biases that the config denies", set("enable_bias", false), model.ErrTensor, []string{"bias"}}},
		{"opt", refusal{"a final norm that the config denies", set("do_layer_norm_before", false), model.ErrTensor, []string{"model.decoder.final_layer_norm"}}},
		{"gptj", refusal{"a head without its bias", func(_ map[string]any, x tensors) { delete(x, "lm_head.bias") }, model.ErrTensor, []string{"lm_head.bias", "missing"}}},
		{"gpt_neox", refusal{"another ffn size", set("intermediate_size", 96), model.ErrTensor, []string{"dense_h_to_4h", "[64 32]", "[96 32]"}}},
		{"qwen2_moe", refusal{"another shared expert", set("shared_expert_intermediate_size", 48), model.ErrTensor, []string{"shared_expert", "[24 32]", "[48 32]"}}},
		{"qwen2_moe", refusal{"a shared expert without its gate", func(_ map[string]any, x tensors) { delete(x, "model.layers.0.mlp.shared_expert_gate.weight") }, model.ErrTensor, []string{"shared_expert_gate", "missing"}}},
		{"bloom", refusal{"no norm after the embedding", func(_ map[string]any, x tensors) { delete(x, "transformer.word_embeddings_layernorm.weight") }, model.ErrTensor, []string{"word_embeddings_layernorm", "missing"}}},
	} {
		c.run(t, c.golden, "config.json")
	}
}

func (r refusal) run(t *testing.T, golden, config string) {
	t.Run(golden+": "+r.name, func(t *testing.T) {
		device, err := cpu.New(cpu.Options{Threads: 1})
		check(t, err)
		defer func() { check(t, device.Close()) }()
		_, c, err := open(edited(t, golden, config, r.edit), device, model.LoadOptions{})
		if c != nil {
			defer func() { check(t, c.Close()) }()
		}
		if err == nil {
			t.Fatal("accepted")
		}
		if !errors.Is(err, r.is) {
			t.Errorf("%v: not %v", err, r.is)
		}
		for _, w := range r.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v: says nothing of %q", err, w)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than a sentence: %v", err)
		}
	})
}
