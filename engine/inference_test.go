package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestInitInferenceCallCases are the four call cases of deepspeed.init_inference: kwargs win over config.
func TestInitInferenceCallCases(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ds.json")
	if err := os.WriteFile(file, []byte(`{"dtype": "fp16", "max_out_tokens": 99, "enable_cuda_graph": false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config any
		kwargs map[string]any
		dtype  string
		window int
	}{
		"neither":            {nil, nil, "bf16", 512},
		"config":             {map[string]any{"dtype": "fp32", "max_tokens": 100}, nil, "fp32", 100},
		"config file":        {file, nil, "fp16", 99},
		"kwargs":             {nil, map[string]any{"dtype": "int8", "moe": true}, "int8", 512},
		"kwargs over config": {file, map[string]any{"dtype": "fp32", "moe_experts": []any{4, 4, 8}}, "fp32", 99},
	} {
		e, err := InitInference(context.Background(), bundled, c.config, c.kwargs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.identity.dtype != c.dtype || e.Window() != c.window {
			t.Errorf("%s: %s, window %d; want %s, %d", name, e.identity.dtype, e.Window(), c.dtype, c.window)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestInferenceIsObeyedOrRefused: what contradicts the checkpoint, or is not obeyed, is refused by name.
func TestInferenceIsObeyedOrRefused(t *testing.T) {
	for field, kwargs := range map[string]map[string]any{
		"moe_experts":       {"moe_experts": []any{64}},
		"moe.type":          {"moe": map[string]any{"type": "standard"}},
		"enable_cuda_graph": {"enable_cuda_graph": true},
		"triangular":        {"triangular_masking": false},
		"quant":             {"quant": map[string]any{"weight": map[string]any{"q_groups": 8}}},
		"quant: 8 groups":   {"dtype": "int8", "quant": 8},
		"4608 of its elem":  {"dtype": "int8", "quant": []any{true, 8}},
		"tp":                {"tensor_parallel": map[string]any{"tp_size": 2}},
		"training_mp_size":  {"training_mp_size": 2},
		"module_key":        {"module_key": "model"},
		"layernorm_eps":     {"config": map[string]any{"layernorm_eps": 1e-3}},
	} {
		e, err := InitInference(context.Background(), bundled, nil, kwargs)
		if err == nil {
			t.Errorf("%v was accepted", kwargs)
			_ = e.Close()
		} else if !strings.Contains(err.Error(), field) {
			t.Errorf("%v: the refusal does not name %s: %v", kwargs, field, err)
		}
	}
	sliced := "../model/testdata/golden/megatron-v0-mp2/megatron.json"
	for _, kwargs := range []map[string]any{
		{"training_mp_size": 2, "module_key": "model"}, // as the tutorial has it
		{"checkpoint": sliced},
		{"config": map[string]any{"layernorm_epsilon": 1e-3, "expert_output_bias": "add"}},
		{"dtype": "int8", "quant": map[string]any{"weight": map[string]any{"q_type": "symmetric", "num_bits": 8}, "qkv": map[string]any{"enabled": true}}},
	} {
		e, err := InitInference(context.Background(), sliced, nil, kwargs)
		if err != nil {
			t.Errorf("%v: %v", kwargs, err)
			continue
		}
		_ = e.Close()
	}
	if _, err := InitInference(context.Background(), sliced, nil, map[string]any{"training_mp_size": 1}); err == nil {
		t.Error("a checkpoint of two slices passed for one of one")
	}
	if _, err := InitInference(context.Background(), bundled, nil, map[string]any{"checkpoint": sliced}); !errors.Is(err, ErrRefused) {
		t.Errorf("a model and another checkpoint: %v", err)
	}
	described := map[string]any{"base_dir": filepath.Dir(sliced), "checkpoint": map[string]any{"type": "Megatron", "version": 0.0,
		"checkpoints": []any{"iter_0000010/mp_rank_00/model_optim_rng.pt", "iter_0000010/mp_rank_01/model_optim_rng.pt"}}}
	e, err := InitInference(context.Background(), "", described, nil)
	if err != nil {
		t.Fatal(err)
	}
	if layers := e.Config().Layers; layers != 4 {
		t.Errorf("%d layers", layers)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestScoreSharesPrompts: a continuation's score is that of the text alone, however many share its prompt.
func TestScoreSharesPrompts(t *testing.T) {
	e, err := InitInference(context.Background(), bundled, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	prompt := "And God said, Let there be light: and there was light. And God saw the light, that it was good: and God divided the light from the"
	texts := []Text{{prompt, " darkness."}, {prompt, " day."}, {prompt, " darkness and the sea."}, {prompt, ""}}
	together, err := e.Score(context.Background(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		alone, err := e.Score(context.Background(), []Text{text})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := alone[0].Logprob, together[i].Logprob; a != b || together[i].Tokens == 0 {
			t.Errorf("%q: %v alone, %v among others", text.Continuation, a, b)
		}
	}
	if together[0].Logprob < together[1].Logprob {
		t.Error("the model finds day likelier than darkness")
	}
}

// TestGroupsOfRows: MoQ's groups are obeyed where they are the rows of every weight, of twice as many in MLPs where extra
// grouping asks for it, and refused where one weight has others.
func TestGroupsOfRows(t *testing.T) {
	for _, c := range []struct {
		inner int64
		quant any
		good  bool
	}{{32, 32, true}, {32, 16, false}, {32, 64, false}, {64, 32, false}, {32, []any{true, 32}, true}, {128, []any{true, 32}, false}} {
		var tensors []ckpt.Tensor
		add := func(name string, shape ...int64) {
			n := int64(4)
			for _, d := range shape {
				n *= d
			}
			x, err := ckpt.NewTensor(name, ckpt.F32, shape, make([]byte, n))
			if err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, x)
		}
		add("model.embed_tokens.weight", 50, 32)
		add("model.norm.weight", 32)
		for _, norm := range []string{"input", "post_attention"} {
			add("model.layers.0."+norm+"_layernorm.weight", 32)
		}
		for _, name := range []string{"q", "k", "v", "o"} {
			add("model.layers.0.self_attn."+name+"_proj.weight", 32, 32)
		}
		add("model.layers.0.mlp.gate_proj.weight", c.inner, 32)
		add("model.layers.0.mlp.up_proj.weight", c.inner, 32)
		add("model.layers.0.mlp.down_proj.weight", 32, c.inner)
		m := ckpt.InMemory("llama", map[string]any{"architectures": []any{"LlamaForCausalLM"}, "num_hidden_layers": 1.0, "hidden_size": 32.0,
			"num_attention_heads": 4.0, "intermediate_size": float64(c.inner), "vocab_size": 50.0, "max_position_embeddings": 16.0,
			"hidden_act": "silu", "tie_word_embeddings": true}, tensors)
		in, _, err := config.ParseInference(nil, map[string]any{"dtype": "int8", "quant": c.quant})
		if err != nil {
			t.Fatal(err)
		}
		job := config.New()
		job.Model, job.Inference, job.DType = "llama", in, in.DType
		e, err := OpenCheckpoint(t.Context(), mpi.Alone(), job, m)
		if (err == nil) != c.good || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("quant %v with MLPs of %d: %v", c.quant, c.inner, err)
		}
		if err == nil {
			_ = e.Close()
		}
	}
}
