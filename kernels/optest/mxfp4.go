package optest

import (
	"bytes"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// fp4 is the numbers of 4 bits.
var fp4 = [16]float64{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// mxfp4 is a random matrix [out, in] and what it stands for. Scales are about those that make the weights' deviation 1/√in; a few
// are the least and the largest ones that can be packed, a few groups are 0 with a scale that only they may have.
func (k *kit) mxfp4(out, in int) (kernels.Matrix, []float64) {
	m := kernels.Matrix{DType: kernels.MXFP4, Rows: out, Cols: in, Data: make([]byte, out*in/2), Scales: make([]byte, out*in/32)}
	for i := range m.Data {
		m.Data[i] = byte(k.rng.Uint32())
	}
	usual := 126 - int(math.Log2(math.Sqrt(float64(max(in, 1)))))
	for i := range m.Scales {
		m.Scales[i] = byte(usual - 2 + k.rng.IntN(3))
		switch k.rng.IntN(40) {
		case 0:
			m.Scales[i] = 2
		case 1:
			m.Scales[i] = 127
		case 2:
			m.Scales[i] = byte(k.rng.IntN(128))
			for j := range 16 {
				m.Data[16*i+j] &= 0x88
			}
		}
	}
	values := make([]float64, out*in)
	for i := range values {
		values[i] = math.Ldexp(fp4[m.Data[i/2]>>(4*(i%2))&15], int(m.Scales[i/32])-127)
	}
	return m, values
}

// testMXFP4: products by weights as they are stored have the bits of products by the same numbers in bfloat16.
func testMXFP4(k *kit) {
	type many struct {
		groupedCase
		linear int // rows of x; 0: grouped
	}
	cases := []many{
		{linear: 1, groupedCase: groupedCase{linearCase: linearCase{in: 32, parts: []int{1}}}},
		{linear: 70, groupedCase: groupedCase{linearCase: linearCase{in: 2880, parts: []int{65}, bias: true}}},
		{linear: 300, groupedCase: groupedCase{linearCase: linearCase{in: 160, parts: []int{40, 40}, gated: true, act: kernels.SiLU}}},
		{linear: 3, groupedCase: groupedCase{linearCase: linearCase{in: 0, parts: []int{5}, bias: true}}},
		{groupedCase: groupedCase{slots: []int{0, 0, 0}, linearCase: linearCase{in: 64, parts: []int{8}}}},
		{groupedCase: groupedCase{slots: []int{3, 0, 1, 70, 2, 0}, index: true, div: 2, linearCase: linearCase{in: 96, parts: []int{48, 48}, gated: true, act: kernels.ClampedSwiGLU, limit: 7, bias: true}}},
		{groupedCase: groupedCase{slots: []int{700, 0, 41, 130}, index: true, div: 4, linearCase: linearCase{in: 192, parts: []int{360, 360}, gated: true, act: kernels.ClampedSwiGLU, limit: 1.5, bias: true}}},
		{groupedCase: groupedCase{slots: []int{200, 65, 129}, linearCase: linearCase{in: 224, parts: []int{300}, bias: true, f32: true}}},
	}
	for range 12 { // of odd shapes, experts without rows among them
		c := many{linear: k.rng.IntN(2) * k.rng.IntN(200), groupedCase: groupedCase{linearCase: linearCase{in: 32 * (1 + k.rng.IntN(12)), parts: []int{1 + k.rng.IntN(200)}, bias: k.rng.IntN(2) > 0, add: k.rng.IntN(2) > 0}}}
		for range 1 + k.rng.IntN(6) {
			c.slots = append(c.slots, k.rng.IntN(2)*k.rng.IntN(1<<(1+k.rng.IntN(8))))
		}
		if k.rng.IntN(2) > 0 {
			c.parts, c.gated, c.act, c.limit = append(c.parts, c.parts[0]), true, kernels.ClampedSwiGLU, 7
		}
		cases = append(cases, c)
	}
	for i, c := range cases {
		k.aligned = i%2 == 0
		c.dtype, c.source = kernels.MXFP4, kernels.MXFP4
		if c.linear > 0 {
			c.slots = []int{c.linear}
		}
		k.asWidened(c.groupedCase, c.linear > 0)
	}
	k.aligned = false
}

// asWidened runs a case with weights as they are stored and with the same in bfloat16.
func (k *kit) asWidened(c groupedCase, linear bool) {
	k.Helper()
	spec, offsets := kernels.WeightSpec{DType: kernels.MXFP4, Gated: c.gated}, []int32{0}
	wide := kernels.WeightSpec{DType: kernels.BF16, Gated: c.gated}
	for _, n := range c.slots {
		offsets = append(offsets, offsets[len(offsets)-1]+int32(n))
		var stored, widened kernels.Linear
		for _, out := range c.parts {
			m, values := k.mxfp4(out, c.in)
			stored.Parts = append(stored.Parts, m)
			widened.Parts = append(widened.Parts, kernels.Matrix{DType: kernels.BF16, Rows: out, Cols: c.in, Data: encode(kernels.BF16, values)})
			if c.bias {
				bias := k.normal(out, 1)
				for i, v := range bias {
					bias[i] = roundTo(kernels.BF16, v)
				}
				b := kernels.Matrix{DType: kernels.BF16, Rows: 1, Cols: out, Data: encode(kernels.BF16, bias)}
				stored.Bias, widened.Bias = append(stored.Bias, b), append(widened.Bias, b)
			}
		}
		spec.Experts, wide.Experts = append(spec.Experts, stored), append(wide.Experts, widened)
	}
	slots, act := int(offsets[len(c.slots)]), k.dev.Activations(kernels.BF16)
	if got := k.dev.Activations(kernels.MXFP4); got != act {
		k.Fatalf("activations of %v with weights of mxfp4, %v with bf16", got, act)
	}
	div, tokens := max(1, c.div), slots
	var index kernels.Tensor
	if c.index {
		tokens = slots/div + 1
		index = k.vector(append(k.indices(slots, tokens*div), -1)).Tensor
	}
	yType := act
	if c.f32 {
		yType = kernels.F32
	}
	x, old, at := k.floats(act, tokens, c.in, k.uneven(tokens*c.in)), k.normal(slots*c.out(), 1), k.vector(offsets).Tensor
	var bits [2][]byte
	var sizes [2]int64
	for i, s := range []kernels.WeightSpec{wide, spec} {
		w, err := k.dev.Pack("optest", s)
		if err != nil {
			k.Fatalf("pack %+v: %v", c, err)
		}
		y := k.floats(yType, slots, c.out(), old)
		if linear {
			k.stream.Linear(y.Tensor, x.Tensor, w, c.epilogue())
		} else {
			k.stream.Grouped(y.Tensor, x.Tensor, w, at, index, div, c.epilogue())
		}
		bits[i], sizes[i] = k.bits(y), w.Bytes()
		w.Free()
	}
	if c.in*c.out() >= 1<<14 && sizes[0] < 3*sizes[1] {
		k.Fatalf("%+v: %d bytes, in bfloat16 %d", c, sizes[1], sizes[0])
	}
	if !bytes.Equal(bits[0], bits[1]) {
		got, want := decode(yType, bits[1]), decode(yType, bits[0])
		err := compare(fmt.Sprintf("mxfp4 %+v (%d rows)", c, slots), got, want, make([]float64, len(want)))
		k.Fatalf("other bits than in bfloat16: %v", err)
	}
	k.release()
}
