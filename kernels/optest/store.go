package optest

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

type storeCase struct {
	heads, kvHeads, dim, rotated int // rotated values of a head; 0: none
	interleaved                  bool
	tokens                       int
	norm                         string // of q and k: "", "heads", "rows", or of one of them: "q", "k", over heads
	kind                         kernels.NormKind
	bias                         bool
}

// testStore looks at q; at K and V it looks by attention.
func testStore(k *kit) {
	const rms, layer = kernels.RMSNorm, kernels.LayerNorm
	for _, act := range k.activations() {
		for _, c := range []storeCase{
			{heads: 1, kvHeads: 1, dim: 4, rotated: 2, tokens: 0},
			{heads: 1, kvHeads: 1, dim: 4, rotated: 4, tokens: 1},
			{heads: 4, kvHeads: 2, dim: 16, rotated: 16, tokens: 3},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 17, interleaved: true},
			{heads: 3, kvHeads: 1, dim: 80, rotated: 20, tokens: 9},
			{heads: 3, kvHeads: 1, dim: 80, rotated: 32, tokens: 9},
			{heads: 3, kvHeads: 3, dim: 256, rotated: 64, tokens: 5, interleaved: true},
			{heads: 3, kvHeads: 3, dim: 256, rotated: 256, tokens: 5},
			{heads: 1, kvHeads: 1, dim: 320, rotated: 320, tokens: 2},
			{heads: 2, kvHeads: 2, dim: 96, rotated: 96, tokens: 130},
			{heads: 2, kvHeads: 1, dim: 24, rotated: 6, tokens: 5, interleaved: true},
			{heads: 71, kvHeads: 1, dim: 64, rotated: 64, tokens: 3},
			{heads: 2, kvHeads: 2, dim: 64, tokens: 3},
		} {
			k.project(act, c)
		}
		for _, c := range []storeCase{
			{heads: 4, kvHeads: 2, dim: 128, rotated: 128, tokens: 0, norm: "heads", kind: rms},
			{heads: 32, kvHeads: 4, dim: 128, rotated: 128, tokens: 6, norm: "heads", kind: rms},
			{heads: 5, kvHeads: 5, dim: 128, rotated: 96, tokens: 7, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 64, rotated: 32, tokens: 9, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 64, tokens: 4, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 3, dim: 96, rotated: 96, tokens: 5, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 80, rotated: 20, tokens: 3, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 256, rotated: 256, tokens: 3, norm: "heads", kind: rms},
			{heads: 2, kvHeads: 1, dim: 512, rotated: 512, tokens: 3, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 8, rotated: 8, tokens: 21, norm: "heads", kind: rms},
			{heads: 3, kvHeads: 1, dim: 15, rotated: 6, tokens: 5, norm: "heads", kind: rms, interleaved: true},
			{heads: 4, kvHeads: 2, dim: 128, rotated: 128, tokens: 3, norm: "heads", kind: rms, interleaved: true},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 3, norm: "heads", kind: layer, bias: true},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 3, norm: "heads", kind: rms, bias: true},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 3, norm: "q", kind: rms},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 3, norm: "k", kind: rms},
			{heads: 16, kvHeads: 16, dim: 128, rotated: 128, tokens: 5, norm: "rows", kind: rms},
			{heads: 17, kvHeads: 17, dim: 64, rotated: 32, tokens: 3, norm: "rows", kind: rms},
			{heads: 34, kvHeads: 34, dim: 128, rotated: 128, tokens: 3, norm: "rows", kind: rms},
			{heads: 9, kvHeads: 9, dim: 128, tokens: 2, norm: "rows", kind: rms},
			{heads: 65, kvHeads: 65, dim: 128, rotated: 128, tokens: 1, norm: "rows", kind: rms},
			{heads: 16, kvHeads: 16, dim: 96, rotated: 96, tokens: 2, norm: "rows", kind: rms},
			{heads: 16, kvHeads: 4, dim: 128, rotated: 128, tokens: 2, norm: "rows", kind: rms},
			{heads: 10, kvHeads: 10, dim: 128, rotated: 128, tokens: 2, norm: "rows", kind: rms, interleaved: true},
			{heads: 10, kvHeads: 10, dim: 128, rotated: 128, tokens: 2, norm: "rows", kind: layer, bias: true},
			{heads: 4, kvHeads: 4, dim: 32, rotated: 32, tokens: 3, norm: "rows", kind: rms},
		} {
			for _, k.aligned = range []bool{true, false} {
				k.project(act, c)
			}
		}
		k.store(act)
	}
}

// project stores q, k and v as c has them. With norms, q and the cache have the bits that Norm and then a Store without
// norms give; without them, q is near its definition, and the cache as if k had been rotated as a q.
func (k *kit) project(act kernels.DType, c storeCase) {
	const positions, block = 40, 16
	what := fmt.Sprintf("store %v %+v", act, c)
	if k.aligned {
		what += ", aligned"
	}
	half := c.rotated / 2
	cos, sin := make([]float64, positions*half), make([]float64, positions*half)
	for i := range cos {
		angle := float64(i/half) / math.Pow(10000, float64(i%half)/float64(half))
		cos[i], sin[i] = math.Cos(angle), math.Sin(angle)
	}
	var rope *kernels.Rope
	if half > 0 {
		rope = &kernels.Rope{Dim: c.rotated, Interleaved: c.interleaved,
			Cos: k.floats(kernels.F32, positions, half, cos).Tensor, Sin: k.floats(kernels.F32, positions, half, sin).Tensor}
	}
	slots := make([]int32, c.tokens)
	for i := range slots {
		slots[i] = int32(c.tokens - 1 - i)
		if i%5 == 2 {
			slots[i] = -1
		}
	}
	position := k.indices(c.tokens, positions)
	b := kernels.Batch{Tokens: c.tokens, Position: k.vector(position).Tensor, Slot: k.vector(slots).Tensor}
	wide, narrow := c.heads*c.dim, c.kvHeads*c.dim
	q, kk := k.normal(c.tokens*wide, 1), k.normal(c.tokens*narrow, 1)
	vb := k.floats(act, c.tokens, narrow, k.normal(c.tokens*narrow, 1)).Tensor
	at := func(x []float64, cols int) *buffer { return k.floats(act, c.tokens, cols, x) }
	with, without := kernels.StoreSpec{Rope: rope}, kernels.StoreSpec{Rope: rope}
	if c.norm != "k" && c.norm != "" {
		with.QNorm = k.normOf(c, wide)
	}
	if c.norm != "q" && c.norm != "" {
		with.KNorm = k.normOf(c, narrow)
	}
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16} {
		spec := kernels.CacheSpec{DType: d, Layers: 1, Blocks: max(1, (c.tokens+block-1)/block), BlockTokens: block, KVHeads: c.kvHeads, HeadDim: c.dim}
		got, want := k.newCache(spec), k.newCache(spec)
		k.fillCache(got, act, 0.5)
		k.fillCache(want, act, 0.5)
		qb := at(q, wide)
		k.stream.Store(got, 0, qb.Tensor, at(kk, narrow).Tensor, vb, b, with)

		q2, k2 := at(q, wide), at(kk, narrow)
		if with.QNorm != nil {
			k.stream.Norm(q2.Tensor, q2.Tensor, kernels.Tensor{}, *with.QNorm)
		}
		if with.KNorm != nil {
			k.stream.Norm(k2.Tensor, k2.Tensor, kernels.Tensor{}, *with.KNorm)
		}
		apart := k.newCache(spec)
		none := b
		none.Slot = k.vector(slices.Repeat([]int32{-1}, c.tokens)).Tensor
		k.stream.Store(apart, 0, q2.Tensor, at(kk, narrow).Tensor, vb, none, without)
		k.stream.Store(apart, 0, k2.Tensor, at(kk, narrow).Tensor, vb, none, without)
		k.stream.Store(want, 0, q2.Tensor, k2.Tensor, vb, b, kernels.StoreSpec{})
		if !bytes.Equal(k.bits(qb), k.bits(q2)) {
			k.Fatalf("%s: q has other bits than by Norm and Store", what)
		}
		if c.tokens > 0 && !bytes.Equal(k.probe(got, act, c), k.probe(want, act, c)) {
			k.Fatalf("%s: the cache of %v has other bits than by Norm and Store", what, d)
		}
		if c.norm == "" {
			k.nearBy(what, k.values(qb), rotated(c, q, position, cos, sin), 4*k.tol.of(act)*largestOf(q...))
		}
		for _, x := range []kernels.Cache{got, want, apart} {
			x.Free()
		}
	}
	k.release()
}

// normOf is the norm of rows of cols that c asks for.
func (k *kit) normOf(c storeCase, cols int) *kernels.Norm {
	n := kernels.Norm{Kind: c.kind, Eps: 1e-5}
	if c.norm != "rows" {
		n.Groups, cols = cols/c.dim, c.dim
	}
	n.Weight = k.floats(kernels.F32, 1, cols, k.normal(cols, 1)).Tensor
	if c.bias {
		n.Bias = k.floats(kernels.F32, 1, cols, k.normal(cols, 1)).Tensor
	}
	return &n
}

// rotated is x [tokens, heads·dim] turned by definition.
func rotated(c storeCase, x []float64, position []int32, cos, sin []float64) []float64 {
	x = slices.Clone(x)
	half := c.rotated / 2
	for i := range c.tokens * c.heads {
		head, at := x[i*c.dim:(i+1)*c.dim], int(position[i/c.heads])*half
		for p := range half {
			m, n := p, p+half
			if c.interleaved {
				m, n = 2*p, 2*p+1
			}
			cs, sn := cos[at+p], sin[at+p]
			head[m], head[n] = head[m]*cs-head[n]*sn, head[n]*cs+head[m]*sn
		}
	}
	return x
}

// probe is what attention gives for queries that look at one dimension each, over all of c's tokens: other bits of K or V
// give other bits. Of many heads, 16 of their dimensions.
func (k *kit) probe(cache kernels.Cache, act kernels.DType, c storeCase) []byte {
	s := cache.Spec()
	n := c.dim
	if c.kvHeads > 8 {
		n = 16
	}
	q := make([]float64, n*c.kvHeads*c.dim)
	for i := range n {
		for h := range c.kvHeads {
			q[(i*c.kvHeads+h)*c.dim+i*c.dim/n] = 4
		}
	}
	table := make([]int32, s.Blocks)
	for i := range table {
		table[i] = int32(i)
	}
	out := k.output(act, n, c.kvHeads*c.dim)
	same := func(v int32) kernels.Tensor { return k.vector(slices.Repeat([]int32{v}, n)).Tensor }
	k.stream.Attention(out.Tensor, k.floats(act, n, c.kvHeads*c.dim, q).Tensor, cache, 0,
		kernels.Batch{Tokens: n, Seqs: 1, Position: same(0), Seq: same(0), Slot: same(-1), Start: k.vector([]int32{0, int32(n)}).Tensor,
			Blocks: k.ints(1, s.Blocks, table).Tensor, MaxContext: c.tokens},
		kernels.AttentionSpec{Heads: c.kvHeads, KVHeads: c.kvHeads, HeadDim: c.dim, Scale: 1, Context: k.vector([]int32{int32(c.tokens)}).Tensor})
	return k.bits(out)
}

// store checks by attention over one position, which gives back V, that slots -1 leave the cache as it was, that
// layers are apart, and that the cache rounds to its type.
func (k *kit) store(act kernels.DType) {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16} {
		const heads, dim, layers, block = 3, 20, 3, 16
		c := k.newCache(kernels.CacheSpec{DType: d, Layers: layers, Blocks: 3, BlockTokens: block, KVHeads: heads, HeadDim: dim})
		k.fillCache(c, act, math.NaN())
		put := func(layer int, v []float64, slots ...int32) {
			q := k.floats(act, len(slots), heads*dim, k.normal(len(slots)*heads*dim, 1))
			b := kernels.Batch{Tokens: len(slots), Slot: k.vector(slots).Tensor}
			k.stream.Store(c, layer, q.Tensor, q.Tensor, k.floats(act, len(slots), heads*dim, v).Tensor, b, kernels.StoreSpec{})
		}
		look := func(layer int, slot int32) []float64 { // V at a slot, seen through a window of one token
			q, out := k.floats(act, 1, heads*dim, k.normal(heads*dim, 1)), k.output(act, 1, heads*dim)
			place := slot % block
			b := kernels.Batch{Tokens: 1, Seqs: 1, Position: k.vector([]int32{place}).Tensor, Seq: k.vector([]int32{0}).Tensor,
				Slot: k.vector([]int32{-1}).Tensor, Start: k.vector([]int32{0, 1}).Tensor,
				Blocks: k.ints(1, 1, []int32{slot / block}).Tensor, MaxContext: int(place) + 1}
			k.stream.Attention(out.Tensor, q.Tensor, c, layer, b, kernels.AttentionSpec{
				Heads: heads, KVHeads: heads, HeadDim: dim, Scale: 1, Causal: true, Window: 1})
			return k.values(out)
		}
		const row = heads * dim
		v := k.normal(4*row, 1)
		put(1, v, 5, 47, -1, 16)
		for i, slot := range []int32{5, 47, -1, 16} {
			if slot >= 0 {
				want := append([]float64(nil), v[i*row:(i+1)*row]...)
				for j := range want {
					want[j] = roundTo(d, want[j])
				}
				k.nearBy(fmt.Sprintf("store %v: slot %d", d, slot), look(1, slot), want, k.tol.of(act))
			}
		}
		for _, other := range []struct {
			layer int
			slot  int32
		}{{0, 5}, {2, 5}, {1, 4}, {1, 6}, {1, 0}, {1, 15}, {1, 17}} {
			if got := look(other.layer, other.slot); !math.IsNaN(got[0]) || !math.IsNaN(got[row-1]) {
				k.Errorf("store %v: layer %d, slot %d was written", d, other.layer, other.slot)
			}
		}
		c.Free()
		k.release()
	}
}
