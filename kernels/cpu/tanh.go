package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// Tanh: y = tanh(y). It is for a row or so of a text, so that every level takes the definition.
func (s *Stream) Tanh(y kernels.Tensor) {
	if s.note(rules.Tanh(y)); s.err != nil || y.Cols == 0 {
		return
	}
	const valueTime = 20 // nanoseconds
	m := view[float32](y)
	s.rows(y.Rows, float64(y.Cols)*valueTime, func(from, to int) {
		for i := from; i < to; i++ {
			for j, x := range m.row(i) {
				m.row(i)[j] = float32(math.Tanh(float64(x)))
			}
		}
	})
}
