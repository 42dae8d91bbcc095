package cpu

import (
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// gateArgs is one checked Gate.
type gateArgs struct {
	logits      matrix[float32]
	expert      matrix[int32]
	weight      matrix[float32]
	sigmoid     bool
	renormalise bool
	scale       float32

	limited                      bool      // what follows counts
	bias                         []float32 // nil: none
	groups, topGroups, groupBest int
}

// Gate chooses the K experts of the largest logits, ties to the lower index, a NaN below everything.
func (s *Stream) Gate(r kernels.Routing, logits kernels.Tensor, g kernels.Gate) {
	if s.note(rules.Gate(r, logits, g)); s.err != nil {
		return
	}
	a := &gateArgs{
		logits: view[float32](logits), expert: view[int32](r.Expert), weight: view[float32](r.Weight),
		sigmoid: g.Score == kernels.Sigmoid, renormalise: g.Renormalise, scale: g.Scale,
	}
	if g.Scale == 0 {
		a.scale = 1
	}
	if a.limited = g.Limited(); a.limited {
		a.groups, a.topGroups, a.groupBest = max(g.Groups, 1), g.TopGroups, g.GroupBest
		if !g.Bias.None() {
			a.bias = vector[float32](g.Bias)
		}
	}
	s.rows(logits.Rows, float64(g.Experts*(1+g.K))/2, func(from, to int) { s.dev.kernels.gate(a, from, to) })
}

// gateRows is the reference: K passes over the logits.
func gateRows(a *gateArgs, from, to int) {
	for t := from; t < to; t++ {
		logits, expert, weight := a.logits.row(t), a.expert.row(t), a.weight.row(t)
		by, excluded := logits, []int32(nil)
		if a.limited {
			by, excluded = a.choose(logits)
		}
		for k := range expert {
			expert[k] = int32(largest(by, expert[:k], excluded))
			weight[k] = logits[expert[k]]
		}
		if a.sigmoid {
			for k, x := range weight {
				weight[k] = sigmoid(x)
			}
		} else {
			softmaxOf(weight, logits)
		}
		if a.renormalise {
			scaleToOne(weight)
		}
		for k := range weight {
			weight[k] *= a.scale
		}
	}
}

func sigmoid(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) }

// choose is what the experts of a limited gate are chosen by, and those that are not looked at.
func (a *gateArgs) choose(logits []float32) (by []float32, excluded []int32) {
	by = logits
	if a.sigmoid {
		by = make([]float32, len(logits))
		for e, x := range logits {
			by[e] = sigmoid(x)
			if a.bias != nil {
				by[e] += a.bias[e]
			}
		}
	}
	if a.groups == 1 {
		return by, nil
	}
	each := len(by) / a.groups
	sums, chosen := make([]float32, a.groups), []int32(nil)
	for g := range sums {
		group := by[g*each : (g+1)*each]
		first := largest(group, nil, nil)
		if sums[g] = group[first]; a.groupBest == 2 {
			sums[g] += group[largest(group, []int32{int32(first)}, nil)]
		}
	}
	for range a.topGroups {
		chosen = append(chosen, int32(largest(sums, chosen, nil)))
	}
	for e := range by {
		if !slices.Contains(chosen, int32(e/each)) {
			excluded = append(excluded, int32(e))
		}
	}
	return by, excluded
}

// largest is the index of the largest of x that is not among taken or excluded, the lowest of equals.
func largest(x []float32, taken, excluded []int32) int {
	best := -1
	for i, v := range x {
		if slices.Contains(taken, int32(i)) || slices.Contains(excluded, int32(i)) {
			continue
		}
		if best < 0 || v > x[best] || x[best] != x[best] && v == v {
			best = i
		}
	}
	return best
}

// softmaxOf turns some of the logits, chosen, into their probabilities among all.
func softmaxOf(chosen, logits []float32) {
	top := chosen[0] // the largest comes first, in the best of groups too
	var sum float64
	for _, x := range logits {
		sum += math.Exp(float64(x - top))
	}
	for k, x := range chosen {
		chosen[k] = float32(math.Exp(float64(x-top)) / sum)
	}
}

// leastSum bounds the divisor of renormalised weights, as DeepSpeed does: the distance from 1 to the next float32.
const leastSum = 0x1p-23

// scaleToOne divides weights by their sum, in order.
func scaleToOne(weight []float32) {
	var sum float32
	for _, w := range weight {
		sum += w
	}
	sum = max(sum, leastSum)
	for k := range weight {
		weight[k] /= sum
	}
}
