// Package moe runs one mixture-of-experts layer: gate, route, dispatch, experts, combine, residual.
//
// A token is one row of x [tokens, hidden], a choice one of its k experts, a slot one kept choice, in expert order
// and stable in token order. The package knows tensors and groups of ranks; no model family, no file, no request.
package moe

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// Layer is one loaded MoE layer as a rank holds it: the whole gate, its share of the experts.
type Layer struct {
	Gate     kernels.Gate
	Logits   kernels.Weights // [experts, hidden] F32: the gate is computed in float32 whatever the model's type
	Up       kernels.Weights // local experts, [ffn, hidden] each, gated where the family is
	Down     kernels.Weights // local experts, [hidden, ffn]
	Act      kernels.Activation
	Residual *Residual // PR-MoE; nil: none
	Capacity *Capacity // nil: no token is ever dropped
	Exchange *Exchange // nil: every expert is here
}

// Residual is the dense branch of a residual layer (PR-MoE, arXiv 2201.05596 §4.1).
type Residual struct {
	Up, Down kernels.Weights
	Mix      kernels.Weights // [2, hidden] F32 with bias: the coefficients' logits
}

// Forward computes y = moe(x), both [tokens, hidden]; w has room for that many tokens. With an exchange all ranks of
// the group call it together, ranks without tokens too.
func (l *Layer) Forward(ctx context.Context, s kernels.Stream, y, x kernels.Tensor, w *Workspace) error {
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
	if l.Exchange == nil {
		w.enter(Experts)
		l.experts(s, out, x, r.Offsets, r.Choices, r.K, w)
	} else if err := l.exchange(ctx, s, out, x, r, w); err != nil {
		return fmt.Errorf("moe: %w", err)
	}
	w.enter(Combine)
	w.count(s, r)
	s.Combine(y, out, r)
	if l.Residual != nil {
		l.mix(s, y, x, w)
	}
	return nil
}

// experts runs the local experts over slots: out[i] = down(act(up(x[index[i]/div]))).
func (l *Layer) experts(s kernels.Stream, out, x, offsets, index kernels.Tensor, div int, w *Workspace) {
	inner := w.inner.Reshape(out.Rows, l.Up.Out())
	s.Grouped(inner, x, l.Up, offsets, index, div, kernels.Epilogue{Act: l.Act})
	s.Grouped(out, inner, l.Down, offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
}

// mix adds the dense branch: y = y·c₀ + mlp(x)·c₁, c = softmax(x·Wᵀ + b) over the pair.
func (l *Layer) mix(s kernels.Stream, y, x kernels.Tensor, w *Workspace) {
	coef := w.coef.Reshape(x.Rows, 2)
	inner := w.inner.Reshape(x.Rows, l.Residual.Up.Out())
	mlp := w.slots.Reshape(x.Rows, y.Cols) // the experts' results are combined and no longer needed
	s.Linear(coef, x, l.Residual.Mix, kernels.Epilogue{})
	s.Linear(inner, x, l.Residual.Up, kernels.Epilogue{Act: l.Act})
	s.Linear(mlp, inner, l.Residual.Down, kernels.Epilogue{})
	s.Mix(y, y, mlp, coef)
}
