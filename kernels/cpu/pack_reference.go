package cpu

import (
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// referenceWeights are matrices as the reference reads them: row major, all experts stacked. One of the first four is set.
type referenceWeights struct {
	f32   []float32
	half  []uint16 // BF16 or F16
	int8  []int8
	fp4   []kernels.Matrix // MXFP4, a row each
	scale []float32        // I8: [experts·rows, groups]
}

func (r *referenceWeights) bytes() int64 {
	return 4*int64(len(r.f32)+len(r.scale)) + 2*int64(len(r.half)) + int64(len(r.int8)) + r.fp4Bytes()
}

func (r *referenceWeights) fp4Bytes() (n int64) {
	for _, m := range r.fp4 {
		n += int64(len(m.Data) + len(m.Scales))
	}
	return n
}

// packReference copies the parts of s row by row.
func packReference(p *pool, s kernels.WeightSpec, w *weights) *referenceWeights {
	n := w.experts * w.rows * w.in
	r := &referenceWeights{}
	switch w.dtype {
	case kernels.F32:
		r.f32 = make([]float32, n)
	case kernels.I8:
		r.int8, r.scale = make([]int8, n), make([]float32, w.experts*w.rows*w.groups())
	case kernels.MXFP4:
		r.fp4 = make([]kernels.Matrix, w.experts*w.rows)
	default:
		r.half = make([]uint16, n)
	}
	p.run(w.experts*w.rows, func(i int) {
		l, row := s.Experts[i/w.rows], i%w.rows
		part := 0
		for row >= l.Outputs(part) {
			row -= l.Outputs(part)
			part++
		}
		if m := l.Parts[part]; w.dtype == kernels.MXFP4 {
			const two, group = 2, kernels.MXFP4Inputs
			r.fp4[i] = kernels.Matrix{DType: w.dtype, Rows: 1, Cols: w.in, Data: slices.Clone(m.Data[row*w.in/two : (row+1)*w.in/two]),
				Scales: slices.Clone(m.Scales[row*w.in/group : (row+1)*w.in/group])}
			return
		}
		values := make([]float32, w.in)
		for k := range values {
			at := row*w.in + k
			if l.Transposed {
				at = k*l.Outputs(part) + row
			}
			values[k] = matrixValue(l.Parts[part], at)
		}
		r.set(w, i, values)
	})
	return r
}

// set stores row i of the stacked matrices.
func (r *referenceWeights) set(w *weights, i int, values []float32) {
	from, to := i*w.in, (i+1)*w.in
	switch w.dtype {
	case kernels.F32:
		copy(r.f32[from:to], values)
	case kernels.BF16:
		for k, v := range values {
			r.half[from+k] = toBF16(v)
		}
	case kernels.F16:
		for k, v := range values {
			r.half[from+k] = toF16(v)
		}
	case kernels.I8:
		for g := range w.groups() {
			r.scale[i*w.groups()+g] = quantize(r.int8[from+g*w.group:from+(g+1)*w.group], values[g*w.group:(g+1)*w.group])
		}
	}
}

// row widens row i of the stacked matrices into values.
func (r *referenceWeights) row(w *weights, i int, values []float32) {
	if w.dtype == kernels.MXFP4 {
		wide := r.fp4[i].Widened()
		for k := range values {
			values[k] = matrixValue(wide, k)
		}
		return
	}
	for k := range values {
		at := i*w.in + k
		switch w.dtype {
		case kernels.F32:
			values[k] = r.f32[at]
		case kernels.BF16:
			values[k] = fromBF16(r.half[at])
		case kernels.F16:
			values[k] = fromF16(r.half[at])
		case kernels.I8:
			values[k] = float32(r.int8[at])
		}
	}
}

// quantize sets q to values in steps of the scale that it returns: their largest magnitude is 127 steps. Rounds to
// nearest, ties to even. Magnitudes too small for that become 0, scale and all; values that hold an infinity or a
// NaN become 0 with the scale NaN, so that what is computed from them is seen to be spoilt.
func quantize(q []int8, values []float32) (scale float32) {
	var most uint32 // magnitudes compare as their bits do, NaN above infinity
	for _, v := range values {
		most = max(most, math.Float32bits(v)&^(1<<31))
	}
	magnitude := math.Float32frombits(most)
	var inverse float32
	switch {
	case most >= 0x7f800000:
		scale = float32(math.NaN())
	case magnitude >= smallestScaled:
		scale, inverse = magnitude/127, 127/magnitude
	}
	for k, v := range values {
		if inverse == 0 {
			q[k] = 0
			continue
		}
		q[k] = int8(math.RoundToEven(float64(v * inverse)))
	}
	return scale
}

// smallestScaled is the least magnitude that quantize tells from 0: 127 over it is still finite.
const smallestScaled = 1e-30
