package cuda

import "github.com/dsbatch/dsbatch/kernels"

type embedArgs struct {
	y, table, positions             mat
	ids, pos, fault                 handle
	tokens, cols, vocab, window, op int32
	_                               int32
}

// Embed: y[t] = table[ids[t]] + positions[pos[t]]; positions may be none and are of the table's type.
func (s *Stream) Embed(y, ids, table, pos, positions kernels.Tensor) {
	const op = opEmbed
	s.checkFloat(op, "y", y, anySize, anySize)
	s.checkFloat(op, "table", table, anySize, y.Cols)
	s.checkVector(op, "ids", ids, y.Rows)
	if !positions.None() {
		s.check(op, "positions", positions, table.DType, anySize, y.Cols)
		s.checkVector(op, "pos", pos, y.Rows)
	}
	if s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	a := embedArgs{y: matOf(y), table: matOf(table), ids: address(ids), fault: s.dev.fault.address,
		tokens: int32(y.Rows), cols: int32(y.Cols), vocab: int32(table.Rows), op: int32(op)}
	if !positions.None() {
		a.positions, a.pos, a.window = matOf(positions), address(pos), int32(positions.Rows)
	}
	enqueue(s, op, kernelKey{program{file: "embed.cu", a: y.DType, b: table.DType}, "embed"}, byChunk(y.Rows, y.Cols), &a)
}
