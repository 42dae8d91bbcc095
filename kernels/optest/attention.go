package optest

import (
	"cmp"
	"fmt"
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

type attentionCase struct {
	heads, kvHeads, dim int
	lengths             []int
	window              int
	bidirectional       bool
	blockTokens         int
	spread              float64 // deviation of the logits; 0: 1
	rotated             int     // values of a head that are stored by way of a rotation, by nothing
	alibi               bool
	latent              int // values of a key that are its value
	sinks               bool
}

func testAttention(k *kit) {
	for _, c := range []attentionCase{
		{heads: 1, kvHeads: 1, dim: 4, lengths: []int{1}, blockTokens: 16},
		{heads: 2, kvHeads: 2, dim: 8, lengths: []int{3, 1, 17}, blockTokens: 1},
		{heads: 3, kvHeads: 3, dim: 16, lengths: []int{5, 63}, blockTokens: 3},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{64, 65, 1, 128}, blockTokens: 16},
		{heads: 8, kvHeads: 1, dim: 32, lengths: []int{129, 16}, blockTokens: 32},
		{heads: 6, kvHeads: 2, dim: 80, lengths: []int{40, 200}, blockTokens: 16, rotated: 32},
		{heads: 2, kvHeads: 2, dim: 128, lengths: []int{300}, blockTokens: 64, rotated: 128},
		{heads: 2, kvHeads: 1, dim: 256, lengths: []int{70, 2}, blockTokens: 16},
		{heads: 2, kvHeads: 1, dim: 20, lengths: []int{33, 90}, blockTokens: 16},
		{heads: 4, kvHeads: 2, dim: 16, lengths: []int{150, 9, 70}, blockTokens: 16, window: 1},
		{heads: 4, kvHeads: 2, dim: 16, lengths: []int{150, 9, 70}, blockTokens: 16, window: 37},
		{heads: 4, kvHeads: 4, dim: 64, lengths: []int{150}, blockTokens: 5, window: 64},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{1, 77, 31}, blockTokens: 16, bidirectional: true},
		{heads: 6, kvHeads: 6, dim: 64, lengths: []int{1, 77, 131}, blockTokens: 16, alibi: true},
		{heads: 6, kvHeads: 2, dim: 20, lengths: []int{40, 70}, blockTokens: 5, alibi: true, window: 37},
		{heads: 34, kvHeads: 1, dim: 128, lengths: []int{150, 2}, blockTokens: 64, alibi: true},
		{heads: 3, kvHeads: 1, dim: 24, latent: 16, lengths: []int{1, 77, 31}, blockTokens: 16, rotated: 8},
		{heads: 6, kvHeads: 2, dim: 20, latent: 20, lengths: []int{40, 70}, blockTokens: 5, window: 37},
		{heads: 5, kvHeads: 1, dim: 576, latent: 512, lengths: []int{2, 100}, blockTokens: 16, rotated: 64},
		{heads: 16, kvHeads: 1, dim: 576, latent: 512, lengths: []int{100, 3}, blockTokens: 16, spread: 6},
		{heads: 40, kvHeads: 1, dim: 576, latent: 512, lengths: []int{1, 33}, blockTokens: 7, window: 20},
		{heads: 128, kvHeads: 1, dim: 576, latent: 512, lengths: []int{19, 1}, blockTokens: 64},
		{heads: 6, kvHeads: 2, dim: 576, latent: 512, lengths: []int{1, 29, 66}, blockTokens: 16, bidirectional: true},
		{heads: 37, kvHeads: 1, dim: 80, latent: 64, lengths: []int{9, 70}, blockTokens: 64, rotated: 16},
		{heads: 4, kvHeads: 2, dim: 64, lengths: []int{64, 65, 1, 150}, blockTokens: 16, sinks: true},
		{heads: 8, kvHeads: 1, dim: 128, lengths: []int{1, 40, 131}, blockTokens: 16, window: 37, sinks: true},
		{heads: 34, kvHeads: 2, dim: 20, lengths: []int{40, 70}, blockTokens: 5, sinks: true},
		{heads: 2, kvHeads: 1, dim: 256, lengths: []int{70, 2}, blockTokens: 16, window: 16, sinks: true},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{1, 77, 31}, blockTokens: 16, bidirectional: true, sinks: true},
		{heads: 6, kvHeads: 3, dim: 64, lengths: []int{90, 3}, blockTokens: 16, alibi: true, sinks: true},
		{heads: 8, kvHeads: 4, dim: 64, lengths: []int{130, 3}, blockTokens: 16, spread: 30, sinks: true},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{200}, blockTokens: 16, spread: 30},
		{heads: 4, kvHeads: 4, dim: 32, lengths: []int{200, 3}, blockTokens: 16, spread: 3000},
	} {
		for _, act := range k.activations() {
			for _, d := range []kernels.DType{kernels.F32, kernels.BF16} {
				v := k.conversation(c, act, d)
				want, scale := v.byDefinition()
				for name, steps := range map[string][][]chunk{"whole": v.whole(), "in steps": v.ragged(k)} {
					if c.bidirectional && name != "whole" {
						continue // what a token sees of its sequence must be there
					}
					what := fmt.Sprintf("attention %+v, cache %v, %s", c, d, name)
					got := v.play(k, steps)
					tol := max(k.tol.of(d), k.tol.of(act)) * (1 + largestOf(c.spread)/4)
					for s := range want {
						k.nearBy(fmt.Sprintf("%s: sequence %d", what, s), decode(act, got[s]), want[s], 8*tol*scale)
					}
				}
				k.release()
			}
		}
	}
}

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

// byDefinition is the rows of each sequence, and the largest magnitude of V.
func (v *conversation) byDefinition() (rows [][]float64, scale float64) {
	for i, s := range v.seqs {
		var out []float64
		for t := range s.length {
			out = append(out, v.rowByDefinition(i, t)...)
		}
		rows = append(rows, out)
		scale = max(scale, largestOf(s.kept[1]...))
	}
	return rows, scale
}

// rowByDefinition is that of token t of a sequence.
func (v *conversation) rowByDefinition(seq, t int) []float64 {
	heads, dim, values, group, s := v.spec.Heads, v.spec.HeadDim, v.cacheOf.Values(), v.spec.Heads/v.spec.KVHeads, v.seqs[seq]
	lo, hi := 0, t+1
	if !v.spec.Causal {
		hi = s.length
	}
	if v.spec.Window > 0 {
		lo = max(0, t+1-v.spec.Window)
	}
	out := make([]float64, heads*values)
	for h := range heads {
		at := func(x []float64, dim int) func(p int) []float64 {
			return func(p int) []float64 { return x[(p*v.spec.KVHeads+h/group)*dim:][:dim] }
		}
		lean := func(int) float64 { return 0 }
		if v.slopes != nil {
			lean = func(p int) float64 { return v.slopes[h] * float64(p-t) }
		}
		sink := math.Inf(-1)
		if v.sinks != nil {
			sink = v.sinks[h]
		}
		attendByDefinition(out[h*values:][:values], s.q[(t*heads+h)*dim:][:dim], float64(v.spec.Scale), lo, hi, sink, lean, at(s.kept[0], dim), at(s.kept[1], values))
	}
	return out
}

func attendByDefinition(out, q []float64, scale float64, lo, hi int, sink float64, lean func(int) float64, k, v func(int) []float64) {
	logits, top := make([]float64, hi-lo), sink
	for i := range logits {
		logits[i] = lean(lo + i)
		for d, x := range k(lo + i) {
			logits[i] += scale * q[d] * x
		}
		top = max(top, logits[i])
	}
	sum := math.Exp(sink - top)
	for _, l := range logits {
		sum += math.Exp(l - top)
	}
	for i, l := range logits {
		weight := math.Exp(l-top) / sum
		for d, x := range v(lo + i) {
			out[d] += weight * x
		}
	}
}
