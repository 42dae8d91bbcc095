package policies

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// OLMoE (arXiv 2409.02060): queries and keys normalised over the whole projection. Golden: olmoe.
func olmoe() model.Policy {
	return model.Policy{
		Architectures: []string{"OlmoeForCausalLM"},
		Configure: func(f model.Facts) (model.Config, error) {
			c, err := llamaLike(f, "olmoe")
			c.QKNorm = model.QKNormFull
			for layer := range c.MoE {
				c.MoE[layer] = model.MoE{FFN: c.FFN, Gate: kernels.Gate{
					Experts: f.Int("num_experts"), K: f.Int("num_experts_per_tok"), Renormalise: f.BoolOr("norm_topk_prob", false)}}
			}
			if err == nil && f.Has("clip_qkv") {
				err = fmt.Errorf("%w: %s: clip_qkv is not supported; only null is", model.ErrConfig, f.Source)
			}
			if err == nil {
				err = f.Err()
			}
			return c, err
		},
		Tensors: llamaNames(qkNormNames(expertNames())),
	}
}

// expertNames are the names that OLMoE and the Qwen families share.
func expertNames() model.Names {
	return model.Names{
		"moe.gate":    "model.layers.{layer}.mlp.gate.weight",
		"expert.gate": "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
		"expert.up":   "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
		"expert.down": "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
	}
}

func qkNormNames(names model.Names) model.Names {
	names["attn.qnorm"] = "model.layers.{layer}.self_attn.q_norm.weight"
	names["attn.knorm"] = "model.layers.{layer}.self_attn.k_norm.weight"
	return names
}
