package model

import (
	"context"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// vocabulary puts logits together of which each tp rank computes some columns.
type vocabulary struct {
	columns *comm.Columns
	part    kernels.Tensor // [rows, own columns] F32; grows with need
}

func newVocabulary(group *comm.Group, y *slicing) *vocabulary {
	var from, to []int
	for _, r := range y.vocab {
		from, to = append(from, r.From), append(to, r.To)
	}
	return &vocabulary{columns: comm.NewColumns(group, from, to)}
}

// logits computes logits = x·Wᵀ, plus the bias where there is one, by the output embedding.
func (m *Model) logits(ctx context.Context, s kernels.Stream, logits, x kernels.Tensor) error {
	v := m.vocabulary
	if v == nil {
		s.Linear(logits, x, m.head, kernels.Epilogue{})
		return nil
	}
	n := x.Rows * m.head.Out()
	if v.part.None() || v.part.Cols < n {
		if err := s.Sync(); err != nil { // what uses the smaller one
			return err
		}
		v.free()
		part, err := m.device.Alloc("logits of this rank", kernels.F32, 1, n)
		if err != nil {
			return err
		}
		v.part = part
	}
	part := v.part.Reshape(x.Rows, m.head.Out())
	s.Linear(part, x, m.head, kernels.Epilogue{})
	return v.columns.Gather(ctx, s, logits, part)
}

func (v *vocabulary) free() {
	if v != nil && !v.part.None() {
		v.part.Mem.Free()
		v.part = kernels.Tensor{}
	}
}
