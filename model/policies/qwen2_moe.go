package policies

import (
	"fmt"

	"github.com/dsbatch/dsbatch/model"
)

// Qwen2-MoE (Qwen1.5-MoE's too): biases of q, k and v, and a shared expert beside the others in every layer of experts,
// weighed by the sigmoid of a gate of its own. Golden: qwen2_moe.
func qwen2MoE() model.Policy {
	return model.Policy{
		Architectures: []string{"Qwen2MoeForCausalLM"},
		Configure:     configureQwen2MoE,
		Tensors:       llamaNames(sharedExpertNames(expertNames())),
	}
}

func configureQwen2MoE(f model.Facts) (model.Config, error) {
	c, err := llamaLike(f, "qwen2_moe")
	if err != nil {
		return c, err
	}
	c.Bias = model.Bias{QKV: f.BoolOr("qkv_bias", true)}
	shared := f.Int("shared_expert_intermediate_size")
	qwenExperts(f, c.MoE, shared)
	if f.BoolOr("use_sliding_window", false) {
		c.Sliding = f.IntOr("sliding_window", 0)
		if c.Slides, err = slidingLayers(f); err != nil {
			return c, err
		}
		if c.Sliding > 0 && c.Slides == nil {
			return c, fmt.Errorf("%w: %s: use_sliding_window is true, but no layer_types tell in which layers; write them", model.ErrConfig, f.Source)
		}
	}
	if shared < 1 && f.Err() == nil {
		return c, fmt.Errorf("%w: %s: shared_expert_intermediate_size is %d; a shared expert has an inside of 1 or more", model.ErrConfig, f.Source, shared)
	}
	return c, f.Err()
}

// sharedExpertNames adds those of the shared expert, and of its gate.
func sharedExpertNames(names model.Names) model.Names {
	names["residual.gate"] = "model.layers.{layer}.mlp.shared_expert.gate_proj.weight"
	names["residual.up"] = "model.layers.{layer}.mlp.shared_expert.up_proj.weight"
	names["residual.down"] = "model.layers.{layer}.mlp.shared_expert.down_proj.weight"
	names["residual.mix"] = "model.layers.{layer}.mlp.shared_expert_gate.weight"
	return names
}
