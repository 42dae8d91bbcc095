package policies

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// Mixtral (arXiv 2401.04088): softmax over all experts, then the k chosen renormalised. Golden: mixtral.
func mixtral() model.Policy {
	return model.Policy{
		Architectures: []string{"MixtralForCausalLM"},
		Configure: func(f model.Facts) (model.Config, error) {
			c, err := llamaLike(f, "mixtral")
			c.Sliding = f.IntOr("sliding_window", 0)
			for layer := range c.MoE {
				c.MoE[layer] = model.MoE{FFN: c.FFN, Gate: kernels.Gate{
					Experts: f.Int("num_local_experts"), K: f.Int("num_experts_per_tok"), Renormalise: true}}
			}
			if err == nil {
				err = f.Err()
			}
			return c, err
		},
		Tensors: llamaNames(model.Names{
			"moe.gate":    "model.layers.{layer}.block_sparse_moe.gate.weight",
			"expert.gate": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
			"expert.up":   "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
			"expert.down": "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
		}),
		Ignored: []string{".rotary_emb.inv_freq"},
	}
}
