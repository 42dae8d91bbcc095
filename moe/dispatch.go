package moe

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// Exchange spreads the experts of a layer over a group of ranks: rank r holds the r-th of Ranks equal runs.
type Exchange struct {
	Rank, Ranks int
	Rows        comm.AllToAll // moves rows between the ranks
}

// exchangeBuffers is the memory of rows from other ranks. It grows with what they send: how much that is depends on
// the routing, and the worst case (every token of every rank to one expert) is rarely met.
type exchangeBuffers struct {
	device                                    kernels.Device
	act                                       kernels.DType
	recv, inner, out, offsets, index          kernels.Tensor
	inverse                                   kernels.Tensor
	sendRows                                  []int
	host, hostOffsets, hostIndex, hostInverse []byte
	sendStage, recvStage                      []byte
}

// exchange is experts over ranks: rows go to their experts' ranks, are computed there in expert order, and come back
// to the slots they left. All counts are exact; a rank without tokens takes part with none.
func (l *Layer) exchange(ctx context.Context, s kernels.Stream, out, x kernels.Tensor, r kernels.Routing, w *Workspace) error {
	w.enter(Dispatch)
	b, local := &w.exchange, r.Experts/l.Exchange.Ranks
	sent, err := b.readCounts(s, r)
	if err != nil {
		return err
	}
	out = out.RowRange(0, sent)
	s.Select(out, x, r.Choices.ColRange(0, sent), r.K)
	rows, err := l.Exchange.Rows.Count(ctx, b.sendRows)
	if err != nil {
		return fmt.Errorf("counts of the exchange: %w", err)
	}
	received := b.order(rows, local)
	if err := b.grow(received, out.Cols, l.Up.Out(), local); err != nil {
		return err
	}
	recv, rowBytes := b.recv.Reshape(received, out.Cols), out.Cols*out.DType.Size()
	move := l.Exchange.Rows.Dispatch
	if err := b.move(s, recv, out, func(to, from []byte) error { return move(ctx, to, from, rowBytes) }); err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	offsets, index := b.offsets.ColRange(0, local+1), b.index.ColRange(0, received)
	inverse := b.inverse.ColRange(0, received)
	s.Write(offsets, b.hostOffsets)
	s.Write(index, b.hostIndex)
	s.Write(inverse, b.hostInverse)
	w.enter(Experts)
	inner, result := b.inner.Reshape(received, l.Up.Out()), b.out.Reshape(received, out.Cols)
	s.Grouped(inner, recv, l.Up, offsets, index, 1, kernels.Epilogue{Act: l.Act})
	s.Grouped(result, inner, l.Down, offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
	w.enter(Combine)
	s.Select(recv, result, inverse, 1) // back in the order of arrival
	move = l.Exchange.Rows.Combine
	if err := b.move(s, out, recv, func(to, from []byte) error { return move(ctx, to, from, rowBytes) }); err != nil {
		return fmt.Errorf("combine: %w", err)
	}
	return nil
}

// readCounts reads how many slots each expert has; their sum is returned.
func (b *exchangeBuffers) readCounts(s kernels.Stream, r kernels.Routing) (int, error) {
	b.host = append(b.host[:0], make([]byte, 4*(r.Experts+1))...)
	s.Read(b.host, r.Offsets)
	if err := s.Sync(); err != nil {
		return 0, err
	}
	b.sendRows = b.sendRows[:0]
	at := func(e int) int { return int(binary.LittleEndian.Uint32(b.host[4*e:])) }
	for e := range r.Experts {
		b.sendRows = append(b.sendRows, at(e+1)-at(e))
	}
	return at(r.Experts), nil
}

// order sorts arriving rows, which lie by source and then by expert, by expert and then by source: index tells which
// row each place takes, inverse where each row goes.
func (b *exchangeBuffers) order(rows [][]int, local int) (received int) {
	start := make([]int, len(rows)) // of the source's rows for the expert at hand
	for source, counts := range rows {
		start[source] = received
		for _, n := range counts {
			received += n
		}
	}
	b.hostOffsets, b.hostIndex = b.hostOffsets[:0], b.hostIndex[:0]
	b.hostInverse = append(b.hostInverse[:0], make([]byte, 4*received)...)
	place := uint32(0)
	for e := range local {
		b.hostOffsets = binary.LittleEndian.AppendUint32(b.hostOffsets, place)
		for source := range rows {
			for range rows[source][e] {
				b.hostIndex = binary.LittleEndian.AppendUint32(b.hostIndex, uint32(start[source]))
				binary.LittleEndian.PutUint32(b.hostInverse[4*start[source]:], place)
				start[source]++
				place++
			}
		}
	}
	b.hostOffsets = binary.LittleEndian.AppendUint32(b.hostOffsets, place)
	return received
}

// grow makes room for so many arriving rows. Nothing enqueued uses the buffers: each step waits for its exchange.
func (b *exchangeBuffers) grow(rows, hidden, inner, local int) error {
	for _, t := range []struct {
		what       string
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}{
		{"arriving rows", &b.recv, b.act, rows, hidden},
		{"expert activations of arriving rows", &b.inner, b.act, rows, inner},
		{"expert results of arriving rows", &b.out, b.act, rows, hidden},
		{"order of arriving rows", &b.index, kernels.I32, 1, rows},
		{"places of arriving rows", &b.inverse, kernels.I32, 1, rows},
		{"offsets of arriving rows", &b.offsets, kernels.I32, 1, local + 1},
	} {
		n := t.rows * t.cols
		if !t.to.None() && t.to.Cols >= n {
			continue
		}
		if !t.to.None() {
			t.to.Mem.Free()
			*t.to = kernels.Tensor{}
		}
		made, err := b.device.Alloc("moe: "+t.what, t.dtype, 1, n+n/4+1)
		if err != nil {
			return err
		}
		*t.to = made
	}
	return nil
}

// move hands the memory of two tensors to an exchange: itself where the CPU addresses it, else through the host.
func (b *exchangeBuffers) move(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	if err := s.Sync(); err != nil {
		return err
	}
	source, direct := hostBytes(from)
	if !direct {
		b.sendStage = append(b.sendStage[:0], make([]byte, from.Bytes())...)
		s.Read(b.sendStage, from)
		if err := s.Sync(); err != nil {
			return err
		}
		source = b.sendStage
	}
	target, direct := hostBytes(to)
	if !direct {
		b.recvStage = append(b.recvStage[:0], make([]byte, to.Bytes())...)
		target = b.recvStage
	}
	if err := exchange(target, source); err != nil {
		return err
	}
	if !direct {
		s.Write(to, b.recvStage)
	}
	return nil
}

// hostBytes is a contiguous tensor's memory, where the CPU addresses it.
func hostBytes(t kernels.Tensor) ([]byte, bool) {
	m, ok := t.Mem.(kernels.HostMemory)
	if !ok {
		return nil, false
	}
	return m.Bytes()[t.Offset : t.Offset+t.Bytes()], true
}

func (b *exchangeBuffers) free() {
	for _, t := range []*kernels.Tensor{&b.recv, &b.inner, &b.out, &b.offsets, &b.index, &b.inverse} {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
	}
}
