package model

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// Model is a loaded model on one device: this rank's share of the weights. Load makes it.
type Model struct {
	Config Config
	DType  kernels.DType // of the linear weights

	device    kernels.Device
	embed     kernels.Tensor // [vocab, hidden]
	positions kernels.Tensor // [window, hidden], or none
	layers    []layer
	norm      kernels.Norm
	head      kernels.Weights // [vocab, hidden]
	rope      *kernels.Rope
	owned     []interface{ Free() }
	bytes     int64
}

// layer is one transformer layer: x += attention(norm(x)); x += mlp(norm(x)).
type layer struct {
	attnNorm, mlpNorm kernels.Norm
	qkv, out          kernels.Weights
	qNorm, kNorm      *kernels.Norm
	up, down          kernels.Weights // dense layers
	moe               *moe.Layer      // the others
}

// Step is what one forward pass is given.
type Step struct {
	IDs   kernels.Tensor // [1, tokens] I32
	Batch kernels.Batch
	Cache kernels.Cache
	// Hidden, where not nil, is called with the residual stream before each layer, and once more, with layer ==
	// Layers, after the final norm; x is good until it returns.
	Hidden func(layer int, x kernels.Tensor) error
	// Routed, where not nil, is called after each MoE layer with its gate's decision and the logits [tokens, experts]
	// behind it, both good until it returns.
	Routed func(layer int, r kernels.Routing, logits kernels.Tensor) error
}

// Device is where the model lies.
func (m *Model) Device() kernels.Device { return m.device }

// Bytes is the memory of the weights.
func (m *Model) Bytes() int64 { return m.bytes }

// Head is the output embedding, [vocab, hidden]: logits = hidden·Wᵀ.
func (m *Model) Head() kernels.Weights { return m.head }

// CacheSpec describes a KV cache of so many blocks for this model.
func (m *Model) CacheSpec(blocks, blockTokens int) kernels.CacheSpec {
	d := m.device.Activations(m.DType)
	if m.DType == kernels.BF16 {
		d = kernels.BF16 // keys and values are kept in the model's own type, and half the bytes read
	}
	return kernels.CacheSpec{DType: d, Layers: m.Config.Layers, Blocks: blocks, BlockTokens: blockTokens,
		KVHeads: m.Config.KVHeads, HeadDim: m.Config.HeadDim}
}

// Forward runs one step and returns the hidden states after the final norm, [tokens, hidden], which live in w until
// the next step. Ranks that share experts call it together, those without tokens too.
func (m *Model) Forward(ctx context.Context, s kernels.Stream, step Step, w *Workspace) (kernels.Tensor, error) {
	tokens, c := step.IDs.Cols, &m.Config
	if tokens > w.tokens {
		return kernels.Tensor{}, fmt.Errorf("a step of %d tokens in a workspace for %d", tokens, w.tokens)
	}
	x, h := w.x.RowRange(0, tokens), w.h.RowRange(0, tokens)
	w.enter(Dense)
	s.Embed(x, step.IDs, m.embed, step.Batch.Position, m.positions)
	w.moe.Begin()
	for i := range m.layers {
		if step.Hidden != nil {
			if err := step.Hidden(i, x); err != nil {
				return kernels.Tensor{}, err
			}
		}
		if err := ctx.Err(); err != nil {
			return kernels.Tensor{}, err
		}
		l := &m.layers[i]
		s.Norm(h, x, kernels.Tensor{}, l.attnNorm)
		m.attention(s, i, x, h, step, w)
		s.Norm(h, x, kernels.Tensor{}, l.mlpNorm)
		if l.moe != nil {
			y := w.y.RowRange(0, tokens)
			if err := l.moe.Forward(ctx, s, y, h, w.moe); err != nil {
				return kernels.Tensor{}, fmt.Errorf("layer %d: %w", i, err)
			}
			w.enter(Dense)
			if step.Routed != nil {
				r, logits := w.moe.Routed()
				if err := step.Routed(i, r, logits); err != nil {
					return kernels.Tensor{}, err
				}
			}
			s.Add(x, y)
			continue
		}
		inner := w.inner.Reshape(tokens, c.FFN)
		s.Linear(inner, h, l.up, kernels.Epilogue{Act: c.Act})
		s.Linear(x, inner, l.down, kernels.Epilogue{Add: true})
	}
	s.Norm(h, x, kernels.Tensor{}, m.norm)
	if step.Hidden != nil {
		if err := step.Hidden(c.Layers, h); err != nil {
			return kernels.Tensor{}, err
		}
	}
	return h, nil
}

// attention adds layer i's attention over h to x.
func (m *Model) attention(s kernels.Stream, i int, x, h kernels.Tensor, step Step, w *Workspace) {
	c, l := &m.Config, &m.layers[i]
	qkv := w.qkv.RowRange(0, h.Rows)
	s.Linear(qkv, h, l.qkv, kernels.Epilogue{})
	heads, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	q, k, v := qkv.ColRange(0, heads), qkv.ColRange(heads, heads+kv), qkv.ColRange(heads+kv, heads+2*kv)
	if l.qNorm != nil {
		s.Norm(q, q, kernels.Tensor{}, *l.qNorm)
		s.Norm(k, k, kernels.Tensor{}, *l.kNorm)
	}
	w.enter(Attention)
	s.Store(step.Cache, i, q, k, v, step.Batch, m.rope)
	a := w.attn.RowRange(0, h.Rows)
	s.Attention(a, q, step.Cache, i, step.Batch, kernels.AttentionSpec{
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Scale: c.scale(i), Causal: true, Window: c.Sliding})
	w.enter(Dense)
	s.Linear(x, a, l.out, kernels.Epilogue{Add: true})
}

// Close gives the weights' memory back.
func (m *Model) Close() {
	for _, o := range m.owned {
		o.Free()
	}
	m.owned = nil
}
