package cuda

import "github.com/dsbatch/dsbatch/kernels"

type reduceArgs struct {
	y, parts       mat
	rows, cols     int32
	count, addsToY int32
}

// Reduce: y[t] = Σ_p parts[p·T + t], a balanced tree in the order of the parts.
func (s *Stream) Reduce(y, parts kernels.Tensor, n int, add bool) {
	const op = opReduce
	if s.note(rules.Reduce(y, parts, n)); s.err != nil || y.Cols == 0 || y.Rows == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "reduce.cu", a: y.DType}, "reduce"}, byChunk(y.Rows, y.Cols),
		&reduceArgs{matOf(y), matOf(parts), int32(y.Rows), int32(y.Cols), int32(n), truth(add)})
}
