package moe

import (
	"context"

	"github.com/dsbatch/dsbatch/kernels"
)

// split tells whether tokens are divided among ranks that are given the same.
func (l *Layer) split() bool {
	return l.Exchange != nil && l.Exchange.Split != nil && l.Exchange.Split.Size() > 1 && l.Capacity == nil
}

// share is the part of so many tokens that this rank routes: all, or its contiguous share.
func (l *Layer) share(tokens int) (from, to int) {
	if !l.split() {
		return 0, tokens
	}
	return shareOf(tokens, l.Exchange.Split.Rank(), l.Exchange.Split.Size())
}

func shareOf(tokens, rank, ranks int) (from, to int) {
	return rank * tokens / ranks, (rank + 1) * tokens / ranks
}

// gather fills y [tokens, hidden] with all shares; part is this rank's rows of it.
func (l *Layer) gather(ctx context.Context, s kernels.Stream, y, part kernels.Tensor, w *Workspace) error {
	if y.Rows == 0 {
		return nil // on all of them
	}
	group, rowBytes := l.Exchange.Split, int64(y.Cols*y.DType.Size())
	w.traffic.Gathered(group.Size(), part.Bytes())
	if group.Team != nil {
		parts := make([]kernels.Tensor, group.Size())
		for r := range parts {
			parts[r] = y.RowRange(shareOf(y.Rows, r, group.Size()))
		}
		group.Team.Gather(s, parts, part)
		return nil
	}
	counts := make([]int64, group.Size())
	for r := range counts {
		from, to := shareOf(y.Rows, r, group.Size())
		counts[r] = int64(to-from) * rowBytes
	}
	return w.exchange.staging.MoveCopy(s, y, part, func(to, from []byte) error { return group.AllGatherV(ctx, from, to, counts) })
}
