package cuda

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

type embedArgs struct {
	y, table, positions             mat
	ids, pos, fault                 handle
	tokens, cols, vocab, window, op int32
	_                               int32
}

// Embed: y[t] = table[ids[t]] + positions[pos[t]]; positions may be none and are of the table's type.
func (s *Stream) Embed(y, ids, table, pos, positions kernels.Tensor) {
	const op = opEmbed
	s.note(rules.Embed(y, ids, table, pos, positions))
	if !positions.None() {
		s.note(rules.Tensor(op.String(), "positions", positions, table.DType, operands.Any, y.Cols))
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
