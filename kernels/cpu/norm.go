package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// normArgs is one checked Norm.
type normArgs struct {
	y, x, delta  matrix[float32] // delta is empty where there is none
	weight, bias []float32       // bias is nil where there is none
	eps          float32
	groups       int
	rms          bool
}

// Norm: x += delta, then y = norm(x)·weight + bias.
func (s *Stream) Norm(y, x, delta kernels.Tensor, n kernels.Norm) {
	if s.note(rules.Norm(y, x, delta, n)); s.err != nil || x.Cols == 0 {
		return
	}
	a := normOf(y, x, delta, n)
	s.rows(x.Rows, float64(16*x.Cols)*byteTime, func(from, to int) { s.dev.kernels.norm(a, from, to) })
}

// normOf is a checked Norm's.
func normOf(y, x, delta kernels.Tensor, n kernels.Norm) *normArgs {
	return &normArgs{
		y: view[float32](y), x: view[float32](x), delta: view[float32](delta),
		weight: vector[float32](n.Weight), bias: vector[float32](n.Bias),
		eps: n.Eps, groups: max(1, n.Groups), rms: n.Kind == kernels.RMSNorm,
	}
}

// normRows is the reference: sums in float64, columns ascending.
func normRows(a *normArgs, from, to int) {
	for i := from; i < to; i++ {
		x, y := a.x.row(i), a.y.row(i)
		if a.delta.data != nil {
			add(x, a.delta.row(i))
		}
		n := len(x) / a.groups
		for g := 0; g < len(x); g += n {
			normGroup(y[g:g+n], x[g:g+n], a)
		}
	}
}

func normGroup(y, x []float32, a *normArgs) {
	var mean, square float64
	if !a.rms {
		for _, v := range x {
			mean += float64(v)
		}
		mean /= float64(len(x))
	}
	for _, v := range x {
		d := float64(v) - mean
		square += d * d
	}
	scale := float32(1 / math.Sqrt(square/float64(len(x))+float64(a.eps)))
	for j, v := range x {
		y[j] = (v - float32(mean)) * scale * a.weight[j]
		if a.bias != nil {
			y[j] += a.bias[j]
		}
	}
}
