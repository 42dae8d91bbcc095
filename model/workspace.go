package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// Sections of a step, as Measure names them, beside those of package moe.
const (
	Attention = "attention"
	Dense     = "dense"
)

// Workspace is the memory of one forward pass of up to a number of tokens.
type Workspace struct {
	tokens                    int
	x, h, y, qkv, attn, inner kernels.Tensor
	moe                       *moe.Workspace
	tensors                   []kernels.Tensor
}

// WorkspaceBytes is the memory that a workspace for so many tokens takes.
func (m *Model) WorkspaceBytes(tokens int) int64 {
	act := m.device.Activations(m.DType)
	var bytes int64
	for _, cols := range m.Config.widths() {
		bytes += int64(tokens) * int64(cols) * int64(act.Size())
	}
	return bytes + m.Config.moeShape(tokens).Bytes(act)
}

// NewWorkspace takes the memory for steps of up to so many tokens.
func (m *Model) NewWorkspace(tokens int) (*Workspace, error) {
	act, w := m.device.Activations(m.DType), &Workspace{tokens: tokens}
	to := []*kernels.Tensor{&w.x, &w.h, &w.y, &w.qkv, &w.attn, &w.inner}
	for i, cols := range m.Config.widths() {
		t, err := m.device.Alloc("workspace", act, tokens, cols)
		if err != nil {
			w.Free()
			return nil, fmt.Errorf("workspace for steps of %d tokens: %w", tokens, err)
		}
		*to[i], w.tensors = t, append(w.tensors, t)
	}
	var err error
	if w.moe, err = moe.NewWorkspace(m.device, act, m.Config.moeShape(tokens)); err != nil {
		w.Free()
		return nil, fmt.Errorf("workspace for steps of %d tokens: %w", tokens, err)
	}
	return w, nil
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
	if w.moe != nil {
		w.moe.Free()
		w.moe = nil
	}
}

// ExpertTokens is how many choices each expert of each MoE layer got in the last step, from this rank's tokens;
// good after the stream's Sync. The slices are overwritten by the next step.
func (w *Workspace) ExpertTokens() [][]int32 { return w.moe.Counts() }

// widths are the columns of the workspace's tensors: residual stream, normed, MLP result, projections, attention
// result, dense MLP's inside.
func (c *Config) widths() [6]int {
	heads := c.Heads * c.HeadDim
	return [6]int{c.Hidden, c.Hidden, c.Hidden, heads + 2*c.KVHeads*c.HeadDim, heads, max(c.FFN, 1)}
}

// moeShape is the largest MoE layer.
func (c *Config) moeShape(tokens int) moe.Shape {
	s := moe.Shape{Tokens: tokens, Hidden: c.Hidden, Layers: c.MoELayers()}
	for _, m := range c.MoE {
		if m.Gate.Experts == 0 {
			continue
		}
		s.Inner, s.Experts, s.K = max(s.Inner, m.FFN), max(s.Experts, m.Gate.Experts), max(s.K, m.Gate.K)
	}
	return s
}
