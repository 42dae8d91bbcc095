package comm

import (
	"context"
	"encoding/binary"

	"github.com/dsbatch/dsbatch/mpi"
)

// AllGather gives every rank of w all ranks' messages, of any length, in the order of ranks. All ranks call it.
func AllGather(ctx context.Context, w mpi.World, mine []byte) ([][]byte, error) {
	sizes := make([]byte, 8*w.Size())
	if err := w.AllGather(ctx, binary.LittleEndian.AppendUint64(nil, uint64(len(mine))), sizes); err != nil {
		return nil, err
	}
	counts, total := make([]int64, w.Size()), int64(0)
	for i := range counts {
		counts[i] = int64(binary.LittleEndian.Uint64(sizes[8*i:]))
		total += counts[i]
	}
	data := make([]byte, total)
	if err := w.AllGatherV(ctx, mine, data, counts); err != nil {
		return nil, err
	}
	all := make([][]byte, w.Size())
	for i, n := range counts {
		all[i], data = data[:n:n], data[n:]
	}
	return all, nil
}
