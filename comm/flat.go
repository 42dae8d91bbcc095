package comm

import (
	"context"

	"github.com/dsbatch/dsbatch/mpi"
)

// flat is the plain all-to-all: every rank exchanges one message with every other, p-1 hops.
type flat struct{ tally }

// NewFlat returns the flat all-to-all of host memory over an ep group.
func NewFlat(group mpi.World) AllToAll { return &flat{newTally(group)} }

func (f *flat) Count(ctx context.Context, sendRows []int) error {
	if err := f.open(sendRows); err != nil {
		return err
	}
	return f.hop(ctx, f.in, f.ones, f.out, f.ones, 4*f.local)
}

func (f *flat) Counted(ctx context.Context) ([][]int, error) {
	if err := f.Finish(ctx); err != nil {
		return nil, err
	}
	f.settle()
	return f.rows, nil
}

func (f *flat) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := f.check(recv, send, rowBytes, true); err != nil {
		return err
	}
	return f.hop(ctx, recv, f.from, send, f.to, rowBytes)
}

func (f *flat) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := f.check(recv, send, rowBytes, false); err != nil {
		return err
	}
	return f.hop(ctx, recv, f.to, send, f.from, rowBytes)
}

func (f *flat) String() string { return "flat over " + count(f.group.Size(), "rank") }
