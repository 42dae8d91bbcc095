package cuda

import "github.com/dsbatch/dsbatch/kernels"

type tanhArgs struct {
	y          mat
	rows, cols int32
}

// Tanh: y = tanh(y).
func (s *Stream) Tanh(y kernels.Tensor) {
	const op = opTanh
	if s.note(rules.Tanh(y)); s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "tanh.cu", a: y.DType}, "hyperbolic_tangent"}, byChunk(y.Rows, y.Cols),
		&tanhArgs{matOf(y), int32(y.Rows), int32(y.Cols)})
}
