package cuda

import (
	"math/bits"

	"github.com/dsbatch/dsbatch/kernels"
)

type storeArgs struct {
	q, k, v, cos, sin                        mat
	position, slot, cache, fault             handle
	heads, kvHeads, dim, turned, interleaved int32
	blockTokens, slots, positions, op, shift int32
	qWeight, kWeight                         handle
	qEps, kEps                               float32
}

// Store norms and rotates q and k and puts k and v into the cache.
func (s *Stream) Store(kv kernels.Cache, layer int, q, k, v kernels.Tensor, b kernels.Batch, how kernels.StoreSpec) {
	const op = opStore
	c := s.openCache(op, kv, layer)
	if s.err != nil {
		return
	}
	if s.note(rules.Store(c.spec, q, k, v, b, how)); s.err != nil || b.Tokens == 0 {
		return
	}
	name, threads := storeKernel(c.spec, q, k, how)
	if name == storeAny || name == storeHeads { // which have no norms
		if how.QNorm != nil {
			s.Norm(q, q, kernels.Tensor{}, *how.QNorm)
		}
		if how.KNorm != nil {
			s.Norm(k, k, kernels.Tensor{}, *how.KNorm)
		}
		how.QNorm, how.KNorm = nil, nil
	}
	dim := c.spec.HeadDim
	latent := c.spec.Latent > 0
	if latent {
		v = k // which has an address
	}
	a := storeArgs{q: matOf(q), k: matOf(k), v: matOf(v), slot: address(b.Slot), cache: c.layer(layer), fault: s.dev.fault.address,
		heads: int32(q.Cols / dim), kvHeads: int32(c.spec.KVHeads), dim: int32(dim), blockTokens: int32(c.spec.BlockTokens),
		slots: int32(c.spec.Blocks * c.spec.BlockTokens), op: int32(op), shift: int32(headShift(dim))}
	if rope := how.Rope; rope != nil {
		a.cos, a.sin, a.position = matOf(rope.Cos), matOf(rope.Sin), address(b.Position)
		a.turned, a.positions, a.interleaved = int32(rope.Dim), int32(rope.Cos.Rows), truth(rope.Interleaved)
	}
	if n := how.QNorm; n != nil {
		a.qWeight, a.qEps = address(n.Weight), n.Eps
	}
	if n := how.KNorm; n != nil {
		a.kWeight, a.kEps = address(n.Weight), n.Eps
	}
	enqueue(s, op, kernelKey{program{file: "rope.cu", a: q.DType, b: c.spec.DType, latent: latent}, name}, grid{x: b.Tokens, threads: threads}, &a)
}

// The kernels of rope.cu.
const (
	storeAny    = "store"        // any heads, no norms
	storeHeads  = "store_heads"  // heads in chunks, no norms
	storeNormed = "store_normed" // with norms by heads
	storeRows   = "store_rows"   // with norms over all heads
)

// headShift is the logarithm of the threads that have a head's chunks of 8 values: 4 or more.
func headShift(dim int) int { return max(2, bits.Len(uint(ceilDiv(dim, 8)-1))) }

// storeKernel is the kernel that does the most of how for such q and k, norms first, and the threads of a block.
func storeKernel(c kernels.CacheSpec, q, k kernels.Tensor, how kernels.StoreSpec) (name string, threads int) {
	heads, lanes := q.Cols/c.HeadDim, 1<<headShift(c.HeadDim)
	if r := how.Rope; c.Latent > 0 || c.HeadDim%8 != 0 || lanes > 32 || r != nil && (r.Interleaved || r.Dim%16 != 0) {
		return storeAny, 32 * min(8, heads+2*c.KVHeads)
	}
	plain := func(n *kernels.Norm, groups int) bool { // as the kernels have them
		return n == nil || n.Kind == kernels.RMSNorm && n.Bias.None() && max(1, n.Groups) == groups
	}
	byHeads := min(256, 32*ceilDiv((heads+2*c.KVHeads)*lanes, 4*32))
	switch {
	case how.QNorm == nil && how.KNorm == nil:
		return storeHeads, byHeads
	case plain(how.QNorm, heads) && plain(how.KNorm, c.KVHeads):
		return storeNormed, byHeads
	case how.QNorm != nil && how.KNorm != nil && plain(how.QNorm, 1) && plain(how.KNorm, 1) && q.Cols == k.Cols && lanes*8 == c.HeadDim &&
		q.Cols > normWarp && q.Cols <= normHeld:
		return storeRows, normThreads(q.Cols)
	}
	return storeHeads, byHeads
}
