// Package moe runs one mixture-of-experts layer: gate, route, dispatch, experts, combine, residual.
//
// A token is one row of x [tokens, hidden], a choice one of its k experts, a slot one kept choice, in expert order
// and stable in token order. The package knows tensors and groups of ranks; no model family, no file, no request.
package moe

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// Layer is one loaded MoE layer as a rank holds it: the whole gate, its share of the experts.
type Layer struct {
	Gate     kernels.Gate
	Logits   kernels.Weights   // [experts, hidden] F32: the gate is computed in float32 whatever the model's type
	Up       kernels.Weights   // local experts, [ffn, hidden] each, gated where the family is
	Down     []kernels.Weights // local experts, [hidden, ffn], in as many slices of ffn as the results of are added up
	Act      kernels.Epilogue  // of Up
	Residual *Residual         // PR-MoE; nil: none
	Capacity *Capacity         // nil: no token is ever dropped
	Exchange *Exchange         // nil: every expert is here
	// Places is where the experts are, as this rank's tokens see it, where they are spread by load: a rank of the exchange
	// holds those of its run of places, in this order. nil: in order, each once. It changes no result.
	Places []shard.Place
}

// Forward computes y = moe(x), both [tokens, hidden]; w has room for that many tokens. With an exchange all ranks of
// the group call it together, ranks without tokens too. An op's failure is told by the stream's Sync; the error is that of
// an exchange, of ctx or of memory for what other ranks sent.
func (l *Layer) Forward(ctx context.Context, s kernels.Stream, y, x kernels.Tensor, w *Workspace) error {
	from, to := l.share(x.Rows)
	own, dense := y.RowRange(from, to), l.branch(x, w)
	if err := l.forward(ctx, s, own, x.RowRange(from, to), dense, w); err != nil {
		return fmt.Errorf("moe: %w", err)
	}
	if l.split() {
		if err := l.gather(ctx, s, y, own, w); err != nil {
			return fmt.Errorf("moe: results of the shares: %w", err)
		}
	}
	if err := dense.mix(ctx, s, y); err != nil {
		return fmt.Errorf("moe: %w", err)
	}
	return nil
}

// forward routes tokens, runs their experts and combines the results; with an exchange it computes the dense branch
// while rows travel.
func (l *Layer) forward(ctx context.Context, s kernels.Stream, y, x kernels.Tensor, dense *branch, w *Workspace) error {
	tokens := x.Rows
	r := w.route(l.Gate, tokens)
	logits := w.logits.Reshape(tokens, l.Gate.Experts)
	w.enter(Route)
	s.Linear(logits, x, l.Logits, kernels.Epilogue{})
	if l.Capacity == nil {
		s.Gate(r, logits, l.Gate)
	} else { // what stays is chosen by the probabilities themselves, and renormalised afterwards
		gate := l.Gate
		gate.Renormalise = false
		s.Gate(r, logits, gate)
		s.Drop(r, l.Capacity.limit(tokens, l.Gate))
	}
	s.Table(r)
	out := w.slots.Reshape(tokens*l.Gate.K, y.Cols)
	var err error
	computed := -1
	switch {
	case l.Exchange == nil:
		w.enter(Experts)
		err = l.grouped(s, out, w.inner.Reshape(out.Rows, l.Up.Out()), x, r.Offsets, r.Choices, r.K, w)
	case l.Exchange.Window != nil:
		out, err = l.windowed(ctx, s, x, &r, dense, w)
	default:
		err = l.exchange(ctx, s, out, x, &r, dense, w)
		computed = w.exchange.computed
	}
	if err != nil {
		return err
	}
	w.enter(Combine)
	w.count(s, r, l.Exchange, y.Cols*y.DType.Size(), computed)
	s.Combine(y, out, r)
	return nil
}

// grouped runs the local experts over slots: out[i] = down(act(up(x[index[i]/div]))), the sum over the slices of down
// that are here; inner [slots, ffn] is for what lies between.
func (l *Layer) grouped(s kernels.Stream, out, inner, x, offsets, index kernels.Tensor, div int, w *Workspace) error {
	s.Grouped(inner, x, l.Up, offsets, index, div, l.Act)
	if len(l.Down) == 1 {
		s.Grouped(out, inner, l.Down[0], offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
		return nil
	}
	b, rows := &w.exchange, len(l.Down)*out.Rows
	if b.parts.Cols < rows*out.Cols {
		if err := s.Sync(); err != nil { // what uses the smaller buffer
			return err
		}
	}
	parts, err := b.room(&b.parts, "results of slices", kernels.F32, rows, out.Cols)
	if err != nil {
		return err
	}
	at := 0
	for i, slice := range l.Down {
		part := parts.RowRange(i*out.Rows, (i+1)*out.Rows)
		s.Grouped(part, inner.ColRange(at, at+slice.In()), slice, offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
		at += slice.In()
	}
	s.Reduce(out, parts, len(l.Down), false)
	return nil
}
