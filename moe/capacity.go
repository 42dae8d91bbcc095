package moe

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// Capacity limits how many tokens of a step an expert takes, as DeepSpeed does when drop_tokens is on. A row's result
// then depends on its neighbours, so it is off unless asked for.
type Capacity struct {
	Factor float64 // eval_capacity_factor
	Min    int     // min_capacity
	Policy kernels.DropPolicy
}

// Limit is the most slots of an expert: max(⌈tokens/experts · factor·k⌉, min), in float32 as DeepSpeed counts it
// (float64 gives other results: 25 tokens, 2 experts, factor 1.2 make 16, not 15).
func (c Capacity) Limit(tokens, experts, k int) int {
	each := float32(tokens) / float32(experts)
	return max(int(math.Ceil(float64(each*float32(c.Factor*float64(k))))), c.Min)
}

// limit follows DeepSpeed's gates: with two choices all first ones are served before any second, with another number
// token order or probability decides. (Its top-2 knows no policy; by probability is then ours.) What stays is
// renormalised where the model's gate renormalises, which DeepSpeed's do from two choices on, and scaled again as the gate
// scales.
func (c Capacity) limit(tokens int, g kernels.Gate) kernels.Capacity {
	return kernels.Capacity{
		C:                c.Limit(tokens, g.Experts, g.K),
		Policy:           c.Policy,
		SecondAfterFirst: g.K == 2,
		Renormalise:      g.Renormalise,
		Scale:            g.Scale,
	}
}
