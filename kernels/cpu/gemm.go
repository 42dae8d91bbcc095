package cpu

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// gemm is one call of Linear or Grouped, its tensors checked: y[i] = e(x[source(i)]·W_eᵀ + b_e) for the rows i from
// offsets[e] to offsets[e+1]. A stream keeps one and fills it anew for each call.
type gemm struct {
	w       *weights
	x, y    kernels.Tensor
	offsets []int32 // [experts+1]
	index   []int32 // [rows of y], or none
	div     int
	e       kernels.Epilogue
	single  [2]int32 // the offsets of Linear
	panel   panelGemm
}

// source is the row of x that row i of y is computed from.
func (g *gemm) source(i int) int {
	if g.index == nil {
		return i
	}
	return int(g.index[i]) / g.div
}

// Linear implements kernels.Stream.
func (s *Stream) Linear(y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) {
	g, ok := s.openGemm("linear", y, x, w, e)
	if !ok {
		return
	}
	if g.w.experts != 1 {
		s.fail("linear: weights of %d matrices; Grouped takes them", g.w.experts)
	}
	if s.err == nil && x.Rows != y.Rows {
		s.fail("linear: x has %d rows and y %d", x.Rows, y.Rows)
	}
	if s.err != nil {
		return
	}
	g.single = [2]int32{0, int32(y.Rows)}
	g.offsets, g.index, g.div = g.single[:], nil, 1
	s.runGemm(g)
}

// Grouped implements kernels.Stream.
func (s *Stream) Grouped(y, x kernels.Tensor, w kernels.Weights, offsets, index kernels.Tensor, div int, e kernels.Epilogue) {
	g, ok := s.openGemm("grouped", y, x, w, e)
	if !ok {
		return
	}
	s.note(rules.Vector("grouped", "offsets", offsets, g.w.experts+1))
	if s.err != nil {
		return
	}
	g.offsets, g.index, g.div = vector[int32](offsets)[:g.w.experts+1], nil, 1
	slots := s.checkOffsets(g.offsets, y.Rows)
	if !index.None() {
		if div < 1 {
			s.fail("grouped: div is %d, want at least 1", div)
		}
		s.note(rules.Vector("grouped", "index", index, slots))
		if s.err != nil {
			return
		}
		g.index, g.div = vector[int32](index), div
	}
	for i := range slots {
		if at := g.source(i); s.err == nil && (at < 0 || at >= x.Rows) {
			s.fail("grouped: slot %d takes row %d of x, which has %d", i, at, x.Rows)
		}
	}
	if s.err == nil {
		s.runGemm(g)
	}
}

// checkOffsets returns the number of slots.
func (s *Stream) checkOffsets(offsets []int32, rows int) int {
	for e := range len(offsets) - 1 {
		if s.err == nil && (offsets[0] != 0 || offsets[e+1] < offsets[e] || int(offsets[e+1]) > rows) {
			s.fail("grouped: expert %d has slots %d to %d of %d", e, offsets[e], offsets[e+1], rows)
		}
	}
	return int(offsets[len(offsets)-1])
}

// openGemm checks what Linear and Grouped have in common.
func (s *Stream) openGemm(op string, y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) (*gemm, bool) {
	p, ok := w.(*weights)
	switch {
	case s.err != nil:
	case !ok || p == nil || p.reference == nil && p.panels == nil:
		s.fail("%s: weights %T are not of this device, or freed", op, w)
	case (p.panels == nil) != (s.dev.level == Reference):
		s.fail("%s: weights packed for another instruction set than %v", op, s.dev.level)
	default:
		s.note(rules.Epilogue(op, e, p.gated))
		s.note(rules.Tensor(op, "x", x, kernels.F32, operands.Any, p.in))
		s.note(rules.Tensor(op, "y", y, kernels.F32, operands.Any, p.out))
	}
	if s.err != nil {
		return nil, false
	}
	g := &s.gemm
	g.w, g.x, g.y, g.e = p, x, y, e
	return g, true
}

// runGemm computes g by the device's level.
func (s *Stream) runGemm(g *gemm) {
	if g.offsets[g.w.experts] == 0 || g.w.out == 0 {
		return
	}
	if g.w.reference != nil {
		g.runReference(s.dev.pool)
		return
	}
	s.runPanels(g)
}
