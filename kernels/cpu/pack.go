package cpu

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// weights are the packed matrices of one linear op: kernels.Weights of this back end.
//
// A matrix has rows output rows (2·out where gated: gate's, then up's) of in inputs. How they lie is the level's:
// the reference keeps them row major (pack_reference.go), the C kernels in panels (pack_panel.go).
type weights struct {
	dtype   kernels.DType
	experts int
	out     int
	in      int
	rows    int
	gated   bool
	group   int       // I8: inputs that share a scale, a divisor of in
	bias    []float32 // [experts, rows] in the order of the source, or none; panels have their own

	reference *referenceWeights // one of the two
	panels    *panelWeights
}

func (w *weights) DType() kernels.DType { return w.dtype }
func (w *weights) Experts() int         { return w.experts }
func (w *weights) Out() int             { return w.out }
func (w *weights) In() int              { return w.in }

func (w *weights) Bytes() int64 {
	n := 4 * int64(len(w.bias))
	if w.reference != nil {
		n += w.reference.bytes()
	}
	if w.panels != nil {
		n += w.panels.bytes()
	}
	return n
}

func (w *weights) Free() {
	if w.panels != nil {
		w.panels.free()
	}
	w.reference, w.panels, w.bias = nil, nil, nil
}

// groups is the number of scales of an output row.
func (w *weights) groups() int {
	if w.dtype != kernels.I8 || w.in == 0 {
		return 0
	}
	return w.in / w.group
}

// Pack implements kernels.Device. The source is read once, by all threads; nothing of it is kept.
func (d *Device) Pack(what string, s kernels.WeightSpec) (kernels.Weights, error) {
	w, err := newWeights(s)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", what, err)
	}
	w.bias = packBias(s, w)
	if d.level == Reference {
		w.reference = packReference(d.pool, s, w)
		return w, nil
	}
	if w.panels, err = packPanels(d, what, s, w); err != nil {
		return nil, fmt.Errorf("pack %s: %w", what, err)
	}
	w.bias = nil
	return w, nil
}

// newWeights checks s and takes its shape.
func newWeights(s kernels.WeightSpec) (*weights, error) {
	rows, in, err := s.Shape()
	if err != nil {
		return nil, err
	}
	w := &weights{dtype: s.DType, experts: len(s.Experts), gated: s.Gated, group: s.Group, rows: rows, in: in}
	w.out = w.rows
	if s.Gated {
		w.out /= 2
	}
	if w.dtype != kernels.I8 {
		w.group = 0
		return w, nil
	}
	if w.group == 0 {
		w.group = w.in
	}
	if w.group < 0 || w.in > 0 && w.in%w.group != 0 {
		return nil, fmt.Errorf("int8 groups of %d inputs do not divide %d inputs", w.group, w.in)
	}
	return w, nil
}

func packBias(s kernels.WeightSpec, w *weights) []float32 {
	if len(s.Experts[0].Bias) == 0 {
		return nil
	}
	bias := make([]float32, 0, w.experts*w.rows)
	for _, l := range s.Experts {
		for _, b := range l.Bias {
			for i := range b.Rows * b.Cols {
				bias = append(bias, matrixValue(b, i))
			}
		}
	}
	return bias
}

// matrixValue is element i of m's data.
func matrixValue(m kernels.Matrix, i int) float32 {
	switch m.DType {
	case kernels.BF16:
		return fromBF16(uint16(m.Data[2*i]) | uint16(m.Data[2*i+1])<<8)
	case kernels.F16:
		return fromF16(uint16(m.Data[2*i]) | uint16(m.Data[2*i+1])<<8)
	}
	b := m.Data[4*i : 4*i+4]
	return math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
}
