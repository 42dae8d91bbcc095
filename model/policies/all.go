// Package policies holds the model families, one a file: what a family's config means in the canonical transformer's
// terms and which tensor is which. A new family is new values, never a second forward pass.
package policies

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// All are the families that can be run.
func All() []model.Policy {
	return []model.Policy{bert(), bloom(), deepSeekV2(), deepSeekV3(), distilBERT(), gpt2(), gptJ(), gptNeo(), gptNeoX(), gptOSS(), llama(), megatron(), mixtral(), olmoe(), opt(), qwen2MoE(), qwen3MoE()}
}

// Find is the policy for a checkpoint's config.
func Find(f model.Facts) (model.Policy, error) {
	named := f.Strings("architectures")
	if a := f.StringOr("architecture", ""); a != "" {
		named = append(named, a)
	}
	var known []string
	for _, p := range All() {
		for _, a := range p.Architectures {
			if slices.Contains(named, a) {
				return p, nil
			}
			known = append(known, a)
		}
	}
	if len(named) == 0 {
		return model.Policy{}, fmt.Errorf("%w: %s names no architecture; one of %s is needed", model.ErrConfig, f.Source, strings.Join(known, ", "))
	}
	return model.Policy{}, fmt.Errorf("%w: %s: architecture %s is not supported; these are: %s", model.ErrConfig,
		f.Source, strings.Join(named, ", "), strings.Join(known, ", "))
}

// activation is the function that a Hugging Face config calls by name.
func activation(f model.Facts, key string) (kernels.Activation, error) {
	switch name := f.StringOr(key, ""); name {
	case "silu", "swish":
		return kernels.SiLU, nil
	case "gelu", "gelu_erf":
		return kernels.GELUErf, nil
	case "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh":
		return kernels.GELUTanh, nil
	case "relu":
		return kernels.ReLU, nil
	default:
		return 0, fmt.Errorf("%w: %s: %s %q is not supported; silu, gelu, gelu_new, gelu_pytorch_tanh and relu are", model.ErrConfig, f.Source, key, name)
	}
}

// rope reads rotary positions in both of Hugging Face's styles: rope_parameters, or rope_theta and rope_scaling at
// the top level.
func rope(f model.Facts, headDim int) *model.Rope {
	s, theta := f.Under("rope_scaling"), f.FloatOr("rope_theta", 10000)
	if f.Has("rope_parameters") {
		s = f.Under("rope_parameters")
		theta = s.FloatOr("rope_theta", theta)
	}
	kind, factor := s.StringOr("rope_type", s.StringOr("type", "")), 0.0
	if kind == "" || kind == "default" {
		factor = 1 // the others need one
	}
	return &model.Rope{
		Theta: theta,
		Dim:   int(float64(headDim) * f.FloatOr("partial_rotary_factor", s.FloatOr("partial_rotary_factor", 1))),
		Scaling: model.Scaling{
			Type:     kind,
			Factor:   s.FloatOr("factor", factor),
			Low:      s.FloatOr("low_freq_factor", 1),
			High:     s.FloatOr("high_freq_factor", 4),
			Original: s.FloatOr("original_max_position_embeddings", f.FloatOr("max_position_embeddings", 0)),
			Fast:     s.FloatOr("beta_fast", 32), Slow: s.FloatOr("beta_slow", 1), Fraction: !s.BoolOr("truncate", true),
			Magnitude: yarnMagnitude(s),
		},
	}
}

// yarnMagnitude is what YaRN multiplies cosines and sines by: attention_factor, or what follows from the factor.
func yarnMagnitude(s model.Facts) float64 {
	if s.StringOr("rope_type", s.StringOr("type", "")) != "yarn" {
		return 1
	}
	return s.FloatOr("attention_factor", yarnScale(s, "mscale", 1)/yarnScale(s, "mscale_all_dim", 0))
}

// yarnScale is 0.1·m·ln(factor) + 1, m standing under key.
func yarnScale(s model.Facts, key string, absent float64) float64 {
	return 0.1*s.FloatOr(key, absent)*math.Log(max(s.FloatOr("factor", 1), 1)) + 1
}

// llamaLike is what LLaMA and the families after it share: RMSNorm, rotary halves, SwiGLU, grouped heads.
func llamaLike(f model.Facts, family string) (model.Config, error) {
	heads, hidden := f.Int("num_attention_heads"), f.Int("hidden_size")
	c, err := llamaWith(f, family, f.IntOr("head_dim", hidden/max(heads, 1)))
	if err == nil && !f.Has("head_dim") {
		err = divides(f, "num_attention_heads", heads, "hidden_size", hidden)
	}
	return c, err
}

// llamaWith is llamaLike with heads of a size that is known.
func llamaWith(f model.Facts, family string, headDim int) (model.Config, error) {
	act, err := activation(f, "hidden_act")
	heads, hidden := f.Int("num_attention_heads"), f.Int("hidden_size")
	c := model.Config{
		Family: family, Layers: f.Int("num_hidden_layers"), Hidden: hidden,
		Heads: heads, KVHeads: f.IntOr("num_key_value_heads", heads), HeadDim: headDim,
		FFN: f.IntOr("intermediate_size", 0), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.Int("max_position_embeddings"),
		Norm:   kernels.RMSNorm, Eps: float32(f.FloatOr("rms_norm_eps", 1e-6)),
		Act: act, Gated: true, Rope: rope(f, headDim),
		Bias:     model.Bias{QKV: f.BoolOr("attention_bias", false), Out: f.BoolOr("attention_bias", false), MLP: f.BoolOr("mlp_bias", false)},
		TiedHead: f.BoolOr("tie_word_embeddings", false),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	c.MoE = dense(c.Layers)
	if err == nil {
		err = f.Err()
	}
	return c, err
}

// dense is that many layers without experts, for a family to put its experts into. Of a number that no model has, and
// that memory may not have room for, it is none: Load refuses it.
func dense(layers int) []model.MoE {
	if layers < 0 || layers > model.MaxLayers {
		return nil
	}
	return make([]model.MoE, layers)
}

// divides refuses heads of unequal size.
func divides(f model.Facts, key string, heads int, of string, size int) error {
	if heads > 0 && size%heads != 0 {
		return fmt.Errorf("%w: %s: %s %d is no multiple of %s %d", model.ErrConfig, f.Source, of, size, key, heads)
	}
	return nil
}

// first is the first of ids, or -1.
func first(ids []int32) int32 {
	if len(ids) == 0 {
		return -1
	}
	return ids[0]
}

// llamaNames are LLaMA's tensor names, with those of a family's own MLP added.
func llamaNames(own model.Names) model.Names {
	names := model.Names{
		"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight",
		"attn.norm": "model.layers.{layer}.input_layernorm.weight",
		"attn.q":    "model.layers.{layer}.self_attn.q_proj.weight",
		"attn.k":    "model.layers.{layer}.self_attn.k_proj.weight",
		"attn.v":    "model.layers.{layer}.self_attn.v_proj.weight",
		"attn.out":  "model.layers.{layer}.self_attn.o_proj.weight",
		"mlp.norm":  "model.layers.{layer}.post_attention_layernorm.weight",
		"mlp.gate":  "model.layers.{layer}.mlp.gate_proj.weight",
		"mlp.up":    "model.layers.{layer}.mlp.up_proj.weight",
		"mlp.down":  "model.layers.{layer}.mlp.down_proj.weight",
	}
	for canonical, name := range own {
		names[canonical] = name
	}
	return names
}
