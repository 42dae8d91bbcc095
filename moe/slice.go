package moe

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// sliceBuffers is what a rank needs that holds slices of experts: rows of all ranks that hold the other slices, and
// their partial results.
type sliceBuffers struct {
	order                 order
	sorted, all           kernels.Tensor // rows of this rank, and of all, in the order of experts
	partial, byRank, mine kernels.Tensor // F32: of all rows, sorted by rank, and of all slices for this rank's rows
	counts                [][]int        // [rank][local expert]
	hostCounts, hostAll   []byte
	rankRows              []int
	sendBytes, recvBytes  []int64
}

func (b *sliceBuffers) tensors() []*kernels.Tensor {
	return append(b.order.tensors(), &b.sorted, &b.all, &b.partial, &b.byRank, &b.mine)
}

// sliced runs the experts of which this rank holds slices. The ranks that hold the other slices have rows of their own:
// all get the rows of all, each multiplies them by its slices in float32, and the partial results go back to where the
// rows were, to be added in the order of the slices. result [rows, hidden] is in the order of experts, as arrived has it.
func (l *Layer) sliced(ctx context.Context, s kernels.Stream, result, recv kernels.Tensor, w *Workspace) error {
	b, v := &w.exchange, &w.exchange.slices
	total, err := l.countRows(ctx, b)
	if err != nil {
		return fmt.Errorf("counts of the slices: %w", err)
	}
	b.computed = total
	if total == 0 {
		return nil // on all of them
	}
	all, err := l.gatherRows(ctx, s, recv, total, w)
	if err != nil {
		return fmt.Errorf("rows for the slices: %w", err)
	}
	if err := v.order.write(b, s); err != nil {
		return err
	}
	inner, err := b.room(&b.inner, "expert activations of arriving rows", b.act, total, l.Up.Out())
	if err != nil {
		return err
	}
	partial, err := b.room(&v.partial, "partial results of arriving rows", kernels.F32, total, result.Cols)
	if err != nil {
		return err
	}
	if err := l.grouped(s, partial, inner, all, v.order.offsets.ColRange(0, l.Up.Experts()+1),
		v.order.index.ColRange(0, total), 1, w); err != nil {
		return err
	}
	byRank, err := b.room(&v.byRank, "partial results by rank", kernels.F32, total, result.Cols)
	if err != nil {
		return err
	}
	s.Select(byRank, partial, v.order.inverse.ColRange(0, total), 1)
	return l.returnParts(ctx, s, result, byRank, w)
}

// countRows tells all slices' ranks how many rows each has for each expert; total is of all.
func (l *Layer) countRows(ctx context.Context, b *exchangeBuffers) (total int, err error) {
	v, ranks, local := &b.slices, l.Exchange.Slice.Size(), b.arrived.local
	v.hostCounts = v.hostCounts[:0]
	for e := range local {
		from, to := binary.LittleEndian.Uint32(b.arrived.hostOffsets[4*e:]), binary.LittleEndian.Uint32(b.arrived.hostOffsets[4*e+4:])
		v.hostCounts = binary.LittleEndian.AppendUint32(v.hostCounts, to-from)
	}
	v.hostAll = append(v.hostAll[:0], make([]byte, 4*local*ranks)...)
	if err := l.Exchange.Slice.AllGather(ctx, v.hostCounts, v.hostAll); err != nil {
		return 0, err
	}
	v.counts, v.rankRows = v.counts[:0], v.rankRows[:0]
	for r := range ranks {
		counts, sum := make([]int, local), 0
		for e := range counts {
			counts[e] = int(binary.LittleEndian.Uint32(v.hostAll[4*(r*local+e):]))
			sum += counts[e]
		}
		v.counts, v.rankRows = append(v.counts, counts), append(v.rankRows, sum)
	}
	return v.order.sort(v.counts, local), nil
}

// gatherRows gives all slices' ranks the rows of all, by rank and then by expert.
func (l *Layer) gatherRows(ctx context.Context, s kernels.Stream, recv kernels.Tensor, total int,
	w *Workspace) (kernels.Tensor, error) {
	b, v := &w.exchange, &w.exchange.slices
	sorted, err := b.room(&v.sorted, "sorted rows", b.act, recv.Rows, recv.Cols)
	if err != nil {
		return sorted, err
	}
	all, err := b.room(&v.all, "rows of all slices' ranks", b.act, total, recv.Cols)
	if err != nil {
		return all, err
	}
	s.Select(sorted, recv, b.arrived.index.ColRange(0, recv.Rows), 1)
	v.setBytes(recv.Rows, recv.Cols*b.act.Size())
	w.traffic.Gathered(len(v.rankRows), sorted.Bytes())
	if team := l.Exchange.Slice.Team; team != nil {
		parts, at := make([]kernels.Tensor, len(v.rankRows)), 0
		for r, n := range v.rankRows {
			parts[r] = all.RowRange(at, at+n)
			at += n
		}
		team.Gather(s, parts, sorted)
		return all, nil
	}
	return all, b.staging.Move(s, all, sorted, func(to, from []byte) error {
		return l.Exchange.Slice.AllGatherV(ctx, from, to, v.sendBytes)
	})
}

// returnParts sends each rank the partial results of its rows, and adds up what comes for this rank's.
func (l *Layer) returnParts(ctx context.Context, s kernels.Stream, result, byRank kernels.Tensor, w *Workspace) error {
	b, v, ranks := &w.exchange, &w.exchange.slices, l.Exchange.Slice.Size()
	mine, err := b.room(&v.mine, "partial results of all slices", kernels.F32, ranks*result.Rows, result.Cols)
	if err != nil {
		return err
	}
	v.setBytes(result.Rows, 4*result.Cols)
	for r, n := range v.sendBytes {
		if r != l.Exchange.Slice.Rank() {
			w.traffic.Gathered(2, n)
		}
	}
	if team := l.Exchange.Slice.Team; team != nil {
		team.Scatter(s, mine, byRank, v.rankRows)
		s.Reduce(result, mine, ranks, false)
		return nil
	}
	err = b.staging.Move(s, mine, byRank, func(to, from []byte) error {
		return l.Exchange.Slice.AllToAllV(ctx, from, v.sendBytes, to, v.recvBytes)
	})
	if err != nil {
		return fmt.Errorf("partial results: %w", err)
	}
	s.Reduce(result, mine, ranks, false)
	return nil
}

// setBytes sets the bytes of each rank's rows, and of as many as this rank's from each.
func (b *sliceBuffers) setBytes(rows, rowBytes int) {
	b.sendBytes, b.recvBytes = b.sendBytes[:0], b.recvBytes[:0]
	for _, n := range b.rankRows {
		b.sendBytes = append(b.sendBytes, int64(n)*int64(rowBytes))
		b.recvBytes = append(b.recvBytes, int64(rows)*int64(rowBytes))
	}
}
