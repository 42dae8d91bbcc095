package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// combineArgs is one checked Combine.
type combineArgs struct {
	y, out, weight matrix[float32]
	place          []int32
	k              int
}

// Combine: y[t] = Σ_c weight[t, c]·out[place[t, c]], c ascending.
func (s *Stream) Combine(y, out kernels.Tensor, r kernels.Routing) {
	const op = "combine"
	if s.note(rules.Combine(y, out, r)); s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	a := &combineArgs{
		y: view[float32](y), out: view[float32](out), weight: view[float32](r.Weight),
		place: vector[int32](r.Place)[:y.Rows*r.K], k: r.K,
	}
	for i, at := range a.place {
		if at < -1 || int(at) >= out.Rows {
			s.fail("%s: choice %d of token %d lies at slot %d of %d", op, i%r.K, i/r.K, at, out.Rows)
			return
		}
	}
	s.rows(y.Rows, float64(4*y.Cols*(r.K+1))*byteTime, func(from, to int) { s.dev.kernels.combine(a, from, to) })
}

// combineRows is the reference.
func combineRows(a *combineArgs, from, to int) {
	for t := from; t < to; t++ {
		y := a.y.row(t)
		clear(y)
		for c, w := range a.weight.row(t) {
			at := a.place[t*a.k+c]
			if at < 0 {
				continue
			}
			x := a.out.row(int(at))[:len(y)]
			for j := range y {
				y[j] += w * x[j]
			}
		}
	}
}

// mixArgs is one checked Mix.
type mixArgs struct {
	y, moe, mlp, coef matrix[float32]
}

// Mix: y[t] = moe[t]·c₀ + mlp[t]·c₁, c = softmax(coef[t]), or (1, sigmoid(coef[t])) where there is one coefficient.
func (s *Stream) Mix(y, moe, mlp, coef kernels.Tensor) {
	if s.note(rules.Mix(y, moe, mlp, coef)); s.err != nil || y.Cols == 0 {
		return
	}
	a := &mixArgs{view[float32](y), view[float32](moe), view[float32](mlp), view[float32](coef)}
	s.rows(y.Rows, float64(12*y.Cols)*byteTime, func(from, to int) { s.dev.kernels.mix(a, from, to) })
}

// mixRows is the reference.
func mixRows(a *mixArgs, from, to int) {
	for t := from; t < to; t++ {
		c0, c1 := coefficients(a.coef.row(t))
		y, moe, mlp := a.y.row(t), a.moe.row(t), a.mlp.row(t)
		for j := range y {
			y[j] = moe[j]*c0 + mlp[j]*c1
		}
	}
}

// coefficients are the softmax of two logits; of one: 1 and its sigmoid.
func coefficients(x []float32) (c0, c1 float32) {
	if len(x) == 1 {
		return 1, float32(1 / (1 + math.Exp(-float64(x[0]))))
	}
	e := math.Exp(-math.Abs(float64(x[1]) - float64(x[0])))
	big, small := float32(1/(1+e)), float32(e/(1+e))
	if x[1] > x[0] {
		return small, big
	}
	return big, small
}
