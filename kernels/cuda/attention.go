package cuda

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// attentionKernel is the names of the kernels for heads of up to dim values: those of attention.cu and, on tensor cores,
// where it has them, those of attention_mma.cu. Both have a combine.
type attentionKernel struct {
	dim                           int
	any, prefill, decode, combine string
}

var attentionKernels = [...]attentionKernel{
	{64, "attention_64", "prefill_64", "decode_64", "combine_64"}, {128, "attention_128", "prefill_128", "decode_128", "combine_128"},
	{256, "attention_256", "", "", "combine_256"}, {512, "attention_512", "", "", "combine_512"},
	{576, "attention_576", "", "", "combine_576"}, // of keys that hold the values only
}

// Attention of every token over its sequence's KV.
func (s *Stream) Attention(out, q kernels.Tensor, kv kernels.Cache, layer int, b kernels.Batch, spec kernels.AttentionSpec) {
	const op = opAttention
	c := s.openCache(op, kv, layer)
	if s.err != nil {
		return
	}
	s.note(rules.Attention(c.spec, out, q, b, spec))
	s.note(rules.Vector(op.String(), "seq", b.Seq, b.Tokens))
	if s.err == nil && b.Tokens > 0 && (b.Blocks.Rows < b.Seqs || b.Blocks.Cols*c.spec.BlockTokens < b.MaxContext) {
		s.fail("%s: blocks is %v, want a row for each of %d sequences, and blocks of %d for %d tokens", op, b.Blocks, b.Seqs, c.spec.BlockTokens, b.MaxContext)
	}
	if s.err != nil || b.Tokens == 0 {
		return
	}
	a := attentionArgs{out: matOf(out), q: matOf(q), blocks: matOf(b.Blocks), cache: c.layer(layer), position: address(b.Position),
		seq: address(b.Seq), start: address(b.Start), fault: s.dev.fault.address, tokens: int32(b.Tokens), seqs: int32(b.Seqs),
		heads: int32(spec.Heads), kvHeads: int32(spec.KVHeads), dim: int32(spec.HeadDim), blockTokens: int32(c.spec.BlockTokens),
		cacheBlocks: int32(c.spec.Blocks), window: int32(spec.Window), scale: spec.Scale * math.Log2E, op: int32(op)}
	if !spec.Causal {
		a.context = address(spec.Context)
	}
	if !spec.Slopes.None() {
		a.slopes = address(spec.Slopes)
	}
	if !spec.Sinks.None() {
		a.sinks = address(spec.Sinks)
	}
	a.values = int32(c.spec.Latent)
	p := attentionProgram(q.DType, c.spec.DType, spec.HeadDim, c.spec.Latent, !spec.Slopes.None(), !spec.Sinks.None())
	if spec.Scale <= 0 {
		p = attentionOfAnyProgram(p, c.spec.DType)
	}
	if p.file == latentFile {
		s.latentOnTensorCores(a, p, b, spec)
		return
	}
	for _, k := range attentionKernels {
		if spec.HeadDim > k.dim || k.dim > mostValues && !p.latent {
			continue
		}
		if p.file == attentionMMAFile {
			s.attentionOnTensorCores(a, k, p, b, spec)
		} else {
			s.attentionOfAny(a, k, p, b, spec)
		}
		return
	}
	s.fail("%s: heads of %d values; %d is the most, %d where keys hold the values", op, spec.HeadDim, mostValues, attentionKernels[len(attentionKernels)-1].dim)
}

const attentionMMAFile = "attention_mma.cu"

// attentionProgram is where such an attention is, with a scale above 0: on tensor cores for 16-bit types and some sizes of heads.
func attentionProgram(act, cache kernels.DType, dim, latent int, alibi, sinks bool) program {
	p := program{file: attentionMMAFile, a: act, alibi: alibi, sinks: sinks, latent: latent > 0}
	const most = 128 // values of a head
	switch {
	case act != cache || act == kernels.F32:
	case p.latent && dim == latentKey && latent == latentValue && !alibi && !sinks:
		p.file = latentFile
		return p
	case !p.latent && dim%8 == 0 && dim <= most:
		return p
	}
	return attentionOfAnyProgram(p, cache)
}

// attentionOfAnyProgram is p for any types and sizes.
func attentionOfAnyProgram(p program, cache kernels.DType) program {
	p.file, p.b = "attention.cu", cache
	return p
}

// mostValues of a head can be where keys and values are apart.
const mostValues = 512

type attentionArgs struct {
	out, q, blocks                                                      mat
	cache, position, seq, start, context, fault, tasks, partials        handle
	tokens, seqs, heads, kvHeads, dim, blockTokens, cacheBlocks, window int32
	scale                                                               float32
	op, slots, run, parts, values                                       int32
	before, slopes, sinks                                               handle
}

// attentionOnTensorCores is a kernel for the sequences with several tokens in the step, and one for those with one, whose
// context may be shared by several blocks. None of that changes a bit of a token.
func (s *Stream) attentionOnTensorCores(a attentionArgs, k attentionKernel, p program, b kernels.Batch, spec kernels.AttentionSpec) {
	const tile, threads = 64, 128
	key := kernelKey{program: p}
	kv := 2 * tile * k.dim * 2 // bytes of a stage
	if b.Tokens != b.Seqs && b.Tokens > 1 {
		prompts, g := key, grid{x: ceilDiv(b.Tokens, tile), y: spec.Heads, threads: threads, shared: 2 * kv}
		prompts.name = k.prefill
		if s.dev.card.arch() == "sm_90a" {
			if a.tasks = s.takeTasks(opAttention); s.err != nil {
				return
			}
			prompts.file = "sm90_attention.cu"
			g = grid{x: min(ceilDiv(b.Tokens, 2*tile)*spec.Heads, s.dev.card.processors), threads: 3 * threads}
			g.shared = 4*kv + 2*tile*k.dim*2 + 2*tile*k.dim*4 + 2*tile*16 + 96 // stages, q, sums, rows, barriers
		}
		enqueue(s, opAttention, prompts, g, &a)
	}
	if b.Tokens != b.Seqs && b.Seqs == 1 {
		return // no token is alone
	}
	sixteens := ceilDiv(spec.Heads/spec.KVHeads, 16)
	s.share(&a, sharing{k.dim, b.Seqs * spec.KVHeads * sixteens, blocksAtOnce, longestRun}, b, spec)
	key.name = k.decode
	enqueue(s, opAttention, key, grid{x: b.Seqs, y: spec.KVHeads, z: sixteens * int(a.parts), threads: threads, shared: 2 * kv}, &a)
	if a.parts > 1 {
		key.name = k.combine
		enqueue(s, opAttention, key, grid{x: b.Seqs, y: spec.Heads, threads: k.dim}, &a)
	}
}

// attentionOfAny is for any types, a block a token and a head; the context of a sequence's only token may be shared.
func (s *Stream) attentionOfAny(a attentionArgs, k attentionKernel, p program, b kernels.Batch, spec kernels.AttentionSpec) {
	a.run, a.parts = longestRun, 1
	if b.Tokens == b.Seqs || b.Seqs > 1 {
		s.share(&a, sharing{k.dim, b.Tokens * spec.Heads, blocksAtOnce, longestRun}, b, spec)
	}
	enqueue(s, opAttention, kernelKey{p, k.any}, grid{x: b.Tokens, y: spec.Heads, z: int(a.parts), threads: 128}, &a)
	if a.parts > 1 {
		enqueue(s, opAttention, kernelKey{p, k.combine}, grid{x: b.Seqs, y: spec.Heads, threads: k.dim}, &a)
	}
}

// sharing is how a context may be shared among blocks.
type sharing struct {
	values  int // of a head in a kernel's results
	blocks  int // that there are in any case
	atOnce  int // blocks that a multiprocessor has at work
	longest int // pieces that a block walks at most while others may share the work
}

// share decides how many blocks a context is shared among, where so many would be needed to have one for each, and makes
// room for their results.
func (s *Stream) share(a *attentionArgs, h sharing, b kernels.Batch, spec kernels.AttentionSpec) {
	pieces := mostPieces(b, spec)
	run := h.piecesOfBlock(pieces, s.dev.card.processors)
	if slot := spec.Heads * (h.values + 2) * 4; run < pieces && s.takePartials() {
		a.partials, a.slots = s.partials.address, int32(partialBytes/slot)
	} else {
		run = pieces
	}
	a.run, a.parts = int32(run), int32(ceilDiv(pieces, run))
}

const (
	pieceTokens  = 512      // of attention.cuh: changing it changes bits
	longestRun   = 4        // pieces, of heads of up to 512
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

// piecesOfBlock is how many of a context's pieces one block walks: so many that no more blocks are left than all multiprocessors
// have at work at once, but so few that one long context does not hold up a step.
func (h sharing) piecesOfBlock(pieces, processors int) int {
	return min(max(1, ceilDiv(pieces*h.blocks, h.atOnce*processors)), h.longest, pieces)
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
