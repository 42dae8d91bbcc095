package moe

import (
	"context"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// spare is the work of a layer that needs no other rank, in pieces and in this order: the dense branch, and the experts for the
// rank's own tokens. A rank does of it what it would else wait for others, and the rest when its last rows have left. So one
// that is late goes straight on to what others wait for, and makes up for it later. No bit depends on what is done when.
type spare []func() error

func (l *Layer) spare(ctx context.Context, s kernels.Stream, out, x kernels.Tensor, r *kernels.Routing, dense *branch, w *Workspace) (p spare) {
	b := &w.exchange
	if dense != nil {
		p = append(p, func() error { dense.up(s); return nil })
	}
	if b.own.kept() > 0 {
		for range b.own.parts {
			p = append(p, func() error { return b.own.compute(s, l, out, x, r, w) })
		}
	}
	if dense != nil { // the last: it may need tp peers, which do it when their last rows have left, too
		p = append(p, func() error { return dense.down(ctx, s, b.dense) })
	}
	return p
}

// beside computes pieces until what rows has begun is there. So many are left for later, when there is something to wait
// for again.
func (p *spare) beside(rows comm.AllToAll, left int) error {
	for len(*p) > left && !rows.Ready() {
		if err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

// rest computes the pieces that are left.
func (p *spare) rest() error {
	for len(*p) > 0 {
		if err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *spare) next() error {
	piece := (*p)[0]
	*p = (*p)[1:]
	return piece()
}
