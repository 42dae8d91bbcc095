package engine

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/config"
)

// unknownModel is a golden model under another family's name and other tensor names.
type unknownModel struct {
	golden  string
	rename  []string
	change  map[string]any // in config.json; nil: the key is taken out
	linears []string
	told    map[string]any // under inference.config
}

var unknownModels = []unknownModel{
	{"llama", []string{"model.layers.", "net.blocks.", "self_attn.", "attention.", "_proj", "", "input_layernorm", "attention_norm",
		"post_attention_layernorm", "ffn_norm", "mlp.gate", "feed_forward.w1", "mlp.up", "feed_forward.w3", "mlp.down", "feed_forward.w2",
		"model.embed_tokens", "net.tok_embeddings", "model.norm", "net.norm", "lm_head", "net.output"},
		map[string]any{"num_key_value_heads": nil, "head_dim": nil, "intermediate_size": nil}, []string{"attention.o", "feed_forward.w2"}, nil},
	{"llama-rope-scaled", nil, map[string]any{"attention_dropout": 0.5, "use_sliding_window": false, "sliding_window": 8}, []string{"self_attn.o_proj", "mlp.down_proj"}, nil},
	{"gpt2", []string{"transformer.h.", "decoder.layers.", "ln_1", "norm1", "ln_2", "norm2", "attn.c_attn", "attention.query_key_value", "attn.c_proj", "attention.dense",
		"mlp.c_fc", "mlp.dense_h_to_4h", "mlp.c_proj", "mlp.dense_4h_to_h"}, nil, []string{"attention.dense", "mlp.dense_4h_to_h"}, map[string]any{"qkv_layout": "stacked"}},
	{"mixtral", []string{"input_layernorm", "one", "post_attention_layernorm", "other", "block_sparse_moe.gate", "moe.router", "block_sparse_moe", "moe"},
		nil, []string{"o_proj", "w2"}, map[string]any{"norm_topk_prob": true, "block": map[string]any{"attn.norm": "one", "mlp.norm": "other"}}},
	{"qwen3_moe", []string{"self_attn", "attn"}, nil, []string{"attn.o_proj", "down_proj"}, map[string]any{"num_experts_per_tok": 4}},
	{"olmoe", nil, nil, []string{"self_attn.o_proj", "down_proj"}, nil},
}

// folder writes the model.
func (m unknownModel) folder(t testing.TB) string {
	t.Helper()
	from, to := filepath.Join("..", "model", "testdata", "golden", m.golden), t.TempDir()
	c, err := ckpt.Open(from, ckpt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	facts := maps.Clone(c.Config().Values)
	maps.Copy(facts, map[string]any{"architectures": []string{"NewForCausalLM"}, "model_type": "new"})
	maps.Copy(facts, m.change)
	maps.DeleteFunc(facts, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	var tensors []ckpt.Tensor
	for _, name := range c.Names() {
		x, _ := c.Tensor(name)
		x.Name = strings.NewReplacer(m.rename...).Replace(name)
		tensors = append(tensors, x)
	}
	for _, err := range []error{ckpt.SaveSafetensors(filepath.Join(to, "model.safetensors"), tensors), os.WriteFile(filepath.Join(to, "config.json"), text, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestInjectionPolicy runs goldens as models of an unknown family, whose row-parallel linears are named: the same bits as
// by the policy of the family, for every tp.
func TestInjectionPolicy(t *testing.T) {
	input := layoutRows(t, 150, 9, 3, 21)
	for _, m := range unknownModels {
		t.Run(m.golden, func(t *testing.T) {
			folder := m.folder(t)
			for _, tp := range []int{1, 2, 4} {
				j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", m.golden), input)
				j.TP = tp
				want, err := runRanks(t, tp, j, RunOptions{})
				if err != nil {
					t.Fatal(err)
				}
				j = layoutJob(t, folder, input)
				j.TP = tp
				j.Inference = injecting(t, m.linears, m.told)
				got, err := runRanks(t, tp, j, RunOptions{})
				if err != nil || !maps.Equal(got.Digests, want.Digests) {
					t.Errorf("tp %d: %v, %v; by its own policy %v", tp, got.Digests, err, want.Digests)
				}
			}
		})
	}
}

func injecting(t testing.TB, linears []string, told map[string]any) config.Inference {
	t.Helper()
	in, _, err := config.ParseInference(map[string]any{"injection_policy": map[string]any{"NewBlock": linears}, "config": told}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestInjectionPolicyThatDoesNotFit: names that leave a sum out, or would sum what is not to be summed, are refused, and so
// is what the files do not tell.
func TestInjectionPolicyThatDoesNotFit(t *testing.T) {
	llama, gpt2, mixtral := unknownModels[1], unknownModels[2], unknownModels[3]
	input := layoutRows(t, 150, 3)
	attention, mlp := "self_attn.o_proj", "mlp.down_proj"
	for _, c := range []struct {
		name    string
		model   unknownModel
		linears []string
		told    map[string]any
		say     []string
	}{
		{"no such linear", llama, []string{attention, "mlp.fc2"}, nil, []string{"Injection policy layer'mlp.fc2' not valid.", "mlp.down_proj", "model.layers.0"}},
		{"half a name", llama, []string{"o_proj", "wn_proj"}, nil, []string{"Injection policy layer'wn_proj' not valid."}},
		{"the attention's is missing", llama, []string{mlp}, nil, []string{attention, "name it"}},
		{"the MLP's is missing", llama, []string{attention}, nil, []string{mlp, "name it"}},
		{"a column-parallel one", llama, []string{"self_attn.q_proj", mlp}, nil, []string{"self_attn.o_proj"}},
		{"a column-parallel one, besides", llama, []string{attention, mlp, "mlp.up_proj"}, nil, []string{"mlp.up_proj", attention, mlp}},
		{"a column-parallel one of the MLP", llama, []string{attention, "mlp.gate_proj"}, nil, []string{mlp}},
		{"the experts' is missing", mixtral, []string{"o_proj"}, mixtral.told, []string{"w2"}},
		{"the router", mixtral, []string{"o_proj", "w2", "router"}, mixtral.told, []string{"router", "not summed"}},
		{"q, k and v together", gpt2, gpt2.linears, nil, []string{"attention.query_key_value", "qkv_layout: stacked"}},
		{"by head, but [in, out]", gpt2, gpt2.linears, map[string]any{"qkv_layout": "by_head"}, []string{"qkv_layout by_head"}},
		{"another layout", gpt2, gpt2.linears, map[string]any{"qkv_layout": "mixed"}, []string{"mixed", "stacked or by_head"}},
		{"norms of other names", mixtral, mixtral.linears, map[string]any{"norm_topk_prob": true}, []string{"one and other", "attn.norm: …"}},
		{"weights of experts", mixtral, mixtral.linears, map[string]any{"block": mixtral.told["block"]}, []string{"norm_topk_prob: true"}},
		{"layers that differ", with(llama, "model.layers.1.self_attn.q_proj.bias", "model.layers.1.extra_norm.weight"), llama.linears, nil, []string{"model.layers.1"}},
		{"one norm", with(llama, "model.layers.0.post_attention_layernorm.weight", "other.weight"), llama.linears, nil, []string{"model.layers.0", "side by side"}},
		{"norms after", with(llama, "input_layernorm", "post_feedforward_layernorm"), llama.linears, nil, []string{"post_feedforward_layernorm", "attn.norm: …"}},
		{"too few layers", llama, llama.linears, map[string]any{"num_hidden_layers": 3}, []string{"3 layers", "of 2"}},
		{"an unknown key", llama, llama.linears, map[string]any{"embedding_scale": 2}, []string{"embedding_scale", "{embedding_scale: null}"}},
		{"side by side", llama, llama.linears, map[string]any{"use_parallel_residual": true}, []string{"use_parallel_residual is true"}},
		{"no positions", llama, llama.linears, map[string]any{"rope_parameters": nil}, []string{"position", "rope_theta: 10000"}},
		{"both kinds of positions", gpt2, gpt2.linears, map[string]any{"qkv_layout": "stacked", "rope_theta": 10000}, []string{"wpe", "rope_theta"}},
		{"a longer table of positions", gpt2, gpt2.linears, map[string]any{"qkv_layout": "stacked", "n_positions": 126}, []string{"126", "128 rows"}},
		{"another kind of norm", llama, llama.linears, map[string]any{"rms_norm_eps": nil, "layer_norm_eps": 1e-5}, []string{"layer_norm_eps", "mean"}},
		{"no epsilon", llama, llama.linears, map[string]any{"rms_norm_eps": nil}, []string{"{rms_norm_eps: …}"}},
		{"an encoder", llama, llama.linears, map[string]any{"architectures": []any{"NewModel"}}, []string{"NewModel", "triangular_masking: true"}},
		{"a type known to differ", llama, llama.linears, map[string]any{"model_type": "gemma"}, []string{"adds 1"}},
		{"two names of one fact", llama, llama.linears, map[string]any{"n_head": 3}, []string{"num_attention_heads is 4", "n_head is 3"}},
		{"heads that do not fit", llama, llama.linears, map[string]any{"num_attention_heads": 8}, []string{"self_attn.q_proj", "8 heads"}},
		{"another size inside", llama, llama.linears, map[string]any{"intermediate_size": 64}, []string{"intermediate_size is 64", "48"}},
		{"layers of two kinds", llama, llama.linears, map[string]any{"layer_types": []any{"full_attention", "sliding_attention"}}, []string{"layer_types"}},
		{"no name for it", llama, llama.linears, map[string]any{"block": map[string]any{"attn.out": "o_proj"}}, []string{"attn.out", "mlp.gate"}},
		{"no activation", llama, llama.linears, map[string]any{"hidden_act": nil}, []string{"hidden_act"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := layoutJob(t, c.model.folder(t), input)
			j.Inference = injecting(t, c.linears, c.told)
			_, err := Foresee(t.Context(), j, Hosts{Ranks: 1})
			if err == nil {
				t.Fatal("accepted")
			}
			for _, word := range c.say {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v: says nothing of %q", err, word)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a sentence: %v", err)
			}
		})
	}
}

// with is the model with one more renaming.
func with(m unknownModel, from, to string) unknownModel {
	m.rename = append(slices.Clone(m.rename), from, to)
	return m
}

// TestInjectionPolicyOfAKnownFamily: it must be the family's own.
func TestInjectionPolicyOfAKnownFamily(t *testing.T) {
	input := layoutRows(t, 150, 3)
	golden := func(name string) string {
		dir := filepath.Join("..", "model", "testdata", "golden", name)
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
		return filepath.Join("..", "..", "shared", "golden", name) // too large to be bundled
	}
	for _, c := range []struct {
		golden string
		policy any
		say    string // "": taken
	}{
		{"llama", []string{"self_attn.o_proj", "mlp.down_proj"}, ""},
		{"mixtral", []string{"o_proj", "w2"}, ""},
		{"qwen3_moe", []string{"o_proj", "down_proj"}, ""},
		{"ds-moe-hoisted", []string{"attention.dense", "dense_4h_to_h"}, ""},
		{"gpt2", "module_inject.replace_policy.HFGPT2LayerPolicy", ""},
		{"opt", "HFOPTLayerPolicy", ""},
		{"opt", []string{"self_attn.out_proj", "fc2"}, ""},
		{"gpt_neox", "GPTNEOXLayerPolicy", ""},
		{"gpt_neox", []string{"attention.dense", "mlp.dense_4h_to_h"}, ""},
		{"gptj", "HFGPTJLayerPolicy", ""},
		{"gptj", []string{"attn.out_proj", "mlp.fc_out"}, ""},
		{"gpt_neo", "HFGPTNEOLayerPolicy", ""},
		{"bloom", "BLOOMLayerPolicy", ""},
		{"bloom", []string{"self_attention.dense", "mlp.dense_4h_to_h"}, ""},
		{"qwen2_moe", []string{"o_proj", "down_proj"}, ""},
		{"qwen2_moe", []string{"o_proj", "experts.{expert}.down_proj"}, "shared_expert.down_proj"},
		{"gptj", "HFGPTNEOLayerPolicy", "HFGPTNEOLayerPolicy is for gpt_neo"},
		{"llama", "HFGPT2LayerPolicy", "HFGPT2LayerPolicy is for gpt2"},
		{"llama", []string{"self_attn.o_proj"}, "mlp.down_proj"},
		{"qwen3_moe", []string{"o_proj", "mlp.down_proj"}, "mlp.experts.{expert}.down_proj"},
		{"llama", []string{"self_attn.o_proj", "mlp.down_proj", "q_proj"}, "q_proj is not summed"},
		{"llama", []string{"SelfAttention.o", "mlp.down_proj"}, "Injection policy layer'SelfAttention.o' not valid."},
	} {
		folder := golden(c.golden)
		if _, err := os.Stat(folder); err != nil {
			t.Logf("SKIPPED: %s is not beside the checkout", folder)
			continue
		}
		j := layoutJob(t, folder, input)
		j.KVMemory = 4 << 20 // the window of one is longer
		in, _, err := config.ParseInference(map[string]any{"injection_policy": map[string]any{"Block": c.policy}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		j.Inference = in
		_, err = Foresee(t.Context(), j, Hosts{Ranks: 1})
		if c.say == "" && err != nil || c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%s, %v: %v, want %q", c.golden, c.policy, err, c.say)
		}
	}
}
