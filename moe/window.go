package moe

import (
	"context"
	"encoding/binary"

	"github.com/dsbatch/dsbatch/kernels"
)

// arrivals is the memory of rows that come through windows: as much as could come, since the host never learns how many do
// before the step is over.
type arrivals struct {
	inner, out, index kernels.Tensor // [1, n] each
	offsets           kernels.Tensor // [layers, experts here + 1]
	counts            []byte         // what offsets held when all layers had run
	layers            []*Exchange    // of the step so far; nil: not through a window
	widths            []int          // bytes of a row
	untold            bool           // whether traffic lacks the last step's
}

// ArrivalBytes is the memory, in bytes, that rows take on top of a workspace that come through windows of so many ranks to
// so many experts here.
func (s Shape) ArrivalBytes(d kernels.DType, ranks, experts int) int64 {
	var bytes int64
	for _, t := range s.arrivals(new(arrivals), d, ranks, experts) {
		bytes += int64(t.rows) * int64(t.cols) * int64(t.dtype.Size())
	}
	return bytes
}

func (s Shape) arrivals(a *arrivals, act kernels.DType, ranks, experts int) []tensor {
	rows := ranks * s.Tokens * s.K
	return []tensor{
		{"expert activations of arriving rows", &a.inner, act, 1, rows * s.Inner},
		{"expert results of arriving rows", &a.out, act, 1, rows * s.Hidden},
		{"order of arriving rows", &a.index, kernels.I32, 1, rows},
		{"offsets of arriving rows", &a.offsets, kernels.I32, s.Layers, experts + 1},
	}
}

// Arrive takes the memory for what comes through windows of up to so many ranks, to so many experts of a layer here.
func (w *Workspace) Arrive(ranks, experts int) error {
	w.arrivals.counts = make([]byte, 4*w.shape.Layers*(experts+1))
	return w.allocate(w.shape.arrivals(&w.arrivals, w.exchange.act, ranks, experts))
}

// windowed is exchange through a window: the devices count, send and wait by themselves, and the host only enqueues. The
// result is a row for each slot.
func (l *Layer) windowed(ctx context.Context, s kernels.Stream, x kernels.Tensor, r *kernels.Routing, dense *branch, w *Workspace) (kernels.Tensor, error) {
	w.enter(Dispatch)
	a, window, local := &w.arrivals, l.Exchange.Window, l.Up.Experts()
	most := w.most
	if l.split() {
		n := l.Exchange.Split.Size()
		most = (most + n - 1) / n
	}
	rows := l.Exchange.Ranks * most * r.K
	offsets, index := a.offsets.RowRange(w.layer, w.layer+1).ColRange(0, local+1), a.index.ColRange(0, rows)
	window.Send(s, x, *r)
	dense.up(s)
	w.enter(Dispatch)
	arrived := window.Arrive(s, offsets, index, rows)
	w.enter(Experts)
	result := a.out.Reshape(rows, x.Cols)
	if err := l.grouped(s, result, a.inner.Reshape(rows, l.Up.Out()), arrived, offsets, index, 1, w); err != nil {
		return result, err
	}
	w.enter(Combine)
	window.Return(s, result, offsets, index)
	if err := dense.down(ctx, s, w.slots); err != nil {
		return result, err
	}
	w.enter(Combine)
	return window.Collect(s), nil
}

// bound is the next of few numbers: a step whose launches are those of an earlier one is replayed as a graph, however many tokens the
// other ranks have.
func bound(n int) int {
	for b := 1; ; b *= 2 {
		switch {
		case n <= b:
			return b
		case n <= b+b/2:
			return b + b/2
		}
	}
}

// note keeps what a layer's counts have to be known with, once they are.
func (a *arrivals) note(layer int, x *Exchange, width int) {
	if x != nil && x.Window == nil {
		x = nil
	}
	a.layers, a.widths = append(a.layers[:layer], x), append(a.widths[:layer], width)
}

// computed is how many rows of a layer have arrived.
func (a *arrivals) computed(layer, experts int) int {
	local := experts / a.layers[layer].Ranks
	return int(binary.LittleEndian.Uint32(a.counts[4*(layer*a.offsets.Cols+local):]))
}

// tell adds to the traffic what the last step has sent through windows: its counts are there by now.
func (w *Workspace) tell() {
	a := &w.arrivals
	if !a.untold {
		return
	}
	a.untold = false
	for layer, counts := range w.Counts() {
		x := a.layers[layer]
		if x == nil {
			continue
		}
		sent, own, local := 0, 0, len(counts)/x.Ranks
		for e, n := range counts {
			sent += int(n)
			if e/local == x.Rank {
				own += int(n)
			}
		}
		others, rows := int64(x.Ranks-1), int64(sent+a.computed(layer, len(counts))-2*own)
		w.traffic.Rows += rows
		w.traffic.Bytes += rows * int64(a.widths[layer])
		w.traffic.Sent += rows*int64(a.widths[layer]) + others*int64(4*(local+1)+16) // offsets and two numbers
		w.traffic.Messages += 2 * others
	}
}
