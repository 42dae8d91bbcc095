package policies

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// gpt-oss (OpenAI's of 20 and 120 billion parameters): every other layer sees a window, a sink a head takes its share of each
// softmax, gates have biases, and experts end their first products in a clamped SwiGLU. Its experts are those that package
// ckpt presents. Golden: gpt_oss.
func gptOSS() model.Policy {
	names := expertNames()
	names["moe.gate"] = "model.layers.{layer}.mlp.router.weight"
	names["attn.sinks"] = "model.layers.{layer}.self_attn.sinks"
	return model.Policy{Architectures: []string{"GptOssForCausalLM"}, Configure: configureGPTOSS, Tensors: llamaNames(names)}
}

func configureGPTOSS(f model.Facts) (model.Config, error) {
	c, err := llamaLike(f, "gpt_oss")
	if err != nil {
		return c, err
	}
	c.Act, c.Limit = kernels.ClampedSwiGLU, float32(f.FloatOr("swiglu_limit", 7))
	c.Sinks, c.Bias = true, model.Bias{QKV: f.BoolOr("attention_bias", true), Out: f.BoolOr("attention_bias", true), MLP: true, Gate: true}
	for layer := range c.MoE {
		c.MoE[layer] = model.MoE{FFN: c.FFN, OutputBias: true, Gate: kernels.Gate{ // softmax over the chosen alone
			Experts: f.Int("num_local_experts"), K: f.Int("num_experts_per_tok"), Renormalise: true}}
	}
	c.Sliding = f.IntOr("sliding_window", 128)
	if c.Slides, err = slidingLayers(f); err != nil {
		return c, err
	}
	for layer := len(c.Slides); layer < len(c.MoE) && !f.Has("layer_types"); layer++ { // every other one, as transformers has it
		c.Slides = append(c.Slides, layer%2 == 0)
	}
	if err = f.Err(); err == nil && !(c.Limit > 0) {
		err = fmt.Errorf("%w: %s: swiglu_limit is %g; it must be above 0", model.ErrConfig, f.Source, c.Limit)
	}
	return c, err
}

// slidingLayers tells of each layer that layer_types names whether it sees a window only.
func slidingLayers(f model.Facts) (slides []bool, err error) {
	for i, kind := range f.Strings("layer_types") {
		if kind != "full_attention" && kind != "sliding_attention" {
			return nil, fmt.Errorf("%w: %s: layer_types calls layer %d %q; full_attention and sliding_attention are supported", model.ErrConfig, f.Source, i, kind)
		}
		slides = append(slides, kind == "sliding_attention")
	}
	return slides, nil
}
