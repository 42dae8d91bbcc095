package model

import (
	"context"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// projected normalises q and k over all heads (OLMoE) where each tp rank has some of them: the ranks put the whole
// projection together, norm it each, by the same op as one rank alone, and take their own heads back.
type projected struct {
	q, k  projection
	whole kernels.Tensor // [tokens, all heads' widths]
}

// projection is one of the two: how the ranks hold it, and this rank's columns.
type projection struct {
	columns  *comm.Columns
	cols     int
	from, to int
}

func newProjected(m *Model, whole kernels.Tensor) *projected {
	qFrom, qTo, kFrom, kTo := m.columns(m.Config.HeadDim)
	c, r := &m.Config, m.rank
	return &projected{
		q:     projection{comm.NewColumns(m.tp, qFrom, qTo), c.Heads * c.HeadDim, qFrom[r], qTo[r]},
		k:     projection{comm.NewColumns(m.tp, kFrom, kTo), c.KVHeads * c.HeadDim, kFrom[r], kTo[r]},
		whole: whole,
	}
}

// norm normalises this rank's q and k, in place, as l's norms say.
func (p *projected) norm(ctx context.Context, s kernels.Stream, q, k kernels.Tensor, l *layer) error {
	for _, one := range []struct {
		x    kernels.Tensor
		of   *projection
		norm *kernels.Norm
	}{{q, &p.q, l.qNorm}, {k, &p.k, l.kNorm}} {
		whole := p.whole.RowRange(0, q.Rows).ColRange(0, one.of.cols)
		if err := one.of.columns.Gather(ctx, s, whole, one.x); err != nil {
			return err
		}
		s.Norm(whole, whole, kernels.Tensor{}, *one.norm)
		s.Copy(one.x, whole.ColRange(one.of.from, one.of.to))
	}
	return nil
}
