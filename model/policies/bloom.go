package policies

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// BLOOM (arXiv 2211.05100): no positions but ALiBi, a norm after the embedding, q, k and v of each head together. The hub's
// files leave the prefix out. Golden: bloom.
func bloom() model.Policy {
	return model.Policy{
		Architectures: []string{"BloomForCausalLM"},
		Configure:     configureBLOOM,
		QKV:           model.QKVByHead,
		Prefix:        "transformer.",
		Tensors: model.Names{
			"embed": "transformer.word_embeddings.weight", "embed.norm": "transformer.word_embeddings_layernorm.weight",
			"norm": "transformer.ln_f.weight", "head": "lm_head.weight",
			"attn.norm": "transformer.h.{layer}.input_layernorm.weight",
			"attn.qkv":  "transformer.h.{layer}.self_attention.query_key_value.weight",
			"attn.out":  "transformer.h.{layer}.self_attention.dense.weight",
			"mlp.norm":  "transformer.h.{layer}.post_attention_layernorm.weight",
			"mlp.up":    "transformer.h.{layer}.mlp.dense_h_to_4h.weight",
			"mlp.down":  "transformer.h.{layer}.mlp.dense_4h_to_h.weight",
		},
	}
}

func configureBLOOM(f model.Facts) (model.Config, error) {
	of := func(keys ...string) string { // the hub's configs are of several generations
		for _, key := range keys {
			if f.Has(key) {
				return key
			}
		}
		return keys[0]
	}
	hiddenKey, headsKey := of("hidden_size", "n_embed"), of("n_head", "num_attention_heads")
	hidden, heads := f.Int(hiddenKey), f.Int(headsKey)
	c := model.Config{
		Family: "bloom", Layers: f.Int(of("n_layer", "num_hidden_layers")), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: f.IntOr("n_inner", 4*hidden), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.IntOr(of("seq_length", "max_position_embeddings"), 2048), // what BLOOM was trained with: no table bounds it
		Norm:   kernels.LayerNorm, Eps: float32(f.FloatOr("layer_norm_epsilon", 1e-5)), EmbedNorm: true,
		Act: kernels.GELUTanh, ALiBi: true, Bias: model.Bias{QKV: true, Out: true, MLP: true},
		TiedHead: f.BoolOr("tie_word_embeddings", true),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	c.MoE = dense(c.Layers)
	if f.BoolOr("apply_residual_connection_post_layernorm", false) {
		return c, fmt.Errorf("%w: %s: apply_residual_connection_post_layernorm is true; the residual stream of a supported layer is the one before its norm", model.ErrConfig, f.Source)
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	return c, divides(f, headsKey, heads, hiddenKey, hidden)
}
