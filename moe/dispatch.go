package moe

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// Exchange spreads the experts of a layer over a group of ranks: rank r holds the r-th of Ranks equal runs of them, or of
// their places.
type Exchange struct {
	Rank, Ranks int
	Rows        comm.AllToAll // moves rows between the ranks
	// Window, where it is there, moves them instead, without the host; the experts are then whole, each once and in order.
	// Their layers take turns, on one stream, and the workspace has room for what arrives.
	Window kernels.Window
	// Slice is the ranks, each of another exchange, that hold the slices of the same experts, in order; nil or one rank:
	// the experts are whole.
	Slice *comm.Group
	// Split is the ranks that are given the same tokens (tp peers): each routes and sends its share of them, and the
	// results are gathered (coordinated all-to-all). nil: each sends all, and nothing is gathered. A layer with Capacity
	// is never split: who is dropped depends on all tokens.
	Split *comm.Group
	// Apart is how many of its own tokens' rows an expert has to have in the mean for this rank to compute them apart, while
	// other ranks' rows travel; 0: own rows are computed with those. No bit depends on it, and ranks may differ. 0 where Rows
	// are moved together with peers.
	Apart int
}

// sliced tells whether the experts are.
func (e *Exchange) sliced() bool { return e.Slice != nil && e.Slice.Size() > 1 }

// exchangeBuffers is the memory of rows from other ranks. It grows with what they send: how much that is depends on
// the routing, and the worst case (every token of every rank to one expert) is rarely met.
type exchangeBuffers struct {
	device           kernels.Device
	act              kernels.DType
	recv, inner, out kernels.Tensor
	arrived          order
	own              own
	slices           sliceBuffers
	placed           placedSlots
	parts            kernels.Tensor
	sendRows         []int
	computed         int // rows, by the experts here
	host             []byte
	dense            kernels.Tensor // results of a residual branch
	staging          comm.Staging
}

// exchange is experts over ranks: rows go to their experts' ranks, are computed there in expert order, and come back
// to the slots they left, which r tells. All counts are exact; a rank without tokens takes part with none. While counts and
// rows travel this rank computes what needs no other (spare). What waits for a rank with more to do then waits less.
func (l *Layer) exchange(ctx context.Context, s kernels.Stream, out, x kernels.Tensor, r *kernels.Routing, dense *branch, w *Workspace) error {
	w.enter(Dispatch)
	b := &w.exchange
	sent, err := b.readCounts(s, r)
	if err != nil {
		return err
	}
	if err := l.arrange(s, r, sent, b); err != nil {
		return err
	}
	own := &b.own
	if err := l.keep(b, sent, dense.gaps()); err != nil {
		return err
	}
	if err := dense.room(b); err != nil {
		return err
	}
	spare := l.spare(ctx, s, out, x, r, dense, w)
	leave, err := own.leaving(b, out)
	if err != nil {
		return err
	}
	rows, err := l.Exchange.count(ctx, w, func() error {
		own.gather(s, leave, x, r)
		return spare.beside(l.Exchange.Rows, 2)
	})
	if err != nil {
		return err
	}
	received := b.arrived.sort(rows, l.Up.Experts())
	b.computed = received + own.kept()
	recv, err := b.room(&b.recv, "arriving rows", b.act, received, out.Cols)
	if err != nil {
		return err
	}
	err = l.Exchange.move(ctx, s, recv, leave, w, Dispatch, func() error {
		if err := b.arrived.write(b, s); err != nil {
			return err
		}
		return spare.beside(l.Exchange.Rows, 1)
	})
	if err != nil {
		return err
	}
	w.enter(Experts)
	result, err := b.room(&b.out, "expert results of arriving rows", b.act, received, out.Cols)
	if err != nil {
		return err
	}
	if l.Exchange.sliced() {
		err = l.sliced(ctx, s, result, recv, w)
	} else {
		err = l.arrived(s, result, recv, w)
	}
	if err != nil {
		return err
	}
	w.enter(Combine)
	s.Select(recv, result, b.arrived.inverse.ColRange(0, received), 1) // back in the order of arrival
	err = l.Exchange.move(ctx, s, leave, recv, w, Combine, spare.rest)
	own.scatter(s, out, leave)
	return err
}

// count tells the other ranks how many rows they get, and computes until theirs have come.
func (e *Exchange) count(ctx context.Context, w *Workspace, meanwhile func() error) (rows [][]int, err error) {
	if err := e.Rows.Count(ctx, w.exchange.sendRows); err != nil {
		return nil, fmt.Errorf("counts of the exchange: %w", err)
	}
	through := false
	defer func() { // as in move
		if through {
			w.enter(Dispatch)
		}
		counted, end := e.Rows.Counted(ctx)
		if rows = counted; end != nil && err == nil {
			err = fmt.Errorf("counts of the exchange: %w", end)
		}
	}()
	err = meanwhile()
	through = true
	return nil, err
}

// move is a section of the layer, Dispatch or Combine: rows go from device to device where the exchange can, else through
// the host, and meanwhile computes what needs neither recv nor send.
func (e *Exchange) move(ctx context.Context, s kernels.Stream, recv, send kernels.Tensor, w *Workspace, section string, meanwhile func() error) (err error) {
	d, onDevices := e.Rows.(*comm.DeviceAllToAll)
	staging, width := &w.exchange.staging, send.Cols*send.DType.Size()
	switch {
	case onDevices && section == Dispatch:
		err = d.DispatchRows(s, recv, send)
	case onDevices:
		err = d.CombineRows(s, recv, send)
	case section == Dispatch:
		err = staging.Begin(s, recv, send, func(to, from []byte) error { return e.Rows.Dispatch(ctx, to, from, width) })
	default:
		err = staging.Begin(s, recv, send, func(to, from []byte) error { return e.Rows.Combine(ctx, to, from, width) })
	}
	if err != nil {
		return fmt.Errorf("%s: %w", section, err)
	}
	if onDevices {
		return meanwhile()
	}
	through := false
	defer func() { // whatever comes, a panic too: other ranks may use the rows until then
		if through { // a panic is told of with the section that it came from
			w.enter(section)
		}
		end := e.Rows.Finish(ctx)
		staging.End(s)
		if end != nil && err == nil {
			err = fmt.Errorf("%s: %w", section, end)
		}
	}()
	err = meanwhile()
	through = true
	return err
}

// arrived runs the local experts, whole, over arriving rows; result is in the order of experts.
func (l *Layer) arrived(s kernels.Stream, result, recv kernels.Tensor, w *Workspace) error {
	b := &w.exchange
	inner, err := b.room(&b.inner, "expert activations of arriving rows", b.act, recv.Rows, l.Up.Out())
	if err != nil {
		return err
	}
	return l.grouped(s, result, inner, recv, b.arrived.offsets.ColRange(0, l.Up.Experts()+1),
		b.arrived.index.ColRange(0, recv.Rows), 1, w)
}

// readCounts reads how many slots each expert has; their sum is returned.
func (b *exchangeBuffers) readCounts(s kernels.Stream, r *kernels.Routing) (int, error) {
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

// room is a buffer as [rows, cols], made anew, with some to spare, where it is too small. Nothing enqueued may use it.
func (b *exchangeBuffers) room(t *kernels.Tensor, what string, d kernels.DType, rows, cols int) (kernels.Tensor, error) {
	n := rows * cols
	if t.None() || t.Cols < n {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
		made, err := b.device.Alloc("moe: "+what, d, 1, n+n/4+1)
		if err != nil {
			return made, err
		}
		*t = made
	}
	return t.Reshape(rows, cols), nil
}

func (b *exchangeBuffers) free() {
	for _, t := range slices.Concat(b.arrived.tensors(), b.own.tensors(), b.slices.tensors(), b.placed.tensors(), []*kernels.Tensor{&b.recv, &b.inner, &b.out, &b.parts, &b.dense}) {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
	}
}
