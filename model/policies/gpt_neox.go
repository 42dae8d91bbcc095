package policies

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// GPT-NeoX (arXiv 2204.06745), Pythia's family too: attention and MLP side by side, a part of each head rotated in halves,
// q, k and v of each head together. Golden: gpt_neox; model/definition_test.go for use_parallel_residual: false.
func gptNeoX() model.Policy {
	return model.Policy{
		Architectures: []string{"GPTNeoXForCausalLM"},
		Configure:     configureGPTNeoX,
		QKV:           model.QKVByHead,
		Ignored:       []string{".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"},
		Tensors: model.Names{
			"embed": "gpt_neox.embed_in.weight", "norm": "gpt_neox.final_layer_norm.weight", "head": "embed_out.weight",
			"attn.norm": "gpt_neox.layers.{layer}.input_layernorm.weight",
			"attn.qkv":  "gpt_neox.layers.{layer}.attention.query_key_value.weight",
			"attn.out":  "gpt_neox.layers.{layer}.attention.dense.weight",
			"mlp.norm":  "gpt_neox.layers.{layer}.post_attention_layernorm.weight",
			"mlp.up":    "gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight",
			"mlp.down":  "gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight",
		},
	}
}

func configureGPTNeoX(f model.Facts) (model.Config, error) {
	act, err := activation(f, "hidden_act")
	if err != nil {
		return model.Config{}, err
	}
	hidden, heads, bias := f.Int("hidden_size"), f.Int("num_attention_heads"), f.BoolOr("attention_bias", true)
	c := model.Config{
		Family: "gpt_neox", Layers: f.Int("num_hidden_layers"), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: f.Int("intermediate_size"), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.Int("max_position_embeddings"), Norm: kernels.LayerNorm, Eps: float32(f.FloatOr("layer_norm_eps", 1e-5)),
		Act: act, Bias: model.Bias{QKV: bias, Out: bias, MLP: true},
		TiedHead: f.BoolOr("tie_word_embeddings", false),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	if f.BoolOr("use_parallel_residual", true) {
		c.Order = model.Parallel
	}
	c.Rope = rope(f, c.HeadDim)
	if !f.Has("rope_parameters") { // the older style has names of its own
		c.Rope.Theta = f.FloatOr("rotary_emb_base", c.Rope.Theta)
		c.Rope.Dim = int(float64(c.HeadDim) * f.FloatOr("rotary_pct", 0.25))
	}
	c.MoE = dense(c.Layers)
	if err := f.Err(); err != nil {
		return c, err
	}
	return c, divides(f, "num_attention_heads", heads, "hidden_size", hidden)
}
