package cuda

import "github.com/dsbatch/dsbatch/kernels"

type storeArgs struct {
	q, k, v, cos, sin                        mat
	position, slot, cache, fault             handle
	heads, kvHeads, dim, turned, interleaved int32
	blockTokens, slots, positions, op        int32
	_                                        int32
}

// Store rotates q and k in place and puts k and v into the cache.
func (s *Stream) Store(kv kernels.Cache, layer int, q, k, v kernels.Tensor, b kernels.Batch, rope *kernels.Rope) {
	const op = opStore
	c := s.checkCache(op, kv, layer)
	if s.err != nil {
		return
	}
	dim, width := c.spec.HeadDim, c.spec.HeadDim*c.spec.KVHeads
	s.checkFloat(op, "q", q, b.Tokens, anySize)
	s.check(op, "k", k, q.DType, b.Tokens, width)
	s.check(op, "v", v, q.DType, b.Tokens, width)
	s.checkVector(op, "slot", b.Slot, b.Tokens)
	if s.err == nil && q.Cols%dim != 0 {
		s.fail("%s: q is %v, want heads of %d", op, q, dim)
	}
	if rope != nil {
		s.checkRope(op, rope, dim)
		s.checkVector(op, "position", b.Position, b.Tokens)
	}
	if s.err != nil || b.Tokens == 0 {
		return
	}
	a := storeArgs{q: matOf(q), k: matOf(k), v: matOf(v), slot: address(b.Slot), cache: c.layer(layer), fault: s.dev.fault.address,
		heads: int32(q.Cols / dim), kvHeads: int32(c.spec.KVHeads), dim: int32(dim), blockTokens: int32(c.spec.BlockTokens),
		slots: int32(c.spec.Blocks * c.spec.BlockTokens), op: int32(op)}
	if rope != nil {
		a.cos, a.sin, a.position = matOf(rope.Cos), matOf(rope.Sin), address(b.Position)
		a.turned, a.positions = int32(rope.Dim), int32(rope.Cos.Rows)
		if rope.Interleaved {
			a.interleaved = 1
		}
	}
	key, warps := kernelKey{program{file: "rope.cu", a: q.DType, b: c.spec.DType}, "store"}, min(8, int(a.heads+2*a.kvHeads))
	if a.interleaved == 0 && a.turned%16 == 0 && dim%8 == 0 {
		key.name, warps = "store_chunks", min(8, ceilDiv(int((a.heads+a.kvHeads)*a.turned/16)+int(a.kvHeads)*dim/8, 32))
	}
	enqueue(s, op, key, grid{x: b.Tokens, threads: 32 * warps}, &a)
}

func (s *Stream) checkRope(op opNumber, r *kernels.Rope, dim int) {
	if s.err == nil && (r.Dim < 2 || r.Dim%2 != 0 || r.Dim > dim) {
		s.fail("%s: rope turns %d values of a head of %d, want an even number of them", op, r.Dim, dim)
	}
	s.check(op, "rope cos", r.Cos, kernels.F32, anySize, r.Dim/2)
	s.check(op, "rope sin", r.Sin, kernels.F32, r.Cos.Rows, r.Dim/2)
}
