package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// Sections of a step, as Measure names them, beside those of package moe.
const (
	Attention = "attention"
	Dense     = moe.Dense
)

// Workspace is the memory of one forward pass of up to a number of tokens.
type Workspace struct {
	tokens                    int
	x, h, y, qkv, attn, inner kernels.Tensor
	embedded                  kernels.Tensor // where the embeddings are of another width
	projected                 *projected     // where a norm looks at heads of other ranks too
	latent                    latentRoom     // of latent attention
	sum                       *comm.Sum      // nil: nothing is cut
	moe                       *moe.Workspace
	pending                   kernels.Tensor // what a layer has computed and the next norm adds to x
	tensors                   []kernels.Tensor
}

// WorkspaceBytes is the memory that a workspace for so many tokens takes.
func (m *Model) WorkspaceBytes(tokens int) int64 {
	act := m.device.Activations(m.DType)
	var bytes int64
	for _, cols := range m.widths() {
		bytes += int64(tokens) * int64(cols) * int64(act.Size())
	}
	_, tables := m.latentTables(new(latentRoom), tokens)
	for _, cols := range tables {
		bytes += int64(cols) * int64(kernels.I32.Size())
	}
	if m.sums() {
		bytes += comm.SumBytes(m.tp, m.ownSlices(), tokens, m.Config.Hidden)
	}
	return bytes + m.moeShape(tokens).Bytes(act)
}

// NewWorkspace takes the memory for steps of up to so many tokens.
func (m *Model) NewWorkspace(tokens int) (*Workspace, error) {
	w := &Workspace{tokens: tokens}
	if err := m.fillWorkspace(w, tokens); err != nil {
		w.Free()
		return nil, fmt.Errorf("workspace for steps of %d tokens: %w", tokens, err)
	}
	return w, nil
}

func (m *Model) fillWorkspace(w *Workspace, tokens int) (err error) {
	act := m.device.Activations(m.DType)
	var whole kernels.Tensor
	to := []*kernels.Tensor{&w.x, &w.h, &w.y, &w.qkv, &w.attn, &w.inner, &whole, &w.embedded, &w.latent.heads, &w.latent.query}
	for i, cols := range m.widths() {
		if cols == 0 {
			continue
		}
		t, err := m.device.Alloc("workspace", act, tokens, cols)
		if err != nil {
			return err
		}
		*to[i], w.tensors = t, append(w.tensors, t)
	}
	w.latent.tokens = -1
	tables, cols := m.latentTables(&w.latent, tokens)
	for i, table := range tables {
		if *table, err = m.device.Alloc("workspace", kernels.I32, 1, cols[i]); err != nil {
			return err
		}
		w.tensors = append(w.tensors, *table)
	}
	if !whole.None() {
		w.projected = newProjected(m, whole)
	}
	if m.sums() {
		if w.sum, err = comm.NewSum(m.device, m.tp, m.ownSlices(), tokens, m.Config.Hidden); err != nil {
			return err
		}
	}
	if w.moe, err = moe.NewWorkspace(m.device, act, m.moeShape(tokens)); err == nil {
		w.moe.Sum = w.sum
	}
	return err
}

// ArrivalBytes is the memory that a workspace for so many tokens takes on top where rows of experts come through windows of
// so many ranks, to so many experts of a layer here.
func (m *Model) ArrivalBytes(tokens, ranks, experts int) int64 {
	return m.moeShape(tokens).ArrivalBytes(m.device.Activations(m.DType), ranks, experts)
}

// Arrive takes the memory that ArrivalBytes counts, before the first step in which rows of experts come through windows.
func (w *Workspace) Arrive(ranks, experts int) error { return w.moe.Arrive(ranks, experts) }

// take is what the next norm adds to the residual stream before it looks at it; none: nothing is pending.
func (w *Workspace) take() kernels.Tensor {
	y := w.pending
	w.pending = kernels.Tensor{}
	return y
}

// settle adds what is pending to the residual stream x, which somebody else than a norm wants to see.
func (w *Workspace) settle(s kernels.Stream, x kernels.Tensor) {
	if y := w.take(); !y.None() {
		s.Add(x, y)
	}
}

// Measure has enter called when a section of a step begins, on this and every later step.
func (w *Workspace) Measure(enter func(section string)) { w.moe.Enter = enter }

func (w *Workspace) enter(section string) {
	if w.moe.Enter != nil {
		w.moe.Enter(section)
	}
}

// Free gives the memory back.
func (w *Workspace) Free() {
	for _, t := range w.tensors {
		t.Mem.Free()
	}
	w.tensors = nil
	w.sum.Free()
	if w.moe != nil {
		w.moe.Free()
		w.moe = nil
	}
}

// ExpertTokens is how many choices each expert of each MoE layer got in the last step, from this rank's tokens;
// good after the stream's Sync. The slices are overwritten by the next step.
func (w *Workspace) ExpertTokens() [][]int32 { return w.moe.Counts() }

// ExpertRows is how many rows this rank's experts of each MoE layer computed in the last step, those of other ranks'
// tokens too; good after the stream's Sync.
func (w *Workspace) ExpertRows() []int { return w.moe.Computed() }

// widths are the columns of the workspace's tensors: residual stream, normed, MLP result or normed again, projections,
// attention result, dense MLP's inside, the projection of all ranks' heads where a norm needs it, embeddings where they are
// of another width than the stream, and latent attention's two.
func (m *Model) widths() [10]int {
	c, own := &m.Config, m.own()
	heads, whole := own.Q.Len()*c.valueDim(), 0
	qkv := heads + 2*own.KV.Len()*c.HeadDim
	if c.Latent != nil {
		qkv = c.Latent.Query + c.keyDim()
	}
	latentHeads, latentQuery := m.latentWidths()
	if c.QKNorm == QKNormFull && m.ranks > 1 {
		whole = c.Heads * c.HeadDim
	}
	embedded := 0
	if c.Width() != c.Hidden {
		embedded = c.Width()
	}
	return [10]int{c.Hidden, c.Hidden, c.Hidden, qkv, heads, max(m.inner, 1), whole, embedded, latentHeads, latentQuery}
}

// sums tells whether row-parallel products are added up from slices.
func (m *Model) sums() bool { return m.ranks > 1 || m.slices > 0 }

// ownSlices is how many slices of each row-parallel product are here.
func (m *Model) ownSlices() int { return max(1, m.slices/m.ranks) }

// moeShape is the largest MoE layer that is here.
func (m *Model) moeShape(tokens int) moe.Shape {
	s := m.largest
	s.Tokens, s.Hidden = tokens, m.Config.Hidden
	return s
}

// Traffic is what this rank has sent to those that hold the other slices of what it holds, since the workspace was made:
// partial results, columns, rows of sliced experts, shares of tokens; and through windows. What else travels to experts is the
// exchanges'.
func (m *Model) Traffic(w *Workspace) comm.Traffic {
	t := w.sum.Traffic().Plus(w.moe.Traffic())
	if p := w.projected; p != nil {
		t = t.Plus(p.q.columns.Traffic()).Plus(p.k.columns.Traffic())
	}
	if v := m.vocabulary; v != nil {
		t = t.Plus(v.columns.Traffic())
	}
	return t
}
