package cuda

import "github.com/dsbatch/dsbatch/kernels"

type selectArgs struct {
	dst, src                  mat
	index, fault              handle
	rows, cols, from, div, op int32
	_                         int32
}

// Select: dst[i] = src[index[i]/div]; rows of index -1 keep what they have.
func (s *Stream) Select(dst, src, index kernels.Tensor, div int) {
	const op = opSelect
	if s.note(rules.Select(dst, src, index, div)); s.err != nil || dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	name := "select4"
	if src.DType.Size() == 2 {
		name = "select2"
	}
	enqueue(s, op, kernelKey{program{file: "select.cu"}, name}, byChunk(dst.Rows, dst.Cols), &selectArgs{
		dst: matOf(dst), src: matOf(src), index: address(index), fault: s.dev.fault.address,
		rows: int32(dst.Rows), cols: int32(dst.Cols), from: int32(src.Rows), div: int32(div), op: int32(op)})
}
