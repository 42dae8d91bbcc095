package cpu

import "github.com/dsbatch/dsbatch/kernels"

// Embed: y[t] = table[ids[t]] + positions[pos[t]], widened to float32; positions may be none.
func (s *Stream) Embed(y, ids, table, pos, positions kernels.Tensor) {
	const op = "embed"
	s.check(op, "y", y, kernels.F32, anySize, anySize)
	s.checkFloat(op, "table", table, anySize, y.Cols)
	s.checkVector(op, "ids", ids, y.Rows)
	if !positions.None() {
		s.checkFloat(op, "positions", positions, anySize, y.Cols)
		s.checkVector(op, "pos", pos, y.Rows)
	}
	if s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	id, at := vector[int32](ids)[:y.Rows], []int32(nil)
	s.checkIndex(op, "id", id, table.Rows)
	if !positions.None() {
		at = vector[int32](pos)[:y.Rows]
		s.checkIndex(op, "position", at, positions.Rows)
	}
	if s.err != nil {
		return
	}
	ym := view[float32](y)
	s.rows(y.Rows, float64(12*y.Cols)*byteTime, func(from, to int) {
		var block [256]float32
		for i := from; i < to; i++ {
			row := ym.row(i)
			widenRow(row, table, int(id[i]))
			for c := 0; at != nil && c < len(row); c += len(block) {
				part := block[:min(len(block), len(row)-c)]
				widenRow(part, positions.ColRange(c, c+len(part)), int(at[i]))
				add(row[c:c+len(part)], part)
			}
		}
	})
}

// checkIndex notes an error unless all of index lie in [0, n).
func (s *Stream) checkIndex(op, name string, index []int32, n int) {
	for i, at := range index {
		if at < 0 || int(at) >= n {
			s.fail("%s: %s %d of token %d lies outside 0 to %d", op, name, at, i, n-1)
			return
		}
	}
}
