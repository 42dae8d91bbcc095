package optest

import (
	"cmp"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// conversation is sequences with all of their Q, K and V, to be run in steps of any shape.
type conversation struct {
	spec    kernels.AttentionSpec
	cacheOf kernels.CacheSpec
	rotated int // attentionCase's
	act     kernels.DType
	seqs    []sequence
	slopes  []float64 // of ALiBi, of each head; nil: none
	sinks   []float64 // of each head; nil: none
}

type sequence struct {
	length  int
	q, k, v []float64    // [length, heads·dim] and [length, kvHeads·dim]
	kept    [2][]float64 // k and v as the cache holds them
	blocks  []int32
}

// chunk is tokens [from, to) of a sequence.
type chunk struct{ seq, from, to int }

// conversation makes random sequences; their blocks are spread over the cache in disorder.
func (k *kit) conversation(c attentionCase, act, cacheType kernels.DType) *conversation {
	v := &conversation{act: act, rotated: c.rotated, spec: kernels.AttentionSpec{
		Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Window: c.window, Causal: !c.bidirectional,
		Scale: float32(1 / math.Sqrt(float64(c.dim))),
	}}
	if c.alibi { // from slopes that look at little but the last positions to hardly any
		for _, x := range k.normal(c.heads, 1.5) {
			v.slopes = append(v.slopes, roundTo(kernels.F32, math.Exp(x-3)))
		}
	}
	if c.sinks { // from ones that take hardly anything to ones that take nearly all
		for _, x := range k.normal(c.heads, 4*cmp.Or(c.spread, 1)) {
			v.sinks = append(v.sinks, roundTo(kernels.F32, x))
		}
	}
	if c.spread > 0 {
		v.spec.Scale *= float32(c.spread)
	}
	v.cacheOf = kernels.CacheSpec{DType: cacheType, Layers: 2, BlockTokens: c.blockTokens, KVHeads: c.kvHeads, HeadDim: c.dim, Latent: c.latent}
	for _, n := range c.lengths {
		s := sequence{length: n, q: k.normal(n*c.heads*c.dim, 1), k: k.normal(n*c.kvHeads*c.dim, 1), v: k.normal(n*c.kvHeads*c.dim, 1)}
		for range (n + c.blockTokens - 1) / c.blockTokens {
			s.blocks = append(s.blocks, int32(v.cacheOf.Blocks))
			v.cacheOf.Blocks++
		}
		for _, x := range [][]float64{s.q, s.k, s.v} {
			for i := range x {
				x[i] = roundTo(act, x[i])
			}
		}
		for i, x := range [][]float64{s.k, s.v} {
			s.kept[i] = slices.Clone(x)
			for j := range x {
				s.kept[i][j] = roundTo(cacheType, x[j])
			}
		}
		if c.latent > 0 {
			s.kept[1] = nil
			for key := range slices.Chunk(s.kept[0], c.dim) {
				s.kept[1] = append(s.kept[1], key[c.dim-c.latent:]...)
			}
		}
		v.seqs = append(v.seqs, s)
	}
	v.cacheOf.Blocks++ // one that nobody uses
	order := k.rng.Perm(v.cacheOf.Blocks)
	for _, s := range v.seqs {
		for i, b := range s.blocks {
			s.blocks[i] = int32(order[b])
		}
	}
	return v
}

// whole is all sequences in one step.
func (v *conversation) whole() [][]chunk {
	var step []chunk
	for i, s := range v.seqs {
		step = append(step, chunk{i, 0, s.length})
	}
	return [][]chunk{step}
}

// reversed is all sequences in one step, the last one first.
func (v *conversation) reversed() [][]chunk {
	steps := v.whole()
	slices.Reverse(steps[0])
	return steps
}

// ragged is steps that take some tokens of some sequences each, until all are done.
func (v *conversation) ragged(k *kit) (steps [][]chunk) {
	done := make([]int, len(v.seqs))
	for {
		var step []chunk
		left := false
		for i, s := range v.seqs {
			n := min(s.length-done[i], []int{0, 1, 1, 2, 16, 17, 40, 100}[k.rng.IntN(8)])
			if n > 0 {
				step = append(step, chunk{i, done[i], done[i] + n})
				done[i] += n
			}
			left = left || done[i] < s.length
		}
		if len(step) > 0 {
			steps = append(steps, step)
		}
		if !left {
			return steps
		}
	}
}

// play runs steps on a new cache full of NaN, and returns the bytes of each sequence's rows, those that ran.
func (v *conversation) play(k *kit, steps [][]chunk) [][]byte {
	k.Helper()
	c := k.newCache(v.cacheOf)
	defer c.Free()
	got := make([][]byte, len(v.seqs))
	for i, s := range v.seqs {
		got[i] = make([]byte, s.length*v.spec.Heads*v.cacheOf.Values()*v.act.Size())
	}
	k.fillCache(c, v.act, math.NaN())
	for _, step := range steps {
		out := v.step(k, c, step)
		row := len(out) / max(1, v.tokens(step))
		for _, p := range step {
			n := (p.to - p.from) * row
			copy(got[p.seq][p.from*row:], out[:n])
			out = out[n:]
		}
	}
	return got
}

func (v *conversation) tokens(step []chunk) (n int) {
	for _, p := range step {
		n += p.to - p.from
	}
	return n
}

const layerUsed = 1 // of the caches here

// remember stores the chunks' K and V.
func (v *conversation) remember(k *kit, c kernels.Cache, step []chunk) {
	k.Helper()
	b := k.batch(v, step)
	_, kk, vv := v.gather(step)
	narrow := v.spec.KVHeads * v.spec.HeadDim
	kb := k.floats(v.act, b.Tokens, narrow, kk)
	k.stream.Store(c, layerUsed, kb.Tensor, kb.Tensor, v.values(k.floats(v.act, b.Tokens, narrow, vv)), b, kernels.StoreSpec{})
	k.sync()
}

// step stores the chunks' K and V and attends.
func (v *conversation) step(k *kit, c kernels.Cache, step []chunk) []byte {
	k.Helper()
	b := k.batch(v, step)
	q, kk, vv := v.gather(step)
	wide, narrow := v.spec.Heads*v.spec.HeadDim, v.spec.KVHeads*v.spec.HeadDim
	qb := k.floats(v.act, b.Tokens, wide, q)
	kb, vb := k.floats(v.act, b.Tokens, narrow, kk), k.floats(v.act, b.Tokens, narrow, vv)
	out := k.output(v.act, b.Tokens, v.spec.Heads*v.cacheOf.Values())
	k.stream.Store(c, layerUsed, qb.Tensor, kb.Tensor, v.values(vb), b, kernels.StoreSpec{Rope: v.rope(k)})
	spec := v.spec
	if !spec.Causal {
		var context []int32
		for _, p := range step {
			context = append(context, int32(p.to))
		}
		spec.Context = k.vector(context).Tensor
	}
	if v.slopes != nil {
		spec.Slopes = k.floats(kernels.F32, 1, len(v.slopes), v.slopes).Tensor
	}
	if v.sinks != nil {
		spec.Sinks = k.floats(kernels.F32, 1, len(v.sinks), v.sinks).Tensor
	}
	k.stream.Attention(out.Tensor, qb.Tensor, c, layerUsed, b, spec)
	return k.bits(out)
}

// values is what Store is given of V: nothing where keys hold the values.
func (v *conversation) values(vb *buffer) kernels.Tensor {
	if v.cacheOf.Latent > 0 {
		return kernels.Tensor{}
	}
	return vb.Tensor
}

// rope turns nothing: what is stored by way of it is to be what is stored without; nil where the case has none.
func (v *conversation) rope(k *kit) *kernels.Rope {
	half, longest := v.rotated/2, 0
	if half == 0 {
		return nil
	}
	for _, s := range v.seqs {
		longest = max(longest, s.length)
	}
	return &kernels.Rope{Dim: v.rotated, Cos: k.floats(kernels.F32, longest, half, slices.Repeat([]float64{1}, longest*half)).Tensor,
		Sin: k.floats(kernels.F32, longest, half, make([]float64, longest*half)).Tensor}
}

// gather copies the rows of the chunks.
func (v *conversation) gather(step []chunk) (q, kk, vv []float64) {
	wide, narrow := v.spec.Heads*v.spec.HeadDim, v.spec.KVHeads*v.spec.HeadDim
	for _, p := range step {
		s := v.seqs[p.seq]
		q = append(q, s.q[p.from*wide:p.to*wide]...)
		kk = append(kk, s.k[p.from*narrow:p.to*narrow]...)
		vv = append(vv, s.v[p.from*narrow:p.to*narrow]...)
	}
	return q, kk, vv
}

// batch describes a step. Blocks that a sequence does not need yet, or no more since they are behind its window, are -1.
func (k *kit) batch(v *conversation, step []chunk) kernels.Batch {
	b := kernels.Batch{Seqs: len(step), Tokens: v.tokens(step)}
	size := v.cacheOf.BlockTokens
	var position, slot, seq []int32
	start, columns := []int32{0}, 1
	for _, p := range step {
		columns = max(columns, len(v.seqs[p.seq].blocks)+1)
	}
	var blocks []int32
	for i, p := range step {
		for t := p.from; t < p.to; t++ {
			position = append(position, int32(t))
			slot = append(slot, v.seqs[p.seq].blocks[t/size]*int32(size)+int32(t%size))
			seq = append(seq, int32(i))
		}
		start = append(start, int32(len(position)))
		b.MaxContext = max(b.MaxContext, p.to)
		behind := 0
		if v.spec.Window > 0 {
			behind = p.from + 1 - v.spec.Window
		}
		for j := range columns {
			if j*size < p.to && (j+1)*size > behind {
				blocks = append(blocks, v.seqs[p.seq].blocks[j])
			} else {
				blocks = append(blocks, -1)
			}
		}
	}
	b.Position, b.Slot, b.Seq = k.vector(position).Tensor, k.vector(slot).Tensor, k.vector(seq).Tensor
	b.Start, b.Blocks = k.vector(start).Tensor, k.ints(len(step), columns, blocks).Tensor
	return b
}

func (k *kit) newCache(s kernels.CacheSpec) kernels.Cache {
	k.Helper()
	c, err := k.dev.NewCache(s)
	if err != nil {
		k.Fatal(err)
	}
	if c.Spec() != s {
		k.Fatalf("a cache of %+v was asked for, one of %+v came", s, c.Spec())
	}
	return c
}

// fillCache stores value everywhere.
func (k *kit) fillCache(c kernels.Cache, act kernels.DType, value float64) {
	k.Helper()
	s := c.Spec()
	tokens, width := s.Blocks*s.BlockTokens, s.KVHeads*s.HeadDim
	x := make([]float64, tokens*width)
	for i := range x {
		x[i] = value
	}
	slots := make([]int32, tokens)
	for i := range slots {
		slots[i] = int32(i)
	}
	b := kernels.Batch{Tokens: tokens, Slot: k.vector(slots).Tensor}
	for layer := range s.Layers {
		full := k.floats(act, tokens, width, x)
		values := full.Tensor
		if s.Latent > 0 {
			values = kernels.Tensor{}
		}
		k.stream.Store(c, layer, full.Tensor, full.Tensor, values, b, kernels.StoreSpec{})
	}
}
