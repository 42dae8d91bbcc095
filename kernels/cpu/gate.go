package cpu

import (
	"math"

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
	s.rows(logits.Rows, float64(g.Experts*(1+g.K))/2, func(from, to int) { s.dev.kernels.gate(a, from, to) })
}

// gateRows is the reference: K passes over the logits.
func gateRows(a *gateArgs, from, to int) {
	for t := from; t < to; t++ {
		logits, expert, weight := a.logits.row(t), a.expert.row(t), a.weight.row(t)
		for k := range expert {
			expert[k] = int32(largest(logits, expert[:k]))
			weight[k] = logits[expert[k]]
		}
		if a.sigmoid {
			for k, x := range weight {
				weight[k] = float32(1 / (1 + math.Exp(-float64(x))))
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

// largest is the index of the largest of x that is not among taken, the lowest of equals.
func largest(x []float32, taken []int32) int {
	best := -1
next:
	for i, v := range x {
		for _, t := range taken {
			if int(t) == i {
				continue next
			}
		}
		if best < 0 || v > x[best] || x[best] != x[best] && v == v {
			best = i
		}
	}
	return best
}

// softmaxOf turns some of the logits, chosen, into their probabilities among all.
func softmaxOf(chosen, logits []float32) {
	top := chosen[0] // the largest comes first
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
