package comm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/mpi"
)

// flat is the plain all-to-all: every rank exchanges one message with every other, p-1 hops.
type flat struct {
	rowCounts
	sends, recvs []int64 // bytes, a rank each
	traffic      Traffic
}

// NewFlat returns the flat all-to-all of host memory over an ep group.
func NewFlat(group mpi.World) AllToAll {
	p := group.Size()
	return &flat{rowCounts: rowCounts{group: group}, sends: make([]int64, p), recvs: make([]int64, p)}
}

func (f *flat) Count(ctx context.Context, sendRows []int) ([][]int, error) {
	f.counted = false
	if err := f.take(sendRows); err != nil {
		return nil, fmt.Errorf("all-to-all: %w", err)
	}
	for e, n := range sendRows {
		binary.LittleEndian.PutUint32(f.out[4*e:], uint32(n))
	}
	if err := f.group.AllToAll(ctx, f.out, f.in); err != nil {
		return nil, err
	}
	for i := range f.flat {
		f.flat[i] = int(binary.LittleEndian.Uint32(f.in[4*i:]))
	}
	f.sum = [2]int{}
	for r := range f.to {
		f.to[r], f.from[r] = 0, 0
		for l := range f.local {
			f.to[r] += sendRows[r*f.local+l]
			f.from[r] += f.rows[r][l]
		}
		f.sum[0] += f.to[r]
		f.sum[1] += f.from[r]
	}
	others := int64(f.group.Size() - 1)
	f.traffic.Sent += others * 4 * int64(f.local)
	f.traffic.Messages += others
	f.counted = true
	return f.rows, nil
}

func (f *flat) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := f.check(recv, send, rowBytes, true); err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	return f.move(ctx, recv, send, rowBytes, f.to, f.from)
}

func (f *flat) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := f.check(recv, send, rowBytes, false); err != nil {
		return fmt.Errorf("combine: %w", err)
	}
	return f.move(ctx, recv, send, rowBytes, f.from, f.to)
}

func (f *flat) move(ctx context.Context, recv, send []byte, rowBytes int, to, from []int) error {
	for r := range to {
		f.sends[r], f.recvs[r] = int64(to[r])*int64(rowBytes), int64(from[r])*int64(rowBytes)
		if r != f.group.Rank() && to[r] > 0 {
			f.traffic.Rows += int64(to[r])
			f.traffic.Bytes += f.sends[r]
			f.traffic.Sent += f.sends[r]
			f.traffic.Messages++
		}
	}
	return f.group.AllToAllV(ctx, send, f.sends, recv, f.recvs)
}

func (f *flat) Traffic() Traffic { return f.traffic }
