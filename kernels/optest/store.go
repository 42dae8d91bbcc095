package optest

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type ropeCase struct {
	heads, kvHeads, dim, rotated int
	interleaved                  bool
	tokens                       int
}

// testStore looks at the rotated q and k; that K and V are where they belong is seen by attention alone.
func testStore(k *kit) {
	for _, act := range k.activations() {
		for _, c := range []ropeCase{
			{heads: 1, kvHeads: 1, dim: 4, rotated: 2, tokens: 0},
			{heads: 1, kvHeads: 1, dim: 4, rotated: 4, tokens: 1},
			{heads: 4, kvHeads: 2, dim: 16, rotated: 16, tokens: 3},
			{heads: 4, kvHeads: 2, dim: 64, rotated: 64, tokens: 17, interleaved: true},
			{heads: 3, kvHeads: 1, dim: 80, rotated: 20, tokens: 9},
			{heads: 3, kvHeads: 1, dim: 80, rotated: 32, tokens: 9},
			{heads: 3, kvHeads: 3, dim: 256, rotated: 64, tokens: 5, interleaved: true},
			{heads: 2, kvHeads: 2, dim: 96, rotated: 96, tokens: 130},
			{heads: 2, kvHeads: 1, dim: 24, rotated: 6, tokens: 5, interleaved: true},
		} {
			k.rotate(act, c)
		}
		k.store(act)
	}
}

func (k *kit) rotate(act kernels.DType, c ropeCase) {
	const positions = 40
	half := c.rotated / 2
	cos, sin := make([]float64, positions*half), make([]float64, positions*half)
	for i := range cos {
		angle := float64(i/half) / math.Pow(10000, float64(i%half)/float64(half))
		cos[i], sin[i] = math.Cos(angle), math.Sin(angle)
	}
	rope := &kernels.Rope{Dim: c.rotated, Interleaved: c.interleaved,
		Cos: k.floats(kernels.F32, positions, half, cos).Tensor, Sin: k.floats(kernels.F32, positions, half, sin).Tensor}
	cache := k.newCache(kernels.CacheSpec{DType: kernels.F32, Layers: 1, Blocks: 1, BlockTokens: 16,
		KVHeads: c.kvHeads, HeadDim: c.dim})
	defer cache.Free()
	slots := make([]int32, c.tokens)
	for i := range slots {
		slots[i] = -1
	}
	position := k.indices(c.tokens, positions)
	b := kernels.Batch{Tokens: c.tokens, Position: k.vector(position).Tensor, Slot: k.vector(slots).Tensor}
	q, kk, vv := k.normal(c.tokens*c.heads*c.dim, 1), k.normal(c.tokens*c.kvHeads*c.dim, 1), k.normal(c.tokens*c.kvHeads*c.dim, 1)
	qb, kb := k.floats(act, c.tokens, c.heads*c.dim, q), k.floats(act, c.tokens, c.kvHeads*c.dim, kk)
	vb := k.floats(act, c.tokens, c.kvHeads*c.dim, vv)
	k.stream.Store(cache, 0, qb.Tensor, kb.Tensor, vb.Tensor, b, rope)
	for name, x := range map[string]struct {
		got   []float64
		was   []float64
		heads int
	}{"q": {k.values(qb), q, c.heads}, "k": {k.values(kb), kk, c.kvHeads}} {
		want := append([]float64(nil), x.was...)
		for i := range c.tokens * x.heads {
			head, at := want[i*c.dim:(i+1)*c.dim], int(position[i/x.heads])*half
			for p := range half {
				m, n := p, p+half
				if c.interleaved {
					m, n = 2*p, 2*p+1
				}
				cs, sn := cos[at+p], sin[at+p]
				head[m], head[n] = head[m]*cs-head[n]*sn, head[n]*cs+head[m]*sn
			}
		}
		k.nearBy(fmt.Sprintf("rope %v %+v: %s", act, c, name), x.got, want, 4*k.tol.of(act)*largestOf(x.was...))
	}
	k.nearBy("rope: v", k.values(vb), vv, 0)
	k.release()
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
			k.stream.Store(c, layer, q.Tensor, q.Tensor, k.floats(act, len(slots), heads*dim, v).Tensor, b, nil)
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
