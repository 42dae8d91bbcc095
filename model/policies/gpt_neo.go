package policies

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// GPT-Neo: as GPT-2, but scores are not scaled, and some layers see a window of the last positions only. Golden: gpt_neo.
func gptNeo() model.Policy {
	return model.Policy{
		Architectures: []string{"GPTNeoForCausalLM"},
		Configure:     configureGPTNeo,
		QKV:           model.QKVApart,
		Prefix:        "transformer.",
		Ignored:       []string{".attn.attention.bias", ".attn.attention.masked_bias"},
		Tensors: model.Names{
			"embed": "transformer.wte.weight", "positions": "transformer.wpe.weight",
			"norm": "transformer.ln_f.weight", "head": "lm_head.weight",
			"attn.norm": "transformer.h.{layer}.ln_1.weight",
			"attn.q":    "transformer.h.{layer}.attn.attention.q_proj.weight",
			"attn.k":    "transformer.h.{layer}.attn.attention.k_proj.weight",
			"attn.v":    "transformer.h.{layer}.attn.attention.v_proj.weight",
			"attn.out":  "transformer.h.{layer}.attn.attention.out_proj.weight",
			"mlp.norm":  "transformer.h.{layer}.ln_2.weight",
			"mlp.up":    "transformer.h.{layer}.mlp.c_fc.weight",
			"mlp.down":  "transformer.h.{layer}.mlp.c_proj.weight",
		},
	}
}

func configureGPTNeo(f model.Facts) (model.Config, error) {
	act, err := activation(f, "activation_function")
	if err != nil {
		return model.Config{}, err
	}
	hidden, heads := f.Int("hidden_size"), f.Int("num_heads")
	c := model.Config{
		Family: "gpt_neo", Layers: f.Int("num_layers"), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: f.IntOr("intermediate_size", 4*hidden), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.Int("max_position_embeddings"), Norm: kernels.LayerNorm, Eps: float32(f.FloatOr("layer_norm_epsilon", 1e-5)),
		Act: act, Learned: true, Sliding: f.IntOr("window_size", 256), Bias: model.Bias{Out: true, MLP: true},
		TiedHead: f.BoolOr("tie_word_embeddings", true),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	c.MoE = dense(c.Layers)
	if c.Slides, err = localLayers(f, len(c.MoE)); err != nil {
		return c, err
	}
	c.Scale = slices.Repeat([]float32{1}, len(c.MoE))
	if err := f.Err(); err != nil {
		return c, err
	}
	return c, divides(f, "num_heads", heads, "hidden_size", hidden)
}

// localLayers tells of each layer whether it sees a window only: from attention_layers, or from attention_types, a list
// of kinds and how often they come: [[["global", "local"], 12]].
func localLayers(f model.Facts, layers int) (local []bool, err error) {
	kinds := f.Strings("attention_layers")
	if len(kinds) == 0 {
		if kinds, err = attentionTypes(f, layers); err != nil {
			return nil, err
		}
	}
	for i, kind := range kinds {
		if kind != "global" && kind != "local" {
			return nil, fmt.Errorf("%w: %s: the attention of layer %d is %q; global and local are supported", model.ErrConfig, f.Source, i, kind)
		}
		local = append(local, kind == "local")
	}
	if len(local) != layers {
		return nil, fmt.Errorf("%w: %s: attention_layers and attention_types tell of %d layers, num_layers of %d", model.ErrConfig, f.Source, len(local), layers)
	}
	return local, nil
}

func attentionTypes(f model.Facts, layers int) (kinds []string, err error) {
	groups, _ := f.Value("attention_types").([]any)
	for _, g := range groups {
		pair, _ := g.([]any)
		if len(pair) != 2 {
			return nil, wrongTypes(f)
		}
		facts := model.NewFacts(f.Source, map[string]any{"kinds": pair[0], "times": pair[1]})
		period, times := facts.Strings("kinds"), facts.Int("times")
		if facts.Err() != nil || len(period) == 0 || times < 0 || times > layers {
			return nil, wrongTypes(f)
		}
		kinds = append(kinds, slices.Repeat(period, times)...)
	}
	return kinds, nil
}

func wrongTypes(f model.Facts) error {
	return fmt.Errorf(`%w: %s: attention_types is %v, want kinds and how often they come, as in [[["global", "local"], 12]]`, model.ErrConfig, f.Source, f.Value("attention_types"))
}
