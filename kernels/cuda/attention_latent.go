package cuda

import "github.com/dsbatch/dsbatch/kernels"

// What attention_latent.cu is made for: the keys of DeepSeek-V2 and V3, 64 rotated values and a latent.
const (
	latentFile  = "attention_latent.cu"
	latentKey   = 576
	latentValue = 512
	latentStep  = 64 // positions of a tile
	latentRun   = 16 // as longestRun: of 128 heads few results have room, and a block has a multiprocessor for itself
)

// latentTile is a kernel's rows, queries of one KV head, and the warps and tiles of the cache that a block of it has.
type latentTile struct {
	rows, warps, stages int
	prefill, decode     string
}

// latentTiles are those of a card, a narrow and a wide one: as attention_latent.cu has them.
func latentTiles(c card) [2]latentTile {
	if c.arch() == "sm_90a" {
		return [2]latentTile{{16, 4, 2, "prefill_16", "decode_16"}, {64, 8, 2, "prefill_64", "decode_64"}}
	}
	return [2]latentTile{{16, 4, 1, "prefill_16", "decode_16"}, {32, 8, 1, "prefill_32", "decode_32"}}
}

// shared is the bytes of shared memory that a block is given: tiles of the cache, q, weights, and what warps tell each other.
func (t latentTile) shared() int {
	beside := t.warps / (t.rows / 16)
	return (t.stages*latentStep+t.rows)*latentKey*2 + t.rows*(latentStep*2+4*beside+4*4+8+8) + 64
}

// latentTile is the tile for so many rows next to each other, or the one that is forced.
func (d *Device) latentTile(rows int) latentTile {
	tiles := latentTiles(d.card)
	for _, t := range tiles {
		if t.rows == d.forced.latent {
			return t
		}
	}
	return latentTileFor(d.card, rows)
}

// latentTileFor is the tile for so many rows next to each other, of those that a card has room for. Both give the same bits.
func latentTileFor(c card, rows int) latentTile {
	const own = 256 // bytes that the kernels have besides
	tiles := latentTiles(c)
	if rows > tiles[1].rows/2 && tiles[1].shared()+own <= c.shared {
		return tiles[1]
	}
	return tiles[0]
}

// latentOnTensorCores is attentionOnTensorCores for keys that hold the values.
func (s *Stream) latentOnTensorCores(a attentionArgs, p program, b kernels.Batch, spec kernels.AttentionSpec) {
	if a.tasks = s.takeTasks(opAttention); s.err != nil {
		return
	}
	group, key := spec.Heads/spec.KVHeads, kernelKey{program: p}
	enqueued := func(name string, t latentTile, tasks int) bool {
		if b.MaxContext > pieceTokens {
			if a.before = s.takeSums(); s.err != nil {
				return false
			}
		}
		key.name = name
		enqueue(s, opAttention, key, grid{x: min(tasks, s.dev.card.processors), threads: 32 * t.warps, shared: t.shared()}, &a)
		return s.err == nil
	}
	if b.Tokens != b.Seqs && b.Tokens > 1 {
		t := s.dev.latentTile(b.Tokens * group)
		if !enqueued(t.prefill, t, ceilDiv(b.Tokens*group, t.rows)*spec.KVHeads) {
			return
		}
	}
	if b.Tokens != b.Seqs && b.Seqs == 1 {
		return // no token is alone
	}
	t := s.dev.latentTile(group)
	blocks := b.Seqs * spec.KVHeads * ceilDiv(group, t.rows)
	s.share(&a, sharing{latentValue, blocks, 1, latentRun}, b, spec)
	if enqueued(t.decode, t, blocks*int(a.parts)) && a.parts > 1 {
		key.name = "combine"
		enqueue(s, opAttention, key, grid{x: b.Seqs, y: spec.Heads, threads: latentValue}, &a)
	}
}

// takeSums makes room for what blocks have summed in earlier pieces, once.
func (s *Stream) takeSums() handle {
	if s.sums == nil {
		m, err := s.dev.memory.allocate("attention's sums of earlier pieces", int64(s.dev.card.processors*latentTiles(s.dev.card)[1].rows*latentValue*4))
		if err != nil {
			s.fail("%s: %w", opAttention, err)
			return 0
		}
		s.sums = m
	}
	return s.sums.address
}
