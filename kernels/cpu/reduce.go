package cpu

import (
	"math/bits"

	"github.com/dsbatch/dsbatch/kernels"
)

// reduceArgs is one checked Reduce.
type reduceArgs struct {
	y, parts matrix[float32]
	rows, n  int
	add      bool
}

// Reduce: y[t] = Σ_p parts[p·T + t], a balanced tree in the order of the parts.
func (s *Stream) Reduce(y, parts kernels.Tensor, n int, add bool) {
	if s.note(rules.Reduce(y, parts, n)); s.err != nil || y.Cols == 0 {
		return
	}
	a := &reduceArgs{y: view[float32](y), parts: view[float32](parts), rows: y.Rows, n: n, add: add}
	s.rows(y.Rows, float64(4*y.Cols*(n+1))*byteTime, func(from, to int) { s.dev.kernels.reduce(a, from, to) })
}

// reduceRows is the reference.
func reduceRows(a *reduceArgs, from, to int) {
	for t := from; t < to; t++ {
		y := a.y.row(t)
		for j := range y {
			sum := a.tree(t, j, 0, a.n)
			if a.add {
				sum = y[j] + sum
			}
			y[j] = sum
		}
	}
}

// tree is the sum of parts [from, to): of the largest power of two of them that leaves some, and of the rest.
func (a *reduceArgs) tree(t, j, from, to int) float32 {
	if to-from == 1 {
		return a.parts.row(from*a.rows + t)[j]
	}
	half := from + 1<<(bits.Len(uint(to-from-1))-1)
	return a.tree(t, j, from, half) + a.tree(t, j, half, to)
}
