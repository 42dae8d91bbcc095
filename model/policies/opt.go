package policies

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// OPT (arXiv 2205.01068): learned positions whose table begins with two rows that no token has. OPT-350m norms after each
// part, has no final norm, and embeddings narrower than the residual stream. Files of the decoder alone leave the prefix
// out. Golden: opt; model/definition_test.go for the kinds that 350m has.
func opt() model.Policy {
	return model.Policy{
		Architectures: []string{"OPTForCausalLM"},
		Configure:     configureOPT,
		QKV:           model.QKVApart,
		Prefix:        "model.",
		Tensors: model.Names{
			"embed": "model.decoder.embed_tokens.weight", "positions": "model.decoder.embed_positions.weight",
			"embed.in": "model.decoder.project_in.weight", "embed.out": "model.decoder.project_out.weight",
			"norm": "model.decoder.final_layer_norm.weight", "head": "lm_head.weight",
			"attn.norm": "model.decoder.layers.{layer}.self_attn_layer_norm.weight",
			"attn.q":    "model.decoder.layers.{layer}.self_attn.q_proj.weight",
			"attn.k":    "model.decoder.layers.{layer}.self_attn.k_proj.weight",
			"attn.v":    "model.decoder.layers.{layer}.self_attn.v_proj.weight",
			"attn.out":  "model.decoder.layers.{layer}.self_attn.out_proj.weight",
			"mlp.norm":  "model.decoder.layers.{layer}.final_layer_norm.weight",
			"mlp.up":    "model.decoder.layers.{layer}.fc1.weight",
			"mlp.down":  "model.decoder.layers.{layer}.fc2.weight",
		},
	}
}

func configureOPT(f model.Facts) (model.Config, error) {
	act, err := activation(f, "activation_function")
	if err != nil {
		return model.Config{}, err
	}
	hidden, heads, bias := f.Int("hidden_size"), f.Int("num_attention_heads"), f.BoolOr("enable_bias", true)
	c := model.Config{
		Family: "opt", Layers: f.Int("num_hidden_layers"), Hidden: hidden, Embed: f.IntOr("word_embed_proj_dim", hidden),
		Heads: heads, KVHeads: heads, HeadDim: hidden / max(heads, 1), FFN: f.Int("ffn_dim"),
		Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"), Window: f.Int("max_position_embeddings"),
		Norm: kernels.LayerNorm, Eps: 1e-5, Act: act, Learned: true, FirstRow: 2, NoFinalNorm: f.BoolOr("_remove_final_layer_norm", false),
		Bias:     model.Bias{QKV: bias, Out: bias, MLP: bias},
		TiedHead: f.BoolOr("tie_word_embeddings", true),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	if !f.BoolOr("do_layer_norm_before", true) {
		c.Order = model.PostNorm
	}
	c.MoE = dense(c.Layers)
	if !f.BoolOr("layer_norm_elementwise_affine", true) {
		return c, fmt.Errorf("%w: %s: layer_norm_elementwise_affine is false; norms without weights are not supported", model.ErrConfig, f.Source)
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	return c, divides(f, "num_attention_heads", heads, "hidden_size", hidden)
}
