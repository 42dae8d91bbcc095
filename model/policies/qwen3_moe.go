package policies

import (
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// Qwen3-MoE: each head of queries and keys normalised by itself; every decoder_sparse_step-th layer has experts but
// those that mlp_only_layers names. Golden: qwen3_moe.
func qwen3MoE() model.Policy {
	return model.Policy{
		Architectures: []string{"Qwen3MoeForCausalLM"},
		Configure: func(f model.Facts) (model.Config, error) {
			c, err := llamaLike(f, "qwen3_moe")
			c.QKNorm = model.QKNormHead
			if f.BoolOr("use_sliding_window", false) {
				c.Sliding = f.IntOr("sliding_window", 0)
			}
			qwenExperts(f, c.MoE, 0)
			if err == nil {
				err = f.Err()
			}
			return c, err
		},
		Tensors: llamaNames(qkNormNames(expertNames())),
	}
}

// qwenExperts puts experts into the layers that have them, and a shared expert with so much inside beside each.
func qwenExperts(f model.Facts, layers []model.MoE, shared int) {
	experts := f.IntOr("num_experts", f.IntOr("num_local_experts", 0))
	step, dense := max(f.IntOr("decoder_sparse_step", 1), 1), f.Ints("mlp_only_layers")
	for layer := range layers {
		if experts > 0 && (layer+1)%step == 0 && !slices.Contains(dense, layer) {
			layers[layer] = model.MoE{FFN: f.Int("moe_intermediate_size"), Shared: shared, Weighed: shared > 0, Gate: kernels.Gate{
				Experts: experts, K: f.Int("num_experts_per_tok"), Renormalise: f.BoolOr("norm_topk_prob", false)}}
		}
	}
}
