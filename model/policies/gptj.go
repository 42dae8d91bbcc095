package policies

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// GPT-J: attention and MLP side by side after one norm, the first values of each head rotated in neighbouring pairs, an
// output embedding of its own with a bias. Golden: gptj.
func gptJ() model.Policy {
	return model.Policy{
		Architectures: []string{"GPTJForCausalLM"},
		Configure:     configureGPTJ,
		QKV:           model.QKVApart,
		Prefix:        "transformer.",
		Ignored:       []string{".attn.bias", ".attn.masked_bias"},
		Tensors: model.Names{
			"embed": "transformer.wte.weight", "norm": "transformer.ln_f.weight", "head": "lm_head.weight",
			"attn.norm": "transformer.h.{layer}.ln_1.weight",
			"attn.q":    "transformer.h.{layer}.attn.q_proj.weight",
			"attn.k":    "transformer.h.{layer}.attn.k_proj.weight",
			"attn.v":    "transformer.h.{layer}.attn.v_proj.weight",
			"attn.out":  "transformer.h.{layer}.attn.out_proj.weight",
			"mlp.up":    "transformer.h.{layer}.mlp.fc_in.weight",
			"mlp.down":  "transformer.h.{layer}.mlp.fc_out.weight",
		},
	}
}

func configureGPTJ(f model.Facts) (model.Config, error) {
	act, err := activation(f, "activation_function")
	if err != nil {
		return model.Config{}, err
	}
	hidden, heads := f.Int("n_embd"), f.Int("n_head")
	c := model.Config{
		Family: "gptj", Layers: f.Int("n_layer"), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: f.IntOr("n_inner", 4*hidden), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"),
		Window: f.Int("n_positions"), Order: model.ParallelOfNorm, Norm: kernels.LayerNorm, Eps: float32(f.FloatOr("layer_norm_epsilon", 1e-5)),
		Act: act, Rope: &model.Rope{Theta: 10000, Dim: f.Int("rotary_dim"), Interleaved: true},
		Bias:     model.Bias{MLP: true, Head: true},
		TiedHead: f.BoolOr("tie_word_embeddings", false),
		EOS:      f.IDs("eos_token_id"), BOS: first(f.IDs("bos_token_id")),
	}
	c.MoE = dense(c.Layers)
	if err := f.Err(); err != nil {
		return c, err
	}
	return c, divides(f, "n_head", heads, "n_embd", hidden)
}
