package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// referenceBlock is the number of outputs that the reference computes at once: they share the reads of x.
const referenceBlock = 4

// runReference is the plain meaning of Linear and Grouped, and their whole in a build without cgo. An output is one
// float64 sum, k ascending; int8 weights by an exact integer sum a group, times the scale of the group, groups
// ascending, times the scale of the row of x.
func (g *gemm) runReference(p *pool) {
	w := g.w
	x := g.referenceRows()
	blocks := (w.out + referenceBlock - 1) / referenceBlock
	p.run(w.experts*blocks, func(task int) {
		e, from := task/blocks, task%blocks*referenceBlock
		if g.offsets[e] == g.offsets[e+1] {
			return
		}
		to := min(from+referenceBlock, w.out)
		main := openReferenceRows(w, e*w.rows+from, to-from)
		var up referenceRows
		if w.gated {
			up = openReferenceRows(w, e*w.rows+w.out+from, to-from)
		}
		y := view[float32](g.y)
		for i := int(g.offsets[e]); i < int(g.offsets[e+1]); i++ {
			a := main.times(x[i])
			var b [referenceBlock]float64
			if w.gated {
				b = up.times(x[i])
			}
			for j, out := range y.row(i)[from:to] {
				v := activate(g.e.Act, a[j])
				switch {
				case g.e.Act == kernels.ClampedSwiGLU:
					v = clampedSwiGLU(v, b[j], float64(g.e.Limit))
				case w.gated:
					v *= b[j]
				}
				if g.e.Add {
					v = float64(out + float32(v))
				}
				y.row(i)[from+j] = float32(v)
			}
		}
	})
}

// referenceInput is a row of x as the weights want it: quantised for int8 ones.
type referenceInput struct {
	values []float32
	scale  float64
}

// referenceRows gathers the rows of x, slot by slot.
func (g *gemm) referenceRows() []referenceInput {
	x := view[float32](g.x)
	rows := make([]referenceInput, g.offsets[g.w.experts])
	q := make([]int8, g.w.in)
	for i := range rows {
		rows[i] = referenceInput{values: x.row(g.source(i)), scale: 1}
		if g.w.dtype != kernels.I8 {
			continue
		}
		rows[i].scale = float64(quantize(q, rows[i].values))
		rows[i].values = make([]float32, g.w.in)
		for k, v := range q {
			rows[i].values[k] = float32(v)
		}
	}
	return rows
}

// referenceRows are up to referenceBlock adjacent rows of the stacked matrices; those beyond n repeat the last.
type referenceRows struct {
	values [referenceBlock][]float32
	scale  [referenceBlock][]float32 // I8: a scale for each group
	bias   [referenceBlock]float64
	group  int
}

func openReferenceRows(w *weights, at, n int) referenceRows {
	r := referenceRows{group: w.in}
	if w.dtype == kernels.I8 {
		r.group = w.group
	}
	for j := range r.values {
		row := at + min(j, n-1)
		if w.dtype == kernels.F32 {
			r.values[j] = w.reference.f32[row*w.in : (row+1)*w.in]
		} else {
			r.values[j] = make([]float32, w.in)
			w.reference.row(w, row, r.values[j])
		}
		if w.dtype == kernels.I8 {
			r.scale[j] = w.reference.scale[row*w.groups() : (row+1)*w.groups()]
		}
		if w.bias != nil {
			r.bias[j] = float64(w.bias[row])
		}
	}
	return r
}

// times is x·rowᵀ + bias for each row.
func (r *referenceRows) times(x referenceInput) (sum [referenceBlock]float64) {
	for from := 0; from < len(x.values); from += r.group {
		part := dot4(x.values[from:from+r.group], r.values[0][from:], r.values[1][from:], r.values[2][from:], r.values[3][from:])
		for j := range part {
			if r.scale[j] != nil {
				part[j] *= float64(r.scale[j][from/r.group])
			}
			sum[j] += part[j]
		}
	}
	for j := range sum {
		sum[j] = sum[j]*x.scale + r.bias[j]
	}
	return sum
}

func dot4(x, a, b, c, d []float32) [4]float64 {
	var s0, s1, s2, s3 float64
	n := len(x)
	a, b, c, d = a[:n], b[:n], c[:n], d[:n]
	for k, v := range x {
		s0 += float64(v) * float64(a[k])
		s1 += float64(v) * float64(b[k])
		s2 += float64(v) * float64(c[k])
		s3 += float64(v) * float64(d[k])
	}
	return [4]float64{s0, s1, s2, s3}
}

// clampedSwiGLU is the activation of both halves by its definition. A NaN stays.
func clampedSwiGLU(gate, up, limit float64) float64 {
	g, u := min(gate, limit), max(min(up, limit), -limit)
	return g / (1 + math.Exp(-1.702*g)) * (u + 1)
}

// activate is the activation by its definition.
func activate(a kernels.Activation, v float64) float64 {
	switch a {
	case kernels.GELUTanh:
		return v / (1 + math.Exp(-2*math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))) // 0.5v(1 + tanh …), exact in its tail too
	case kernels.GELUErf:
		return 0.5 * v * math.Erfc(-v/math.Sqrt2)
	case kernels.SiLU:
		return v / (1 + math.Exp(-v))
	case kernels.ReLU:
		if v < 0 {
			return 0
		}
	}
	return v
}
