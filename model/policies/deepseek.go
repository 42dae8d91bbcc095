package policies

import (
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// DeepSeek-V2 (arXiv 2405.04434): latent attention; after the first dense layers experts beside shared ones, chosen by their
// probabilities, of all groups or of the best. Golden: deepseek_v2; model/deepseek_test.go for the other kinds.
func deepSeekV2() model.Policy {
	return model.Policy{
		Architectures: []string{"DeepseekV2ForCausalLM"},
		Configure: func(f model.Facts) (model.Config, error) {
			return configureDeepSeek(f, "deepseek_v2", deepSeekGate{topK: "greedy", score: "softmax"})
		},
		Tensors: llamaNames(deepSeekNames()),
		Ignored: []string{".rotary_emb.inv_freq"},
	}
}

// DeepSeek-V3 and R1 (arXiv 2412.19437): experts chosen by sigmoids and a bias, in the best groups. Golden: deepseek_v3;
// model/deepseek_test.go.
func deepSeekV3() model.Policy {
	p := deepSeekV2()
	p.Architectures = []string{"DeepseekV3ForCausalLM"}
	p.Configure = func(f model.Facts) (model.Config, error) {
		return configureDeepSeek(f, "deepseek_v3", deepSeekGate{topK: "noaux_tc", score: "sigmoid", renormalise: true})
	}
	return p
}

func configureDeepSeek(f model.Facts, family string, defaults deepSeekGate) (model.Config, error) {
	k := &model.Latent{Query: f.IntOr("q_lora_rank", 0), KV: f.Int("kv_lora_rank"), Plain: f.Int("qk_nope_head_dim"), Value: f.Int("v_head_dim")}
	turned := f.Int("qk_rope_head_dim")
	c, err := llamaWith(f, family, k.Plain+turned)
	if err != nil {
		return c, err
	}
	c.Latent, c.KVHeads, c.Bias.MLP = k, 1, false
	c.Rope = rope(f, turned)
	c.Rope.Interleaved = f.BoolOr("rope_interleave", true)
	if c.Rope.Scaling.Type == "yarn" { // of both factors of a product
		s := f.Under("rope_scaling")
		if f.Has("rope_parameters") {
			s = f.Under("rope_parameters")
		}
		m := yarnScale(s, "mscale_all_dim", 0)
		c.Scale = slices.Repeat([]float32{float32(m * m / math.Sqrt(float64(c.HeadDim)))}, len(c.MoE))
	}
	c.Predictors = f.IntOr("num_nextn_predict_layers", 0)
	if c.Predictors < 0 || c.Predictors > model.MaxLayers {
		return c, fmt.Errorf("%w: %s: num_nextn_predict_layers is %d", model.ErrConfig, f.Source, c.Predictors)
	}
	return c, deepSeekExperts(f, c.MoE, defaults)
}

// deepSeekGate is what stands in a config for how experts are chosen, where it says nothing else.
type deepSeekGate struct {
	topK, score string
	renormalise bool
}

// deepSeekExperts puts experts into the layers that have them.
func deepSeekExperts(f model.Facts, layers []model.MoE, defaults deepSeekGate) error {
	experts, dense, every := f.IntOr("n_routed_experts", 0), f.IntOr("first_k_dense_replace", 0), f.IntOr("moe_layer_freq", 1)
	if experts == 0 {
		return f.Err()
	}
	if every < 1 && f.Err() == nil {
		return fmt.Errorf("%w: %s: moe_layer_freq is %d; it is 1 or more, and 1 puts experts into every layer", model.ErrConfig, f.Source, every)
	}
	g := kernels.Gate{Experts: experts, K: f.Int("num_experts_per_tok"), Scale: float32(f.FloatOr("routed_scaling_factor", 1))}
	g.Renormalise = f.BoolOr("norm_topk_prob", defaults.renormalise) && g.K > 1
	groups, top := f.IntOr("n_group", 1), f.IntOr("topk_group", 1)
	switch how := [2]string{f.StringOr("scoring_func", defaults.score), f.StringOr("topk_method", defaults.topK)}; how {
	case [2]string{"softmax", "greedy"}, [2]string{"softmax", "group_limited_greedy"}:
		if g.Renormalise {
			g.Scale = 1 // weights are renormalised or scaled
		}
		if how[1] == "group_limited_greedy" {
			g.Groups, g.TopGroups, g.GroupBest = groups, top, 1
		}
	case [2]string{"sigmoid", "noaux_tc"}:
		g.Score, g.Groups, g.TopGroups, g.GroupBest = kernels.Sigmoid, groups, top, 2
	default:
		return fmt.Errorf("%w: %s: scoring_func %q with topk_method %q is not supported; softmax with greedy or group_limited_greedy, and sigmoid with noaux_tc are",
			model.ErrConfig, f.Source, how[0], how[1])
	}
	m := model.MoE{FFN: f.Int("moe_intermediate_size"), Gate: g, Biased: g.Score == kernels.Sigmoid}
	m.Shared = f.IntOr("n_shared_experts", 0) * m.FFN
	for layer := range layers {
		if layer >= dense && layer%every == 0 {
			layers[layer] = m
		}
	}
	return f.Err()
}

// deepSeekNames are those of latent attention, and of experts.
func deepSeekNames() model.Names {
	names := expertNames()
	for canonical, name := range map[string]string{
		"attn.q.down": "self_attn.q_a_proj.weight", "attn.q.norm": "self_attn.q_a_layernorm.weight", "attn.q.up": "self_attn.q_b_proj.weight",
		"attn.kv.down": "self_attn.kv_a_proj_with_mqa.weight", "attn.kv.norm": "self_attn.kv_a_layernorm.weight",
		"attn.kv.up": "self_attn.kv_b_proj.weight", "moe.bias": "mlp.gate.e_score_correction_bias",
		"residual.gate": "mlp.shared_experts.gate_proj.weight", "residual.up": "mlp.shared_experts.up_proj.weight",
		"residual.down": "mlp.shared_experts.down_proj.weight",
	} {
		names[canonical] = "model.layers.{layer}." + name
	}
	return names
}
