package policies

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// GPT-2, as transformers saves it: linear weights [in, out], q, k and v stacked. The hub's oldest files leave the
// prefix out. Golden: gpt2, gpt2-scale-by-layer.
func gpt2() model.Policy {
	return model.Policy{
		Architectures: []string{"GPT2LMHeadModel"},
		Configure:     configureGPT2,
		QKV:           model.QKVStacked,
		Transposed:    true,
		Prefix:        "transformer.",
		Ignored:       []string{".attn.bias", ".attn.masked_bias"},
		Tensors: model.Names{
			"embed": "transformer.wte.weight", "positions": "transformer.wpe.weight",
			"norm": "transformer.ln_f.weight", "head": "lm_head.weight",
			"attn.norm": "transformer.h.{layer}.ln_1.weight",
			"attn.qkv":  "transformer.h.{layer}.attn.c_attn.weight",
			"attn.out":  "transformer.h.{layer}.attn.c_proj.weight",
			"mlp.norm":  "transformer.h.{layer}.ln_2.weight",
			"mlp.up":    "transformer.h.{layer}.mlp.c_fc.weight",
			"mlp.down":  "transformer.h.{layer}.mlp.c_proj.weight",
		},
	}
}

func configureGPT2(f model.Facts) (model.Config, error) {
	act, err := activation(f, "activation_function")
	if err != nil {
		return model.Config{}, err
	}
	hidden, heads := f.Int("n_embd"), f.Int("n_head")
	c := model.Config{
		Family: "gpt2", Layers: f.Int("n_layer"), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: f.IntOr("n_inner", 4*hidden), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.Int("n_positions"), Norm: kernels.LayerNorm, Eps: float32(f.FloatOr("layer_norm_epsilon", 1e-5)),
		Act: act, Learned: true, Bias: model.Bias{QKV: true, Out: true, MLP: true},
		TiedHead: f.BoolOr("tie_word_embeddings", true),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	if err := divides(f, "n_head", heads, "n_embd", hidden); err != nil {
		return c, err
	}
	c.MoE = dense(c.Layers)
	for layer := range c.MoE {
		scale := 1.0
		if f.BoolOr("scale_attn_weights", true) {
			scale = 1 / math.Sqrt(float64(c.HeadDim))
		}
		if f.BoolOr("scale_attn_by_inverse_layer_idx", false) {
			scale /= float64(layer + 1)
		}
		c.Scale = append(c.Scale, float32(scale))
	}
	return c, f.Err()
}
