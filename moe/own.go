package moe

import (
	"encoding/binary"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// own is the slots of a rank's tokens whose experts are here, in the order of experts: [from, to) of all its slots. Where
// they are kept they take no part in the exchange: their experts read the tokens and write the slots where these are, at
// any time while counts and rows of the others travel (spare); the price is that weights are read twice, for own rows and for those that arrive.
type own struct {
	from, to int
	sent     int   // all slots
	ends     []int // [local] where each expert's slots end, from from
	parts    int   // in which they are computed
	done     int   // parts that are

	hostOffsets    []byte
	offsets, inner kernels.Tensor // of a part
	leave          kernels.Tensor // rows of other ranks' experts, where own ones lie between them
}

func (o *own) tensors() []*kernels.Tensor {
	return []*kernels.Tensor{&o.offsets, &o.inner, &o.leave}
}

// keep decides whether own rows of so many slots are kept, and takes those out of sendRows.
func (l *Layer) keep(b *exchangeBuffers, sent, parts int) error {
	o, x, local := &b.own, l.Exchange, l.Up.Experts()
	o.from, o.to, o.sent, o.parts, o.done, o.ends = sent, sent, sent, parts, 0, o.ends[:0]
	if x.Apart == 0 || x.sliced() {
		return nil
	}
	before, rows := 0, 0
	for _, n := range b.sendRows[:x.Rank*local] {
		before += n
	}
	mine := b.sendRows[x.Rank*local : (x.Rank+1)*local]
	for _, n := range mine {
		rows += n
		o.ends = append(o.ends, rows)
	}
	if rows < x.Apart*local {
		return nil
	}
	clear(mine)
	o.from, o.to = before, before+rows
	if _, err := b.room(&o.offsets, "offsets of own rows", kernels.I32, 1, local+1); err != nil {
		return err
	}
	_, err := b.room(&o.inner, "expert activations of own rows", b.act, rows, l.Up.Out())
	return err
}

// kept is how many slots are.
func (o *own) kept() int { return o.to - o.from }

// leaving is where rows for other ranks' experts lie: in out, the slots, where those are in one piece.
func (o *own) leaving(b *exchangeBuffers, out kernels.Tensor) (kernels.Tensor, error) {
	switch {
	case o.to == o.sent:
		return out.RowRange(0, o.from), nil
	case o.from == 0:
		return out.RowRange(o.to, o.sent), nil
	}
	return b.room(&o.leave, "leaving rows", b.act, o.sent-o.kept(), out.Cols)
}

// gather fills leave with the tokens of its slots.
func (o *own) gather(s kernels.Stream, leave, x kernels.Tensor, r *kernels.Routing) {
	s.Select(leave.RowRange(0, o.from), x, r.Choices.ColRange(0, o.from), r.K)
	s.Select(leave.RowRange(o.from, leave.Rows), x, r.Choices.ColRange(o.to, o.sent), r.K)
}

// scatter puts results that have come into leave into their slots.
func (o *own) scatter(s kernels.Stream, out, leave kernels.Tensor) {
	if o.from > 0 && o.to < o.sent {
		s.Copy(out.RowRange(0, o.from), leave.RowRange(0, o.from))
		s.Copy(out.RowRange(o.to, o.sent), leave.RowRange(o.from, leave.Rows))
	}
}

// compute runs the experts of the next part of the own slots.
func (o *own) compute(s kernels.Stream, l *Layer, out, x kernels.Tensor, r *kernels.Routing, w *Workspace) error {
	rows := o.kept()
	if rows == 0 || o.done == o.parts {
		return nil
	}
	w.enter(Experts)
	// Whole experts, of as many rows in each part as that allows.
	cut := func(part int) int {
		if e, _ := slices.BinarySearch(o.ends, part*rows/o.parts); part > 0 {
			return o.ends[e]
		}
		return 0
	}
	from, to := cut(o.done), cut(o.done+1)
	o.done++
	o.hostOffsets = append(o.hostOffsets[:0], 0, 0, 0, 0)
	for _, end := range o.ends {
		o.hostOffsets = binary.LittleEndian.AppendUint32(o.hostOffsets, uint32(min(max(end, from), to)-from))
	}
	offsets := o.offsets.ColRange(0, len(o.ends)+1)
	s.Write(offsets, o.hostOffsets)
	from, to = o.from+from, o.from+to
	return l.grouped(s, out.RowRange(from, to), o.inner.Reshape(to-from, l.Up.Out()), x, offsets, r.Choices.ColRange(from, to), r.K, w)
}
