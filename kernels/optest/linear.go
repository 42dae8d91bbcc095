package optest

import (
	"cmp"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type linearCase struct {
	rows, in   int
	parts      []int // outputs of each part; of a gated one gate and up
	dtype      kernels.DType
	source     kernels.DType // of the matrices to pack
	group      int
	transposed bool
	bias       bool
	gated      bool
	act        kernels.Activation
	add        bool
	f32        bool // y is float32 whatever the activations are
	limit      float64
	large      float64 // deviation of the sums; 0: 1
}

// out is the number of columns of the result.
func (c linearCase) out() (n int) {
	for _, p := range c.parts {
		n += p
	}
	if c.gated {
		n /= 2
	}
	return n
}

func (c linearCase) epilogue() kernels.Epilogue {
	return kernels.Epilogue{Act: c.act, Add: c.add, Limit: float32(c.limit)}
}

// possible tells whether there are such weights: mxfp4 has its inputs in groups.
func (c linearCase) possible() bool {
	return c.dtype != kernels.MXFP4 || c.in%kernels.MXFP4Inputs == 0 && !c.transposed
}

func testLinear(k *kit) {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8, kernels.MXFP4} {
		for _, c := range []linearCase{
			{rows: 0, in: 8, parts: []int{8}},
			{rows: 1, in: 1, parts: []int{1}, bias: true},
			{rows: 3, in: 17, parts: []int{3}, bias: true, act: kernels.GELUTanh},
			{rows: 17, in: 3, parts: []int{17}, act: kernels.ReLU},
			{rows: 5, in: 63, parts: []int{65}, bias: true, act: kernels.GELUErf},
			{rows: 1, in: 256, parts: []int{129}, act: kernels.SiLU},
			{rows: 2, in: 129, parts: []int{31}, add: true},
			{rows: 7, in: 96, parts: []int{16, 8, 8}, bias: true},
			{rows: 7, in: 100, parts: []int{5, 33}, bias: true, transposed: true},
			{rows: 12, in: 64, parts: []int{48, 48}, gated: true, act: kernels.SiLU},
			{rows: 3, in: 33, parts: []int{17, 17}, gated: true, act: kernels.GELUTanh, bias: true, add: true},
			{rows: 4, in: 40, parts: []int{9, 9}, gated: true, act: kernels.Identity, transposed: true},
			{rows: 5, in: 64, parts: []int{40, 40}, gated: true, act: kernels.ClampedSwiGLU, limit: 7, bias: true, large: 6},
			{rows: 70, in: 33, parts: []int{17, 17}, gated: true, act: kernels.ClampedSwiGLU, limit: 1.5, add: true, f32: true},
			{rows: 129, in: 300, parts: []int{130}, bias: true},
			{rows: 33, in: 513, parts: []int{200}, bias: true, f32: true},
			{rows: 257, in: 64, parts: []int{64}, add: true, f32: true},
			{rows: 1, in: 2048, parts: []int{256}},
		} {
			c.dtype, c.source = d, d
			if d == kernels.I8 {
				c.source = kernels.F32
			}
			if !c.possible() {
				continue
			}
			k.linear(c)
			if c.in > 1 && c.source != kernels.F32 && c.source != kernels.MXFP4 { // a checkpoint in float32, packed narrower
				c.source = kernels.F32
				k.linear(c)
			}
			if d == kernels.F32 { // and one in bfloat16, packed wider
				c.source = kernels.BF16
				k.linear(c)
			}
			if d == kernels.I8 && c.in%32 == 0 {
				c.group = 32
				k.linear(c)
			}
		}
		k.aligned = true // what libraries and copy engines take
		for _, c := range []linearCase{
			{rows: 1, in: 256, parts: []int{64}},
			{rows: 7, in: 64, parts: []int{16, 8, 8}, f32: true},
			{rows: 70, in: 520, parts: []int{200}},
			{rows: 130, in: 136, parts: []int{8}, transposed: true},
			{rows: 33, in: 256, parts: []int{72}, add: true},
			{rows: 40, in: 128, parts: []int{24, 40}, bias: true, act: kernels.ReLU},
			{rows: 300, in: 96, parts: []int{136}, act: kernels.SiLU},
		} {
			c.dtype, c.source = d, kernels.F32
			if d == kernels.MXFP4 {
				c.source = d
			}
			if c.possible() {
				k.linear(c)
			}
		}
		k.aligned = false
	}
}

// linear runs one case of Linear.
func (k *kit) linear(c linearCase) {
	k.Helper()
	act := k.dev.Activations(c.dtype)
	w, m := k.pack(c, 1)
	yType := act
	if c.f32 {
		yType = kernels.F32
	}
	x, old := k.normal(c.rows*c.in, 1), k.normal(c.rows*c.out(), 1)
	xb, y := k.floats(act, c.rows, c.in, x), k.output(yType, c.rows, c.out())
	if c.add {
		y = k.floats(yType, c.rows, c.out(), old)
	}
	k.stream.Linear(y.Tensor, xb.Tensor, w, c.epilogue())
	want, bound := make([]float64, len(old)), make([]float64, len(old))
	tol := max(k.tol.of(c.dtype), k.tol.of(act))
	for i := range c.rows {
		from, to := i*c.out(), (i+1)*c.out()
		m[0].apply(want[from:to], bound[from:to], x[i*c.in:(i+1)*c.in], c, tol)
		for j := from; c.add && j < to; j++ {
			want[j] += old[j]
			bound[j] += tol * math.Abs(old[j])
		}
	}
	k.near(fmt.Sprintf("linear %+v", c), k.values(y), want, bound)
	w.Free()
	k.release()
}

// dense is a matrix [out of all parts, in] with its bias, as the weights' type holds it.
type dense struct {
	w    []float64
	bias []float64
	in   int
}

// pack makes random weights of experts matrices and packs them.
func (k *kit) pack(c linearCase, experts int) (kernels.Weights, []dense) {
	k.Helper()
	spec := kernels.WeightSpec{DType: c.dtype, Group: c.group, Gated: c.gated}
	matrices := make([]dense, experts)
	for e := range matrices {
		d := dense{in: c.in}
		l := kernels.Linear{Transposed: c.transposed}
		for _, out := range c.parts {
			part := k.normal(out*c.in, cmp.Or(c.large, 1)/math.Sqrt(float64(c.in)))
			for i, v := range part {
				part[i] = roundTo(c.source, v)
			}
			m := kernels.Matrix{DType: c.source, Rows: out, Cols: c.in, Data: encode(c.source, part)}
			if c.source == kernels.MXFP4 {
				m, part = k.mxfp4(out, c.in)
			}
			if c.transposed {
				m = kernels.Matrix{DType: c.source, Rows: c.in, Cols: out, Data: encode(c.source, transpose(part, out, c.in))}
			}
			l.Parts = append(l.Parts, m)
			d.w = append(d.w, part...)
			bias := make([]float64, out)
			if c.bias {
				bias = k.normal(out, 1)
				its := c.source
				if its == kernels.MXFP4 {
					its = kernels.BF16
				}
				for i, v := range bias {
					bias[i] = roundTo(its, v)
				}
				l.Bias = append(l.Bias, kernels.Matrix{DType: its, Rows: 1, Cols: out, Data: encode(its, bias)})
			}
			d.bias = append(d.bias, bias...)
		}
		if c.dtype == kernels.I8 {
			quantise(d.w, c.in, c.group)
		} else if c.dtype != kernels.MXFP4 {
			for i, v := range d.w {
				d.w[i] = roundTo(c.dtype, v)
			}
		}
		spec.Experts = append(spec.Experts, l)
		matrices[e] = d
	}
	w, err := k.dev.Pack("optest", spec)
	if err != nil {
		k.Fatalf("pack %+v: %v", c, err)
	}
	if w.Experts() != experts || w.Out() != c.out() || w.In() != c.in || w.DType() != c.dtype {
		k.Fatalf("pack %+v: %d experts of %v [%d, %d]", c, w.Experts(), w.DType(), w.Out(), w.In())
	}
	return w, matrices
}

func transpose(x []float64, rows, cols int) []float64 {
	y := make([]float64, len(x))
	for r := range rows {
		for c := range cols {
			y[c*rows+r] = x[r*cols+c]
		}
	}
	return y
}

// quantise replaces each group of inputs by whole multiples, at most 127, of its largest magnitude over 127.
func quantise(w []float64, in, group int) {
	if group == 0 {
		group = in
	}
	for at := 0; at < len(w); at += group {
		part := w[at : at+group]
		scale := largestOf(part...) / 127
		for i, v := range part {
			if scale > 0 {
				part[i] = math.RoundToEven(v/scale) * scale
			}
		}
	}
}

// apply computes a row of the result, before Add, and what it may be off by.
func (d dense) apply(y, bound, x []float64, c linearCase, tol float64) {
	sum := func(o int) (s, scale float64) {
		s, scale = d.bias[o], math.Abs(d.bias[o])
		for i, v := range x {
			s += v * d.w[o*d.in+i]
			scale += math.Abs(v * d.w[o*d.in+i])
		}
		return s, tol * scale
	}
	const steepest = 1.13 // of all activations
	for o := range y {
		s, e := sum(o)
		y[o] = activate(c.act, s)
		bound[o] = steepest*e + tol*math.Abs(y[o])
		switch {
		case c.act == kernels.ClampedSwiGLU:
			up, eUp := sum(o + len(y))
			g, u := min(s, c.limit), max(min(up, c.limit), -c.limit)
			gate := g / (1 + math.Exp(-1.702*g))
			y[o] = gate * (u + 1)
			bound[o] = (steepest*e+tol*math.Abs(gate))*(math.Abs(u+1)+eUp) + math.Abs(gate)*(eUp+tol*math.Abs(u+1)) + tol*math.Abs(y[o])
		case c.gated:
			up, eUp := sum(o + len(y))
			bound[o] = bound[o]*(math.Abs(up)+eUp) + math.Abs(y[o])*eUp + tol*math.Abs(y[o]*up)
			y[o] *= up
		}
		bound[o] += 1e-30
	}
}

func activate(a kernels.Activation, x float64) float64 {
	switch a {
	case kernels.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case kernels.GELUErf:
		return 0.5 * x * math.Erfc(-x/math.Sqrt2)
	case kernels.SiLU:
		return x / (1 + math.Exp(-x))
	case kernels.ReLU:
		return max(x, 0)
	}
	return x
}

type groupedCase struct {
	linearCase
	slots []int // of each expert
	index bool  // rows of x are taken by index
	div   int
}

func testGrouped(k *kit) {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8, kernels.MXFP4} {
		for _, c := range []groupedCase{
			{slots: []int{0, 0, 0}, linearCase: linearCase{in: 8, parts: []int{8}}},
			{slots: []int{1}, linearCase: linearCase{in: 17, parts: []int{3}, bias: true}},
			{slots: []int{0, 13, 0, 0}, linearCase: linearCase{in: 33, parts: []int{20, 20}, gated: true, act: kernels.SiLU}},
			{slots: []int{3, 0, 1, 17, 2, 0}, index: true, div: 2, linearCase: linearCase{in: 64, parts: []int{48, 48}, gated: true, act: kernels.SiLU}},
			{slots: []int{3, 0, 1, 17, 2, 0}, linearCase: linearCase{in: 63, parts: []int{33}, bias: true, act: kernels.GELUTanh}},
			{slots: []int{63, 1, 129}, index: true, div: 1, linearCase: linearCase{in: 100, parts: []int{65}, bias: true}},
			{slots: []int{5, 6, 0, 7}, linearCase: linearCase{in: 96, parts: []int{64}, add: true, f32: true}},
			{slots: []int{1, 1, 1, 1, 1, 1, 1, 1}, index: true, div: 8, linearCase: linearCase{in: 256, parts: []int{96, 96}, gated: true, act: kernels.SiLU, bias: true}},
			{slots: []int{3, 0, 1, 70, 2, 0}, index: true, div: 2,
				linearCase: linearCase{in: 64, parts: []int{48, 48}, gated: true, act: kernels.ClampedSwiGLU, limit: 7, bias: true, large: 6}},
			{slots: []int{200, 1, 150}, index: true, div: 4,
				linearCase: linearCase{in: 96, parts: []int{72, 72}, gated: true, act: kernels.ClampedSwiGLU, limit: 7, bias: true}},
			{slots: []int{2, 3}, linearCase: linearCase{in: 40, parts: []int{24}, transposed: true}},
		} {
			c.dtype, c.source = d, d
			if d == kernels.I8 {
				c.source = kernels.BF16
			}
			if !c.possible() {
				continue
			}
			k.grouped(c)
			if d == kernels.I8 && c.in%32 == 0 {
				c.group = 32
				k.grouped(c)
			}
		}
	}
}

func (k *kit) grouped(c groupedCase) {
	k.Helper()
	act := k.dev.Activations(c.dtype)
	w, m := k.pack(c.linearCase, len(c.slots))
	offsets := []int32{0}
	for _, n := range c.slots {
		offsets = append(offsets, offsets[len(offsets)-1]+int32(n))
	}
	slots := int(offsets[len(c.slots)])
	const spare = 2 // rows of y beyond the slots, which stay as they are
	div, tokens := max(1, c.div), slots
	var index []int32
	var indexT kernels.Tensor
	if c.index {
		tokens = slots/div + 1
		index = append(k.indices(slots, tokens*div), -1, -1)
		indexT = k.vector(index).Tensor
	}
	yType := act
	if c.f32 {
		yType = kernels.F32
	}
	x, old := k.normal(tokens*c.in, 1), k.normal((slots+spare)*c.out(), 1)
	xb, y := k.floats(act, tokens, c.in, x), k.floats(yType, slots+spare, c.out(), old)
	k.stream.Grouped(y.Tensor, xb.Tensor, w, k.vector(offsets).Tensor, indexT, c.div, c.epilogue())
	want, bound := append([]float64(nil), old...), make([]float64, len(old))
	tol := max(k.tol.of(c.dtype), k.tol.of(act))
	for e := range c.slots {
		for i := int(offsets[e]); i < int(offsets[e+1]); i++ {
			row := i
			if c.index {
				row = int(index[i]) / div
			}
			from, to := i*c.out(), (i+1)*c.out()
			m[e].apply(want[from:to], bound[from:to], x[row*c.in:(row+1)*c.in], c.linearCase, tol)
			for j := from; c.add && j < to; j++ {
				want[j] += old[j]
				bound[j] += tol * math.Abs(old[j])
			}
		}
	}
	k.near(fmt.Sprintf("grouped %+v", c), k.values(y), want, bound)
	w.Free()
	k.release()
}
