package model

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// Latent is multi-head latent attention (arXiv 2405.04434): keys and values of all heads are made of one narrow vector a
// token, the latent, beside one key that is rotated and shared by all heads.
//
// The cache holds these two alone, as one KV head: [rotated | latent], whose value is the latent. So a head's query, [not
// rotated | rotated], is turned into that space beforehand, q·W_k, and what attention gives of the latents is turned into the
// head's values afterwards, W_v·a: the same sums in another order, for every token of every step alike.
type Latent struct {
	Query int // columns that a token is narrowed to before its queries are made; 0: they are made of all of it
	KV    int // columns of the latent
	Plain int // values of a head's query and key that are not rotated; Rope.Dim are
	Value int // of a head's value
}

// latent is the weights of a layer of latent attention, beside what every kind has; its qkv makes [narrow query | key's
// rotated values | latent].
type latent struct {
	queryNorm *kernels.Norm   // of the narrow query; nil: there is none
	norm      kernels.Norm    // of the latent
	query     kernels.Weights // [this rank's heads · HeadDim, Query or hidden]
	keys      kernels.Weights // of each of this rank's heads [KV, Plain]: from its query to what is multiplied with latents
	values    kernels.Weights // of each [Value, KV]
}

// latentRoom is the part of a workspace that latent attention needs besides.
type latentRoom struct {
	heads, query    kernels.Tensor // [tokens, this rank's heads · …]
	offsets         kernels.Tensor // [1, heads+1]: where the rows of each head begin, head by head
	byHead, byToken kernels.Tensor // [1, tokens · heads]: rows that are ordered by token, in the order of heads, and the other way round
	tokens          int            // for which the three are filled; -1: for none yet
}

// rotated is how many values of a head are.
func (c *Config) rotated() int {
	if c.Rope == nil {
		return 0
	}
	return c.Rope.Dim
}

// keyDim and valueDim are the sizes of what the cache holds of a head.
func (c *Config) keyDim() int {
	if c.Latent != nil {
		return c.rotated() + c.Latent.KV
	}
	return c.HeadDim
}

func (c *Config) valueDim() int {
	if c.Latent != nil {
		return c.Latent.KV
	}
	return c.HeadDim
}

// latentValues are those of a key in the cache that are its value too; 0 where they are apart.
func (c *Config) latentValues() int {
	if c.Latent == nil {
		return 0
	}
	return c.Latent.KV
}

// OutDim is the size of a head's result, which the output projection takes.
func (c *Config) OutDim() int {
	if c.Latent != nil {
		return c.Latent.Value
	}
	return c.HeadDim
}

// PositionFLOPs is what a token takes of each position that it sees, in one layer: a product and a sum for each value of the
// keys and of the values of so many heads.
func (c *Config) PositionFLOPs(heads int) float64 {
	return 2 * float64(heads) * float64(c.keyDim()+c.valueDim())
}

// AttentionWeights are how many weights a layer's attention has: those of heads, which tp ranks share, and those that each of
// them holds.
func (c *Config) AttentionWeights() (ofHeads, whole int64) {
	hidden, heads := int64(c.Hidden), int64(c.Heads)
	if k := c.Latent; k != nil {
		from := hidden
		if k.Query > 0 {
			from = int64(k.Query)
		}
		each := from*int64(c.HeadDim) + int64(k.KV)*int64(k.Plain+k.Value) + hidden*int64(k.Value)
		return heads * each, hidden * int64(k.Query+k.KV+c.rotated())
	}
	return 2 * hidden * int64(c.Heads+c.KVHeads) * int64(c.HeadDim), 0
}

// checkLatent refuses what latent attention cannot be.
func (c *Config) checkLatent() error {
	k := c.Latent
	switch {
	case k == nil:
		return nil
	case k.KV < 1 || k.Plain < 1 || k.Value < 1 || k.Query < 0 || max(k.KV, k.Plain, k.Value, k.Query) > 1<<20:
		return fmt.Errorf("%w: latent attention with a latent of %d, queries narrowed to %d, and heads of %d values that are not rotated and values of %d; sizes are 1 to %d",
			ErrConfig, k.KV, k.Query, k.Plain, k.Value, 1<<20)
	case c.Rope == nil || c.HeadDim != k.Plain+c.Rope.Dim || c.KVHeads != 1:
		return fmt.Errorf("%w: latent attention with heads of %d, %d of them not rotated", ErrConfig, c.HeadDim, k.Plain)
	case c.Order != PreNorm || c.QKNorm != NoQKNorm || c.ALiBi || c.Bidirectional || c.Sliding > 0:
		return fmt.Errorf("%w: latent attention is supported in causal layers that norm before each part and see all positions", ErrConfig)
	}
	return nil
}

// latent loads a layer's attention but its output projection, which y gets.
func (l *loader) latent(i int, y *layer) {
	c, k, own, turned := l.config, l.config.Latent, l.slicing.own().Q, l.config.rotated()
	hidden := l.slicing.hidden
	rows := func(from, to int) window {
		return window{k.KV + turned, c.Hidden, shard.Range{From: from, To: to}, hidden}
	}
	down := []kernels.Linear{l.linear("attn.kv.down", i, 0, rows(k.KV, k.KV+turned), c.Bias.QKV), l.linear("attn.kv.down", i, 0, rows(0, k.KV), c.Bias.QKV)}
	y.latent = &latent{}
	query, in := "attn.q", c.Hidden
	if k.Query > 0 {
		query, in = "attn.q.up", k.Query
		down = append([]kernels.Linear{l.linear("attn.q.down", i, 0, l.whole(k.Query, c.Hidden), c.Bias.QKV)}, down...)
	}
	y.qkv = l.pack(fmt.Sprintf("layer %d attention", i), l.one(stacked(down...)))
	if k.Query > 0 {
		n := l.normAt("attn.q.norm", i, k.Query, 0)
		y.latent.queryNorm = &n
	}
	y.latent.norm = l.normAt("attn.kv.norm", i, k.KV, 0)
	y.latent.query = l.pack(fmt.Sprintf("layer %d queries", i), l.one(l.linear(query, i, 0,
		window{c.Heads * c.HeadDim, in, shard.Range{From: own.From * c.HeadDim, To: own.To * c.HeadDim}, shard.Range{To: in}}, false)))
	l.latentHeads(i, y.latent)
}

// latentHeads packs what makes keys and values of the latent, a matrix a head, in no less than 16 bits: what is rounded to 8
// is an output of the checkpoint's matrix, and these have others.
func (l *loader) latentHeads(i int, y *latent) {
	c, k, own := l.config, l.config.Latent, l.slicing.own().Q
	each := k.Plain + k.Value
	both := l.linear("attn.kv.up", i, 0, window{c.Heads * each, k.KV, shard.Range{From: own.From * each, To: own.To * each}, shard.Range{To: k.KV}}, false).Parts[0]
	keys, values := kernels.WeightSpec{DType: l.headType()}, kernels.WeightSpec{DType: l.headType()}
	for h := range own.Len() {
		keys.Experts = append(keys.Experts, kernels.Linear{Parts: []kernels.Matrix{rowsOf(both, h*each, h*each+k.Plain)}, Transposed: true})
		values.Experts = append(values.Experts, kernels.Linear{Parts: []kernels.Matrix{rowsOf(both, h*each+k.Plain, (h+1)*each)}})
	}
	held := l.held
	y.keys = l.pack(fmt.Sprintf("layer %d keys of the latent", i), keys)
	l.held = held // whose memory is let go of after the second
	y.values = l.pack(fmt.Sprintf("layer %d values of the latent", i), values)
}

// headType is the type of the matrices of latentHeads.
func (l *loader) headType() kernels.DType {
	if d := l.options.DType; d != kernels.I8 {
		return d
	}
	if d := l.device.Activations(kernels.I8); d != kernels.F32 {
		return d
	}
	return kernels.BF16
}

// rowsOf is some rows of a matrix, of which the first pass knows the shape alone.
func rowsOf(m kernels.Matrix, from, to int) kernels.Matrix {
	if m.Data != nil {
		size := m.Cols * m.DType.Size()
		m.Data = m.Data[from*size : to*size]
	}
	m.Rows = to - from
	return m
}

// latentAttention adds the attention of the i-th layer that is here, over h, to x.
func (m *Model) latentAttention(ctx context.Context, s kernels.Stream, i int, x, h kernels.Tensor, step Step, w *Workspace) error {
	c, k, l := &m.Config, m.Config.Latent, &m.layers[i]
	tokens, heads, turned, room := h.Rows, m.own().Q.Len(), c.rotated(), &w.latent
	rows, dim := tokens*heads, c.keyDim()
	room.order(s, tokens, heads)
	byHead, byToken := room.byHead.ColRange(0, rows), room.byToken.ColRange(0, rows)

	down := w.qkv.RowRange(0, tokens)
	s.Linear(down, h, l.qkv, kernels.Epilogue{})
	narrow, key := h, down.ColRange(k.Query, k.Query+dim)
	if k.Query > 0 {
		narrow = down.ColRange(0, k.Query)
		s.Norm(narrow, narrow, kernels.Tensor{}, *l.latent.queryNorm)
	}
	latents := key.ColRange(turned, dim)
	s.Norm(latents, latents, kernels.Tensor{}, l.latent.norm)

	s.Linear(room.heads.Reshape(tokens, heads*c.HeadDim), narrow, l.latent.query, kernels.Epilogue{})
	queries, query, turnedQueries := room.heads.Reshape(rows, c.HeadDim), room.query.Reshape(rows, dim), w.attn.Reshape(rows, k.KV)
	s.Grouped(turnedQueries, queries.ColRange(0, k.Plain), l.latent.keys, room.offsets, byHead, 1, kernels.Epilogue{})
	s.Select(query.ColRange(turned, dim), turnedQueries, byToken, 1)
	s.Copy(query.ColRange(0, turned), queries.ColRange(k.Plain, c.HeadDim))

	w.enter(Attention)
	q, a := room.query.Reshape(tokens, heads*dim), w.attn.Reshape(tokens, heads*k.KV)
	s.Store(step.Cache, i, q, key, kernels.Tensor{}, step.Batch, kernels.StoreSpec{Rope: m.rope})
	s.Attention(a, q, step.Cache, i, step.Batch, kernels.AttentionSpec{
		Heads: heads, KVHeads: 1, HeadDim: dim, Scale: c.scale(m.stage.From + i), Causal: true})
	w.enter(Dense)

	values, out := room.heads.Reshape(rows, k.Value), room.query.Reshape(rows, k.Value)
	s.Grouped(values, w.attn.Reshape(rows, k.KV), l.latent.values, room.offsets, byHead, 1, kernels.Epilogue{})
	s.Select(out, values, byToken, 1)
	return w.sum.Linear(ctx, s, x, room.query.Reshape(tokens, heads*k.Value), l.out, true)
}

// order fills the tables by which rows of heads are found, for so many tokens, unless the last step had as many.
func (r *latentRoom) order(s kernels.Stream, tokens, heads int) {
	if r.tokens == tokens {
		return
	}
	r.tokens = tokens
	var offsets, byHead, byToken []byte
	for h := range heads + 1 {
		offsets = binary.LittleEndian.AppendUint32(offsets, uint32(h*tokens))
	}
	for i := range tokens * heads {
		h, t := i/max(tokens, 1), i%max(tokens, 1)
		byHead = binary.LittleEndian.AppendUint32(byHead, uint32(t*heads+h))
		t, h = i/heads, i%heads
		byToken = binary.LittleEndian.AppendUint32(byToken, uint32(h*tokens+t))
	}
	s.Write(r.offsets, offsets)
	s.Write(r.byHead.ColRange(0, tokens*heads), byHead)
	s.Write(r.byToken.ColRange(0, tokens*heads), byToken)
}

// latentWidths are the columns of the room's tensors.
func (m *Model) latentWidths() (heads, query int) {
	c, own := &m.Config, m.own().Q.Len()
	if c.Latent == nil {
		return 0, 0
	}
	return own * max(c.HeadDim, c.Latent.Value), own * max(c.keyDim(), c.Latent.Value)
}

// latentTables are the room's tables, and their columns, for so many tokens.
func (m *Model) latentTables(r *latentRoom, tokens int) (tables []*kernels.Tensor, cols []int) {
	if m.Config.Latent == nil {
		return nil, nil
	}
	heads := m.own().Q.Len()
	return []*kernels.Tensor{&r.offsets, &r.byHead, &r.byToken}, []int{heads + 1, cmp.Or(tokens, 1) * heads, cmp.Or(tokens, 1) * heads}
}
