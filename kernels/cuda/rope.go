package cuda

import "github.com/dsbatch/dsbatch/kernels"

type storeArgs struct {
	q, k, v, cos, sin                        mat
	position, slot, cache, fault             handle
	heads, kvHeads, dim, turned, interleaved int32
	blockTokens, slots, positions, op        int32
	_                                        int32
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
	if how.QNorm != nil {
		s.Norm(q, q, kernels.Tensor{}, *how.QNorm)
	}
	if how.KNorm != nil {
		s.Norm(k, k, kernels.Tensor{}, *how.KNorm)
	}
	dim := c.spec.HeadDim
	latent := c.spec.Latent > 0
	if latent {
		v = k // which has an address
	}
	a := storeArgs{q: matOf(q), k: matOf(k), v: matOf(v), slot: address(b.Slot), cache: c.layer(layer), fault: s.dev.fault.address,
		heads: int32(q.Cols / dim), kvHeads: int32(c.spec.KVHeads), dim: int32(dim), blockTokens: int32(c.spec.BlockTokens),
		slots: int32(c.spec.Blocks * c.spec.BlockTokens), op: int32(op)}
	if rope := how.Rope; rope != nil {
		a.cos, a.sin, a.position = matOf(rope.Cos), matOf(rope.Sin), address(b.Position)
		a.turned, a.positions = int32(rope.Dim), int32(rope.Cos.Rows)
		if rope.Interleaved {
			a.interleaved = 1
		}
	}
	key, warps := kernelKey{program{file: "rope.cu", a: q.DType, b: c.spec.DType, latent: latent}, "store"}, min(8, int(a.heads+2*a.kvHeads))
	if !latent && a.interleaved == 0 && a.turned%16 == 0 && dim%8 == 0 {
		key.name, warps = "store_chunks", min(8, ceilDiv(int((a.heads+a.kvHeads)*a.turned/16)+int(a.kvHeads)*dim/8, 32))
	}
	enqueue(s, op, key, grid{x: b.Tokens, threads: 32 * warps}, &a)
}
