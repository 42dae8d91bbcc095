package cuda

import "github.com/dsbatch/dsbatch/kernels"

type combineArgs struct {
	y, out, weight             mat
	place, fault               handle
	tokens, cols, k, slots, op int32
	_                          int32
}

// Combine: y[t] = Σ_c weight[t, c]·out[place[t, c]], c ascending.
func (s *Stream) Combine(y, out kernels.Tensor, r kernels.Routing) {
	const op = opCombine
	s.checkFloat(op, "y", y, anySize, anySize)
	s.check(op, "out", out, y.DType, anySize, y.Cols)
	s.check(op, "weight", r.Weight, kernels.F32, y.Rows, r.K)
	s.checkVector(op, "place", r.Place, y.Rows*r.K)
	if s.err == nil && r.K < 1 {
		s.fail("%s: %d choices a token", op, r.K)
	}
	if s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "combine.cu", a: y.DType}, "combine"}, byChunk(y.Rows, y.Cols), &combineArgs{
		y: matOf(y), out: matOf(out), weight: matOf(r.Weight), place: address(r.Place), fault: s.dev.fault.address,
		tokens: int32(y.Rows), cols: int32(y.Cols), k: int32(r.K), slots: int32(out.Rows), op: int32(op)})
}

type mixArgs struct {
	y, moe, mlp, coef mat
	tokens, cols      int32
}

// Mix: y[t] = moe[t]·c₀ + mlp[t]·c₁, c = softmax(coef[t]).
func (s *Stream) Mix(y, moe, mlp, coef kernels.Tensor) {
	const op = opMix
	s.checkFloat(op, "moe", moe, anySize, anySize)
	s.check(op, "y", y, moe.DType, moe.Rows, moe.Cols)
	s.check(op, "mlp", mlp, moe.DType, moe.Rows, moe.Cols)
	s.check(op, "coef", coef, kernels.F32, moe.Rows, 2)
	if s.err != nil || y.Cols == 0 || y.Rows == 0 {
		return
	}
	enqueue(s, op, kernelKey{program{file: "combine.cu", a: y.DType}, "mix"}, byChunk(y.Rows, y.Cols),
		&mixArgs{matOf(y), matOf(moe), matOf(mlp), matOf(coef), int32(y.Rows), int32(y.Cols)})
}
