package cuda

import "github.com/dsbatch/dsbatch/kernels"

type attentionArgs struct {
	out, q, blocks                                   mat
	cache, position, seq, context, fault             handle
	tokens, heads, kvHeads, dim, blockTokens, window int32
	scale                                            float32
	op, cacheBlocks, mostContext                     int32
}

// attentionDims are the head sizes that attention.cu has kernels for: the next larger one serves.
var attentionDims = [...]struct {
	dim  int
	name string
}{{64, "attention_64"}, {128, "attention_128"}, {256, "attention_256"}, {512, "attention_512"}}

// Attention of every token over its sequence's KV.
func (s *Stream) Attention(out, q kernels.Tensor, kv kernels.Cache, layer int, b kernels.Batch, spec kernels.AttentionSpec) {
	const op = opAttention
	c := s.checkCache(op, kv, layer)
	if s.err != nil {
		return
	}
	if spec.KVHeads != c.spec.KVHeads || spec.HeadDim != c.spec.HeadDim || spec.Heads < 1 || spec.Heads%spec.KVHeads != 0 {
		s.fail("%s: %d heads of %d over %d of K and V; the cache has %d of %d", op, spec.Heads, spec.HeadDim, spec.KVHeads, c.spec.KVHeads, c.spec.HeadDim)
	}
	s.checkFloat(op, "q", q, b.Tokens, spec.Heads*spec.HeadDim)
	s.check(op, "out", out, q.DType, b.Tokens, spec.Heads*spec.HeadDim)
	s.checkVector(op, "position", b.Position, b.Tokens)
	s.checkVector(op, "seq", b.Seq, b.Tokens)
	if b.Tokens > 0 {
		s.check(op, "blocks", b.Blocks, kernels.I32, anySize, anySize)
		if s.err == nil && (b.Blocks.Rows < b.Seqs || b.Blocks.Cols*c.spec.BlockTokens < b.MaxContext) {
			s.fail("%s: blocks is %v, want a row for each of %d sequences, and blocks of %d for %d tokens", op, b.Blocks, b.Seqs, c.spec.BlockTokens, b.MaxContext)
		}
	}
	if !spec.Causal {
		s.checkVector(op, "context", spec.Context, b.Seqs)
	}
	if s.err != nil || b.Tokens == 0 {
		return
	}
	a := attentionArgs{out: matOf(out), q: matOf(q), blocks: matOf(b.Blocks), cache: c.layer(layer), position: address(b.Position),
		seq: address(b.Seq), fault: s.dev.fault.address, tokens: int32(b.Tokens), heads: int32(spec.Heads), kvHeads: int32(spec.KVHeads),
		dim: int32(spec.HeadDim), blockTokens: int32(c.spec.BlockTokens), window: int32(spec.Window), scale: spec.Scale, op: int32(op),
		cacheBlocks: int32(c.spec.Blocks)}
	if !spec.Causal {
		a.context = address(spec.Context)
	}
	for _, k := range attentionDims {
		if spec.HeadDim <= k.dim {
			enqueue(s, op, kernelKey{program{file: "attention.cu", a: q.DType, b: c.spec.DType}, k.name},
				grid{x: b.Tokens, y: spec.Heads, threads: 128}, &a)
			return
		}
	}
	s.fail("%s: heads of %d values; %d is the most", op, spec.HeadDim, attentionDims[len(attentionDims)-1].dim)
}
