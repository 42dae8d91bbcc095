package optest

import (
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

var floatTypes = []kernels.DType{kernels.F32, kernels.BF16, kernels.F16}

func testCopy(k *kit) {
	special := []float64{0, 1, -1, 65504, 65519, 65520, -70000, 1e-8, 0x1p-24, 0x1.8p-24, 0x1p-25, 3e38, 1 + 0x1p-8,
		1 + 0x1.8p-7, 1 + 0x1p-11, 1 + 0x1.8p-10, 0x1.ffp-15}
	for _, from := range floatTypes {
		for _, to := range floatTypes {
			for _, rows := range []int{0, 1, 5} {
				values := append(k.normal(rows*len(special), 100), special...)[len(special)*min(1, rows):]
				if rows == 0 {
					values = nil
				}
				src := k.floats(from, rows, len(special), values)
				dst := k.output(to, rows, len(special))
				k.stream.Copy(dst.Tensor, src.Tensor)
				want := make([]float64, len(values))
				for i, v := range values {
					want[i] = roundTo(to, v)
				}
				k.nearBy(fmt.Sprintf("%v to %v", from, to), k.values(dst), want, 0)
			}
		}
	}
	ids := k.indices(12, 1000)
	src, dst := k.ints(3, 4, ids), k.output(kernels.I32, 3, 4)
	k.stream.Copy(dst.Tensor, src.Tensor)
	if got := k.intValues(dst); !slices.Equal(got, ids) {
		k.Errorf("int32: %v, want %v", got, ids)
	}
}

func testAdd(k *kit) {
	for _, act := range k.activations() {
		for _, shape := range [][2]int{{0, 5}, {1, 1}, {3, 17}, {5, 129}} {
			n := shape[0] * shape[1]
			xv, yv := k.normal(n, 1), k.normal(n, 1)
			x, y := k.floats(act, shape[0], shape[1], xv), k.floats(act, shape[0], shape[1], yv)
			k.stream.Add(y.Tensor, x.Tensor)
			want := make([]float64, n)
			for i := range want {
				want[i] = roundTo(act, xv[i]+yv[i])
			}
			k.nearBy(fmt.Sprintf("add %v %v", act, shape), k.values(y), want, 0)
		}
	}
}

// testTanh: near 0, where it is nearly its argument, up to where it is 1, and beyond.
func testTanh(k *kit) {
	special := []float64{0, 1e-30, -1e-4, 0.25, -0.5, 1, -2, 5, -9.5, 100, -3e38}
	for _, act := range k.activations() {
		for _, shape := range [][2]int{{0, 5}, {1, 1}, {3, 17}, {5, 129}, {7, 11}} {
			values := k.normal(shape[0]*shape[1], 3)
			copy(values[len(values)/2:], special)
			y := k.floats(act, shape[0], shape[1], values)
			k.stream.Tanh(y.Tensor)
			want, bounds := make([]float64, len(values)), make([]float64, len(values))
			for i, v := range values {
				want[i] = math.Tanh(v)
				bounds[i] = k.tol.of(act) * math.Abs(want[i])
			}
			k.near(fmt.Sprintf("tanh %v %v", act, shape), k.values(y), want, bounds)
		}
	}
}

// testSubmit submits nothing, a part and the rest: ops are done once, in their order.
func testSubmit(k *kit) {
	k.stream.Submit()
	x, y := k.floats(kernels.F32, 2, 2, []float64{1, 2, 3, 4}), k.floats(kernels.F32, 2, 2, []float64{10, 20, 30, 40})
	k.stream.Submit()
	k.stream.Submit()
	k.stream.Add(y.Tensor, x.Tensor)
	k.stream.Submit()
	k.stream.Add(x.Tensor, y.Tensor)
	k.nearBy("submitted, x", k.values(x), []float64{12, 24, 36, 48}, 0)
	k.nearBy("submitted, y", k.values(y), []float64{11, 22, 33, 44}, 0)
}

func testSelect(k *kit) {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I32} {
		for _, c := range []struct{ rows, cols, from, div int }{{0, 3, 4, 1}, {1, 1, 1, 1}, {17, 63, 5, 1}, {12, 129, 6, 2}, {30, 8, 7, 3}} {
			values := make([]float64, c.from*c.cols)
			for i := range values {
				values[i] = float64(k.rng.IntN(200) - 100)
			}
			var src *buffer
			if d == kernels.I32 {
				ids := make([]int32, len(values))
				for i, v := range values {
					ids[i] = int32(v)
				}
				src = k.ints(c.from, c.cols, ids)
			} else {
				src = k.floats(d, c.from, c.cols, values)
			}
			dst := k.output(d, c.rows, c.cols)
			old := decode(d, k.bits(dst))
			index := k.indices(c.rows+3, c.from*c.div) // longer than there are rows
			for i := range index {
				if k.rng.IntN(4) == 0 {
					index[i] = -1
				}
			}
			k.stream.Select(dst.Tensor, src.Tensor, k.vector(index).Tensor, c.div)
			want := old
			for i := range c.rows {
				if at := int(index[i]); at >= 0 {
					copy(want[i*c.cols:(i+1)*c.cols], values[at/c.div*c.cols:])
				}
			}
			k.nearBy(fmt.Sprintf("select %v %+v", d, c), k.values(dst), want, 0)
		}
	}
}
