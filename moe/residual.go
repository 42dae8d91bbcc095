package moe

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// Residual is the dense branch of a residual layer (PR-MoE, arXiv 2201.05596 §4.1), or a shared expert, with or without a gate
// of its own.
type Residual struct {
	Up   kernels.Weights   // this rank's part of it under tp, like Down's
	Down []kernels.Weights // the slices of its inputs that are here; Workspace.Sum adds their results up
	Mix  kernels.Weights   // [2, hidden] F32 with bias: the coefficients' logits; a shared expert's [1, hidden]; nil: it is added as it is
}

// branch is the residual branch of one call of Forward: y = y·c₀ + mlp(x)·c₁, c = softmax(x·Wᵀ + b) over the pair, or, of one
// coefficient, c = (1, sigmoid(x·Wᵀ)), and of none (1, 1). It
// needs nothing of the experts, so its two halves, up and down, are what a rank computes while rows travel to the experts
// and back; mix computes what has not been until then. A nil branch, of a layer without, does nothing.
type branch struct {
	*Residual
	layer              *Layer
	workspace          *Workspace
	x                  kernels.Tensor
	coef, inner, dense kernels.Tensor // [tokens, 2 or 1], [tokens, ffn], [tokens, hidden]: none before they are computed
}

func (l *Layer) branch(x kernels.Tensor, w *Workspace) *branch {
	if l.Residual == nil {
		return nil
	}
	return &branch{Residual: l.Residual, layer: l, workspace: w, x: x}
}

// room makes room for the MLP's results beside the experts'.
func (b *branch) room(e *exchangeBuffers) error {
	if b == nil {
		return nil
	}
	_, err := e.room(&e.dense, "results of the residual branch", e.act, b.x.Rows, b.x.Cols)
	return err
}

// gaps is in how many parts own rows are computed: while counts, rows and results travel or, where the branch's halves
// come before and after them, in two.
func (b *branch) gaps() int {
	if b == nil {
		return 3
	}
	return 2
}

// up computes the coefficients' logits and the inside of the MLP. Experts that are all here use its memory.
func (b *branch) up(s kernels.Stream) {
	if b == nil {
		return
	}
	w := b.workspace
	w.enter(Dense)
	b.inner = w.inner.Reshape(b.x.Rows, b.Up.Out())
	if b.Mix != nil {
		b.coef = w.coef.Reshape(b.x.Rows, b.Mix.Out())
		s.Linear(b.coef, b.x, b.Mix, kernels.Epilogue{})
	}
	s.Linear(b.inner, b.x, b.Up, b.layer.Act)
}

// down computes the MLP's results into to.
func (b *branch) down(ctx context.Context, s kernels.Stream, to kernels.Tensor) error {
	if b == nil {
		return nil
	}
	b.workspace.enter(Dense)
	b.dense = to.Reshape(b.x.Rows, b.x.Cols)
	if err := b.workspace.Sum.Linear(ctx, s, b.dense, b.inner, b.Down, false); err != nil {
		return fmt.Errorf("residual branch: %w", err)
	}
	return nil
}

// mix adds the branch to the experts' results y.
func (b *branch) mix(ctx context.Context, s kernels.Stream, y kernels.Tensor) error {
	if b == nil {
		return nil
	}
	if b.dense.None() { // the experts' results are combined, and their memory is no longer needed
		b.up(s)
		if err := b.down(ctx, s, b.workspace.slots); err != nil {
			return err
		}
	}
	b.workspace.enter(Dense)
	if b.Mix == nil {
		s.Add(y, b.dense)
	} else {
		s.Mix(y, y, b.dense, b.coef)
	}
	return nil
}
