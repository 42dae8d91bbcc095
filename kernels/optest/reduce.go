package optest

import (
	"bytes"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// treeOf adds by the definition of Stream.Reduce: in rounds, each of neighbours, an odd one out waiting for the next.
func treeOf(x []float32) float32 {
	for len(x) > 1 {
		var next []float32
		for i := 0; i+1 < len(x); i += 2 {
			next = append(next, x[i]+x[i+1])
		}
		if len(x)%2 == 1 {
			next = append(next, x[len(x)-1])
		}
		x = next
	}
	return x[0]
}

// testReduce wants exact bits: the order of the sum is part of the op.
func testReduce(k *kit) {
	for _, act := range k.activations() {
		for _, c := range []struct{ parts, rows, cols int }{{1, 3, 5}, {2, 1, 1}, {3, 2, 17}, {4, 0, 8}, {5, 3, 64}, {8, 5, 129}, {11, 2, 70}, {64, 1, 9}, {127, 2, 3}} {
			for _, add := range []bool{false, true} {
				n := c.rows * c.cols
				values, old := k.uneven(c.parts*n), k.normal(n, 1)
				parts, y := k.floats(kernels.F32, c.parts*c.rows, c.cols, values), k.floats(act, c.rows, c.cols, old)
				k.stream.Reduce(y.Tensor, parts.Tensor, c.parts, add)
				want := make([]float64, n)
				for i := range want {
					x := make([]float32, c.parts)
					for p := range x {
						x[p] = float32(values[p*n+i])
					}
					sum := treeOf(x)
					if add {
						sum = float32(old[i]) + sum
					}
					want[i] = roundTo(act, float64(sum))
				}
				k.nearBy(fmt.Sprintf("reduce %v %+v, add %t", act, c, add), k.values(y), want, 0)
			}
		}
	}
	testReduceInSteps(k)
}

// testReduceInSteps adds eight parts at once, and by twos, fours and ones before, as ranks do that hold several each.
func testReduceInSteps(k *kit) {
	const n, rows, cols = 8, 3, 67
	values := k.uneven(n * rows * cols)
	reduce := func(parts *buffer, n int) *buffer {
		y := k.output(kernels.F32, parts.Rows/n, cols)
		k.stream.Reduce(y.Tensor, parts.Tensor, n, false)
		return y
	}
	want := k.bits(reduce(k.floats(kernels.F32, n*rows, cols, values), n))
	for _, each := range []int{1, 2, 4, 8} {
		var sums []float64
		for at := 0; at < len(values); at += each * rows * cols {
			part := k.floats(kernels.F32, each*rows, cols, values[at:at+each*rows*cols])
			sums = append(sums, k.values(reduce(part, each))...)
		}
		if got := k.bits(reduce(k.floats(kernels.F32, n/each*rows, cols, sums), n/each)); !bytes.Equal(got, want) {
			k.Errorf("reduce: eight parts by %d and then by %d have other bits than by eight", each, n/each)
		}
	}
}
