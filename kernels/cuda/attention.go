package cuda

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type attentionArgs struct {
	out, q, blocks                                   mat
	cache, position, seq, context, fault             handle
	tokens, heads, kvHeads, dim, blockTokens, window int32
	scale                                            float32
	op, cacheBlocks, _                               int32 // the last one fills the row up
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
	s.checkVector(op, "start", b.Start, b.Seqs+1)
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
	if q.DType == c.spec.DType && q.DType != kernels.F32 && spec.HeadDim%8 == 0 && spec.HeadDim <= mmaDims[len(mmaDims)-1].dim {
		s.attentionMMA(op, out, q, c, layer, b, spec)
		return
	}
	a := attentionArgs{out: matOf(out), q: matOf(q), blocks: matOf(b.Blocks), cache: c.layer(layer), position: address(b.Position),
		seq: address(b.Seq), fault: s.dev.fault.address, tokens: int32(b.Tokens), heads: int32(spec.Heads),
		kvHeads: int32(spec.KVHeads), dim: int32(spec.HeadDim), blockTokens: int32(c.spec.BlockTokens),
		window: int32(spec.Window), scale: spec.Scale, op: int32(op),
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

type attentionMMAArgs struct {
	out, q, blocks                                                      mat
	cache, position, seq, start, context, fault, partials               handle
	tokens, seqs, heads, kvHeads, dim, blockTokens, cacheBlocks, window int32
	scale                                                               float32
	op, slots, run, parts, _                                            int32
}

// mmaDims are the head sizes that attention_mma.cu has kernels for: the next larger one serves.
var mmaDims = [...]struct {
	dim                      int
	prefill, decode, combine string
}{{64, "prefill_64", "decode_64", "combine_64"}, {128, "prefill_128", "decode_128", "combine_128"}}

// attentionMMA is Attention on the tensor cores: a kernel for the sequences with several tokens in the step, and one
// for those with one, whose context may be shared by several blocks. None of that changes a bit of a token.
func (s *Stream) attentionMMA(op opNumber, out, q kernels.Tensor, c *cache, layer int, b kernels.Batch, spec kernels.AttentionSpec) {
	const tile, threads = 64, 128
	k := mmaDims[0]
	if spec.HeadDim > k.dim {
		k = mmaDims[1]
	}
	a := attentionMMAArgs{out: matOf(out), q: matOf(q), blocks: matOf(b.Blocks), cache: c.layer(layer), position: address(b.Position),
		seq: address(b.Seq), start: address(b.Start), fault: s.dev.fault.address, tokens: int32(b.Tokens), seqs: int32(b.Seqs),
		heads: int32(spec.Heads), kvHeads: int32(spec.KVHeads), dim: int32(spec.HeadDim), blockTokens: int32(c.spec.BlockTokens),
		cacheBlocks: int32(c.spec.Blocks), window: int32(spec.Window), scale: spec.Scale * math.Log2E, op: int32(op)}
	if !spec.Causal {
		a.context = address(spec.Context)
	}
	key := kernelKey{program: program{file: "attention_mma.cu", a: q.DType}}
	kv := 2 * tile * k.dim * 2 // bytes of a stage
	if b.Tokens != b.Seqs && b.Tokens > 1 {
		prompts, rows, g := key, tile, grid{y: spec.Heads, threads: threads, shared: 2 * kv}
		if s.dev.card.arch() == "sm_90a" {
			prompts.file, rows, g.threads = "sm90_attention.cu", 2*tile, 2*threads
			g.shared = rows*k.dim*2 + 4*kv // q, and four stages
		}
		prompts.name, g.x = k.prefill, ceilDiv(b.Tokens, rows)
		enqueue(s, op, prompts, g, &a)
	}
	if b.Tokens != b.Seqs && b.Seqs == 1 {
		return // no token is alone
	}
	sixteens := ceilDiv(spec.Heads/spec.KVHeads, 16)
	pieces := mostPieces(b, spec)
	run := piecesOfBlock(pieces, pieces*b.Seqs*spec.KVHeads*sixteens, s.dev.card.processors)
	if slot := spec.Heads * (k.dim + 2) * 4; run < pieces && s.takePartials() {
		a.partials, a.slots = s.partials.address, int32(partialBytes/slot)
	} else {
		run = pieces
	}
	a.run, a.parts = int32(run), int32(ceilDiv(pieces, run))
	key.name = k.decode
	enqueue(s, op, key, grid{x: b.Seqs, y: spec.KVHeads, z: sixteens * int(a.parts), threads: threads, shared: 2 * kv}, &a)
	if a.parts > 1 {
		key.name = k.combine
		enqueue(s, op, key, grid{x: b.Seqs, y: spec.Heads, threads: k.dim}, &a)
	}
}

const (
	pieceTokens  = 512      // of attention.cuh: changing it changes bits
	longestRun   = 4        // pieces that one block walks while others may share the work
	partialBytes = 32 << 20 // for the pieces' results: those of a million tokens of context, with 32 heads of 128
	blocksAtOnce = 3        // of a multiprocessor, that shared memory has room for
)

// mostPieces is the most pieces that the context of one token of the step has.
func mostPieces(b kernels.Batch, spec kernels.AttentionSpec) int {
	seen := ceilDiv(b.MaxContext, pieceTokens)
	if spec.Causal && spec.Window > 0 {
		seen = min(seen, ceilDiv(spec.Window, pieceTokens)+1)
	}
	return max(seen, 1)
}

// piecesOfBlock is how many pieces of a context one block walks, where blocks would be needed for one each: as many as
// all multiprocessors have at work at once, but so few pieces that one long context does not hold up a step.
func piecesOfBlock(pieces, blocks, processors int) int {
	return min(max(1, ceilDiv(blocks, blocksAtOnce*processors)), longestRun, pieces)
}

// takePartials makes room for results of pieces, once. Without it a block walks a context alone, to the same bits.
func (s *Stream) takePartials() bool {
	if s.partials == nil {
		m, err := s.dev.memory.allocate("attention's partial results", partialBytes)
		if err != nil {
			return false
		}
		s.partials = m
	}
	return true
}
