package cpu

import "github.com/dsbatch/dsbatch/kernels"

// embedArgs is one checked Embed.
type embedArgs struct {
	y                matrix[float32]
	table, positions kernels.Tensor
	ids, pos         []int32 // pos is nil where there are no positions
}

// Embed: y[t] = table[ids[t]] + positions[pos[t]], widened to float32; positions may be none.
func (s *Stream) Embed(y, ids, table, pos, positions kernels.Tensor) {
	const op = "embed"
	if s.note(rules.Embed(y, ids, table, pos, positions)); s.err != nil || y.Rows == 0 || y.Cols == 0 {
		return
	}
	a := &embedArgs{y: view[float32](y), table: table, positions: positions, ids: vector[int32](ids)[:y.Rows]}
	s.checkIndex(op, "id", a.ids, table.Rows)
	if !positions.None() {
		a.pos = vector[int32](pos)[:y.Rows]
		s.checkIndex(op, "position", a.pos, positions.Rows)
	}
	if s.err == nil {
		s.rows(y.Rows, float64(12*y.Cols)*byteTime, func(from, to int) { s.dev.kernels.embed(a, from, to) })
	}
}

// embedRows is the reference.
func embedRows(a *embedArgs, from, to int) {
	var block [256]float32
	for i := from; i < to; i++ {
		row := a.y.row(i)
		widenRow(row, a.table, int(a.ids[i]))
		for c := 0; a.pos != nil && c < len(row); c += len(block) {
			part := block[:min(len(block), len(row)-c)]
			widenRow(part, a.positions.ColRange(c, c+len(part)), int(a.pos[i]))
			add(row[c:c+len(part)], part)
		}
	}
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
