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
	if s.note(rules.Combine(y, out, r)); s.err != nil || y.Rows == 0 || y.Cols == 0 {
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

// Mix: y[t] = moe[t]·c₀ + mlp[t]·c₁, c = softmax(coef[t]), or (1, sigmoid(coef[t])) where there is one coefficient.
func (s *Stream) Mix(y, moe, mlp, coef kernels.Tensor) {
	const op = opMix
	if s.note(rules.Mix(y, moe, mlp, coef)); s.err != nil || y.Cols == 0 || y.Rows == 0 {
		return
	}
	name := "mix"
	if coef.Cols == 1 {
		name = "mix_shared"
	}
	enqueue(s, op, kernelKey{program{file: "combine.cu", a: y.DType}, name}, byChunk(y.Rows, y.Cols),
		&mixArgs{matOf(y), matOf(moe), matOf(mlp), matOf(coef), int32(y.Rows), int32(y.Cols)})
}
