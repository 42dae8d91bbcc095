package optest

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type normCase struct {
	rows, cols, groups int
	kind               kernels.NormKind
	bias, delta, same  bool    // same: y is x
	mean, deviation    float64 // of x
}

func testNorm(k *kit) {
	for _, act := range k.activations() {
		for _, kind := range []kernels.NormKind{kernels.LayerNorm, kernels.RMSNorm} {
			for _, c := range []normCase{
				{rows: 0, cols: 8, deviation: 1},
				{rows: 1, cols: 1, deviation: 1, bias: true},
				{rows: 3, cols: 3, deviation: 1, bias: true, delta: true},
				{rows: 17, cols: 17, deviation: 1, same: true},
				{rows: 5, cols: 63, deviation: 1e-3, bias: true},
				{rows: 3, cols: 64, deviation: 100, delta: true},
				{rows: 3, cols: 129, deviation: 1, mean: 3, bias: true, delta: true},
				{rows: 4, cols: 768, deviation: 1, mean: -1, bias: true},
				{rows: 2, cols: 4096 + 5, deviation: 1, delta: true},
				{rows: 3, cols: 60, groups: 5, deviation: 1},
				{rows: 9, cols: 384, groups: 3, deviation: 1, delta: true},
				{rows: 3, cols: 192, groups: 3, deviation: 1, bias: true, same: true},
				{rows: 70, cols: 1030, deviation: 1, bias: true, delta: true},
			} {
				c.kind = kind
				k.norm(act, c)
			}
		}
	}
}

func (k *kit) norm(act kernels.DType, c normCase) {
	n, part := c.rows*c.cols, c.cols/max(1, c.groups)
	x := k.normal(n, c.deviation)
	for i := range x {
		x[i] += c.mean
	}
	weight, bias, delta := k.normal(part, 1), make([]float64, part), make([]float64, n)
	xb, y := k.floats(act, c.rows, c.cols, x), k.output(act, c.rows, c.cols)
	spec := kernels.Norm{Kind: c.kind, Eps: 1e-5, Groups: c.groups, Weight: k.floats(kernels.F32, 1, part, weight).Tensor}
	var d kernels.Tensor
	if c.bias {
		bias = k.normal(part, 1)
		spec.Bias = k.floats(kernels.F32, 1, part, bias).Tensor
	}
	if c.delta {
		delta = k.normal(n, c.deviation)
		d = k.floats(act, c.rows, c.cols, delta).Tensor
	}
	if c.same {
		y = xb
	}
	k.stream.Norm(y.Tensor, xb.Tensor, d, spec)
	sum := make([]float64, n)
	for i := range sum {
		sum[i] = roundTo(act, x[i]+delta[i])
	}
	want, bound := make([]float64, n), make([]float64, n)
	for at := 0; at < n; at += part {
		normByDefinition(want[at:at+part], bound[at:at+part], sum[at:at+part], weight, bias, float64(spec.Eps), c.kind)
	}
	for i := range bound {
		bound[i] *= 4 * k.tol.of(act)
	}
	what := fmt.Sprintf("norm %v %+v", act, c)
	if !c.same {
		k.nearBy(what+": x", k.values(xb), sum, 0)
	}
	k.near(what, k.values(y), want, bound)
	k.release()
}

// normByDefinition also gives the scale of each result's error: the magnitudes that meet in it.
func normByDefinition(y, scale, x, weight, bias []float64, eps float64, kind kernels.NormKind) {
	var mean, variance float64
	for _, v := range x {
		mean += v / float64(len(x))
	}
	if kind == kernels.RMSNorm {
		mean = 0
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	for i, v := range x {
		r := 1 / math.Sqrt(variance+eps)
		y[i] = (v-mean)*r*weight[i] + bias[i]
		scale[i] = (math.Abs(v)+math.Abs(mean))*r*math.Abs(weight[i]) + math.Abs(bias[i])
	}
}
