package model

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// Model is a loaded model on one device: this rank's share of the weights. Load makes it.
type Model struct {
	Config Config        // of the whole model
	DType  kernels.DType // of the linear weights

	slicing
	stage      stage
	tp         *comm.Group // nil: one rank
	device     kernels.Device
	embed      kernels.Tensor  // [vocab, Config.Width], whole; the first stage's
	widen      kernels.Weights // [hidden, Config.Width] where they differ, else nil; the first stage's
	positions  kernels.Tensor  // [types·window, hidden], or none; the first stage's
	embedNorm  *kernels.Norm   // nil: none; the first stage's
	layers     []layer         // of the stage
	norm       kernels.Norm    // the last stage's
	narrow     kernels.Weights // [Config.Width, hidden], like widen; the last stage's
	head       kernels.Weights // [this rank's vocab, Config.Width]; the last stage's, where there is one
	heads      heads           // what encoders have besides; the last stage's
	vocabulary *vocabulary     // nil: this rank's is all
	rope       *kernels.Rope
	slopes     kernels.Tensor // of this rank's heads, or none
	largest    moe.Shape      // of the MoE layers that are here, without tokens and hidden
	inner      int            // widest inside of the dense ones
	owned      []interface{ Free() }
	bytes      int64
	layerBytes []int64      // of the linear weights of each layer here
	ring       kernels.Ring // that brings the layers whose weights wait in the host's memory; nil: there are none
}

// layer is one transformer layer, in the config's Order.
type layer struct {
	attnNorm, mlpNorm kernels.Norm
	qkv               kernels.Weights   // this rank's heads of q, k and v
	out               []kernels.Weights // the slices of its inputs that are here
	qNorm, kNorm      *kernels.Norm
	sinks             kernels.Tensor    // [1, this rank's heads], or none
	latent            *latent           // of latent attention, else nil
	up                kernels.Weights   // dense layers
	down              []kernels.Weights // the same, in slices
	moe               *moe.Layer        // the others
	group             int               // of the ring; -1: its weights are on the device
}

// Step is what one forward pass is given.
type Step struct {
	IDs   kernels.Tensor // [1, tokens] I32; read by the first pipeline stage
	In    kernels.Tensor // [tokens, hidden]: what Forward gave on the stage before; the first one's is none
	Batch kernels.Batch
	Place kernels.Tensor // [1, tokens] I32: Config.Place of the tokens; none: their positions, which are those of the first type
	Cache kernels.Cache
	// Context [1, seqs] I32 is the tokens of each sequence, all of which are in this step; for bidirectional models.
	Context kernels.Tensor
	Most    int // tokens of any rank in this step, where ranks that share experts know; 0: as many as the workspace is for
	// Hidden, where not nil, is called with the residual stream before each layer of the stage, and once more, with
	// layer == Layers, after the final norm, where there is one; x is good until it returns.
	Hidden func(layer int, x kernels.Tensor) error
	// Routed, where not nil, is called after each MoE layer with its gate's decision and the logits [tokens, experts]
	// behind it, both good until it returns.
	Routed func(layer int, r kernels.Routing, logits kernels.Tensor) error
}

// Device is where the model lies.
func (m *Model) Device() kernels.Device { return m.device }

// Bytes is the memory of the weights that are here, in bytes, padding of tiles included once they are loaded.
func (m *Model) Bytes() int64 { return m.bytes }

// Layers is the layers of the pipeline stage that is here: from, up to but not including to.
func (m *Model) Layers() (from, to int) { return m.stage.From, m.stage.To }

// CacheSpec describes a KV cache of so many blocks for the layers and heads that are here.
func (m *Model) CacheSpec(blocks, blockTokens int) kernels.CacheSpec {
	d := m.device.Activations(m.DType)
	if m.DType == kernels.BF16 || m.DType == kernels.I8 {
		d = kernels.BF16 // keys and values are no finer than the weights that make them, and half the bytes are read
	}
	layers := m.stage.Len()
	if m.Config.Bidirectional { // whole sequences: no later step looks at what a layer has stored
		layers = 1
	}
	return kernels.CacheSpec{DType: d, Layers: layers, Blocks: blocks, BlockTokens: blockTokens,
		KVHeads: m.own().KV.Len(), HeadDim: m.Config.keyDim(), Latent: m.Config.latentValues()}
}

// Forward runs one step through the layers of the stage. On the last one it returns what Logits takes, the hidden states
// after the final norm [tokens, Config.Width], on earlier ones the residual stream [tokens, hidden]; they live in w until
// the next step. Ranks
// that share experts call it together, those without tokens too; the ranks of a tp group with the same step. An op's
// failure is told by the stream's Sync; an error is that of an exchange, of ctx, or of one of step's callbacks.
func (m *Model) Forward(ctx context.Context, s kernels.Stream, step Step, w *Workspace) (kernels.Tensor, error) {
	tokens := step.Batch.Tokens
	if tokens > w.tokens {
		return kernels.Tensor{}, fmt.Errorf("a step of %d tokens in a workspace for %d", tokens, w.tokens)
	}
	x, h := w.x.RowRange(0, tokens), w.h.RowRange(0, tokens)
	w.enter(Dense)
	if m.stage.first {
		m.embedTokens(s, x, h, step, w)
	} else {
		s.Copy(x, step.In)
	}
	w.moe.Begin(step.Most)
	w.pending = kernels.Tensor{}
	for i := range m.layers {
		if step.Hidden != nil {
			w.settle(s, x)
			if err := step.Hidden(m.stage.From+i, x); err != nil {
				return kernels.Tensor{}, err
			}
		}
		if err := ctx.Err(); err != nil {
			return kernels.Tensor{}, err
		}
		group := m.layers[i].group
		if group >= 0 {
			m.ring.Enter(s, group)
		}
		if err := m.layer(ctx, s, i, x, h, step, w); err != nil {
			return kernels.Tensor{}, fmt.Errorf("layer %d: %w", m.stage.From+i, err)
		}
		if group >= 0 {
			m.ring.Leave(s, group)
		}
	}
	if !m.stage.last {
		w.settle(s, x)
		return x, nil
	}
	if m.Config.finalNorm() {
		s.Norm(h, x, w.take(), m.norm)
	} else {
		w.settle(s, x)
		h = x
	}
	if m.narrow != nil {
		narrow := w.embedded.RowRange(0, tokens)
		s.Linear(narrow, h, m.narrow, kernels.Epilogue{})
		h = narrow
	}
	if step.Hidden != nil {
		if err := step.Hidden(m.Config.Layers, h); err != nil {
			return kernels.Tensor{}, err
		}
	}
	return h, nil
}

// embedTokens makes the residual stream x of the step's ids; h is room for as much.
func (m *Model) embedTokens(s kernels.Stream, x, h kernels.Tensor, step Step, w *Workspace) {
	at := step.Batch.Position
	if !step.Place.None() {
		at = step.Place
	}
	switch {
	case m.widen == nil:
		s.Embed(x, step.IDs, m.embed, at, m.positions)
	default:
		narrow := w.embedded.RowRange(0, x.Rows)
		s.Embed(narrow, step.IDs, m.embed, kernels.Tensor{}, kernels.Tensor{})
		s.Linear(x, narrow, m.widen, kernels.Epilogue{})
		if !m.positions.None() {
			s.Embed(h, at, m.positions, kernels.Tensor{}, kernels.Tensor{})
			s.Add(x, h)
		}
	}
	if m.embedNorm != nil {
		s.Norm(x, x, kernels.Tensor{}, *m.embedNorm)
	}
}

// layer runs the i-th layer that is here on the residual stream x. h is room for what its parts look at.
func (m *Model) layer(ctx context.Context, s kernels.Stream, i int, x, h kernels.Tensor, step Step, w *Workspace) error {
	l, order := &m.layers[i], m.Config.Order
	if order == PostNorm {
		h = x
	} else {
		s.Norm(h, x, w.take(), l.attnNorm)
	}
	seen := h // by the MLP
	if order == Parallel {
		seen = w.y.RowRange(0, x.Rows)
		s.Norm(seen, x, kernels.Tensor{}, l.mlpNorm)
	}
	if err := m.attention(ctx, s, i, x, h, step, w); err != nil {
		return fmt.Errorf("attention: %w", err)
	}
	switch order {
	case PreNorm:
		s.Norm(h, x, kernels.Tensor{}, l.mlpNorm)
	case PostNorm:
		s.Norm(x, x, kernels.Tensor{}, l.attnNorm)
	}
	if l.moe == nil {
		if err := m.mlp(ctx, s, l, x, seen, w); err != nil {
			return err
		}
		if order == PostNorm {
			s.Norm(x, x, kernels.Tensor{}, l.mlpNorm)
		}
		return nil
	}
	y := w.y.RowRange(0, x.Rows)
	if err := l.moe.Forward(ctx, s, y, h, w.moe); err != nil {
		return err
	}
	w.enter(Dense)
	if step.Routed != nil {
		r, logits := w.moe.Routed()
		if err := step.Routed(m.stage.From+i, r, logits); err != nil {
			return err
		}
	}
	w.pending = y
	return nil
}

// mlp adds a dense layer's MLP, over h, to x.
func (m *Model) mlp(ctx context.Context, s kernels.Stream, l *layer, x, h kernels.Tensor, w *Workspace) error {
	inner := w.inner.Reshape(x.Rows, l.up.Out())
	s.Linear(inner, h, l.up, m.Config.activation())
	if err := w.sum.Linear(ctx, s, x, inner, l.down, true); err != nil {
		return fmt.Errorf("mlp: %w", err)
	}
	return nil
}

// attention adds the attention of the i-th layer that is here, over h, to x.
func (m *Model) attention(ctx context.Context, s kernels.Stream, i int, x, h kernels.Tensor, step Step, w *Workspace) error {
	c, l, own := &m.Config, &m.layers[i], m.own()
	if l.latent != nil {
		return m.latentAttention(ctx, s, i, x, h, step, w)
	}
	qkv := w.qkv.RowRange(0, h.Rows)
	s.Linear(qkv, h, l.qkv, kernels.Epilogue{})
	heads, kv := own.Q.Len()*c.HeadDim, own.KV.Len()*c.HeadDim
	q, k, v := qkv.ColRange(0, heads), qkv.ColRange(heads, heads+kv), qkv.ColRange(heads+kv, heads+2*kv)
	how := kernels.StoreSpec{Rope: m.rope}
	if w.projected == nil {
		how.QNorm, how.KNorm = l.qNorm, l.kNorm
	} else if err := w.projected.norm(ctx, s, q, k, l); err != nil {
		return err
	}
	w.enter(Attention)
	at := i
	if c.Bidirectional {
		at = 0 // as CacheSpec has it
	}
	s.Store(step.Cache, at, q, k, v, step.Batch, how)
	a := w.attn.RowRange(0, h.Rows)
	s.Attention(a, q, step.Cache, at, step.Batch, kernels.AttentionSpec{
		Heads: own.Q.Len(), KVHeads: own.KV.Len(), HeadDim: c.HeadDim, Scale: c.scale(m.stage.From + i), Causal: !c.Bidirectional,
		Window: c.window(m.stage.From + i), Context: step.Context, Slopes: m.slopes, Sinks: l.sinks})
	w.enter(Dense)
	return w.sum.Linear(ctx, s, x, a, l.out, true)
}

// Close gives the weights' memory back.
func (m *Model) Close() {
	for _, o := range m.owned {
		o.Free()
	}
	m.owned = nil
	m.vocabulary.free()
	m.heads.free()
	if m.ring != nil {
		_ = m.ring.Close() // no work is left that could fail
		m.ring = nil
	}
}
