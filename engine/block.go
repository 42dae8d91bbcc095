package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// blockTokens is the number of tokens of a KV block. Small enough that a short row wastes little, large enough that
// tables stay short; a prefix is shared in whole blocks.
const blockTokens = 16

// blockKey names the contents of a full block: a digest of all tokens of its sequence up to its end. Equal keys mean
// equal keys and values, to the bit, because a position's KV depends on the tokens up to it alone (promise 1).
type blockKey [16]byte

// next is the key of the block that follows k and holds tokens.
func (k blockKey) next(tokens []int32) blockKey {
	h := sha256.New()
	h.Write(k[:])
	var b [4]byte
	for _, t := range tokens {
		binary.LittleEndian.PutUint32(b[:], uint32(t))
		h.Write(b[:])
	}
	var sum [sha256.Size]byte
	copy(k[:], h.Sum(sum[:0]))
	return k
}

// blockPool hands out the blocks of a KV cache and remembers full ones by their contents, so that sequences with a
// common beginning (samples of a prompt, continuations of a passage, a data set's shared instructions) compute it
// once. A block is free, in use by one or more sequences, or kept: full, named and unused until memory is short.
type blockPool struct {
	free  []int32
	uses  []int32            // [blocks] sequences that use it
	names []blockKey         // [blocks] key, where named
	named map[blockKey]int32 // full blocks by contents
	kept  []int32            // candidates for reuse, the longest unused first; stale entries are skipped
	stamp []int64            // [blocks] when it was last kept; tells stale entries of kept
	when  []int64            // beside kept
	clock int64
	spare int // blocks kept

	opened int // blocks that have ever been in use: the first ones
	// keeps, where it isn't 0, is for memory that comes at its first use and costs time then: of blocks that nobody uses no more
	// are kept than a third of those in use, or so many, before others are taken for the first time. Of rows with a
	// beginning in common most are in flight together or follow one another.
	keeps int
}

// thriftyBlocks is keeps of such memory: beginnings of 4096 tokens.
const thriftyBlocks = 256

func newBlockPool(blocks int) *blockPool {
	p := &blockPool{uses: make([]int32, blocks), names: make([]blockKey, blocks), named: map[blockKey]int32{},
		stamp: make([]int64, blocks)}
	for b := blocks - 1; b >= 0; b-- {
		p.free = append(p.free, int32(b))
	}
	return p
}

// available is the number of blocks that take can hand out.
func (p *blockPool) available() int { return len(p.free) + p.spare }

// released is the number of free blocks that have been in use.
func (p *blockPool) released() int { return len(p.free) - (len(p.uses) - p.opened) }

// surplus is how many kept blocks are taken again before one that has never been in use is.
func (p *blockPool) surplus() int {
	if p.keeps == 0 {
		return 0
	}
	return max(0, p.spare-max(p.opened/4, p.keeps))
}

// take hands out n blocks for one sequence; the caller has looked at available.
func (p *blockPool) take(n int, to []int32) []int32 {
	for range n {
		if len(p.free) == 0 || p.released() == 0 && p.surplus() > 0 {
			p.forget()
		}
		b := p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
		p.uses[b], p.opened = 1, max(p.opened, int(b)+1)
		to = append(to, b)
	}
	return to
}

// forget frees the kept block that has been unused longest.
func (p *blockPool) forget() {
	for {
		b, when := p.kept[0], p.when[0]
		p.kept, p.when = p.kept[1:], p.when[1:]
		if p.uses[b] == 0 && p.stamp[b] == when {
			delete(p.named, p.names[b])
			p.names[b] = blockKey{}
			p.free = append(p.free, b)
			p.spare--
			return
		}
	}
}

// find is the block that holds what k names, in use by one more sequence from now on.
func (p *blockPool) find(k blockKey) (int32, bool) {
	b, ok := p.named[k]
	if ok {
		if p.uses[b] == 0 {
			p.spare--
		}
		p.uses[b]++
	}
	return b, ok
}

// has tells whether a block holds what k names.
func (p *blockPool) has(k blockKey) bool {
	_, ok := p.named[k]
	return ok
}

// name says what the full block b holds. Another block may hold the same already; then b stays nameless.
func (p *blockPool) name(b int32, k blockKey) {
	if _, taken := p.named[k]; !taken {
		p.named[k], p.names[b] = b, k
	}
}

// release ends a sequence's use of its blocks.
func (p *blockPool) release(blocks []int32) {
	for _, b := range blocks {
		p.uses[b]--
		switch {
		case p.uses[b] < 0:
			panic(fmt.Sprintf("engine: block %d released once too often", b))
		case p.uses[b] > 0:
		case p.names[b] == blockKey{}:
			p.free = append(p.free, b)
		default:
			p.keep(b)
		}
	}
}

// keep makes a named block that nobody uses any more the last candidate for reuse. A beginning that row after row shares
// is kept again and again, and while memory is plenty nothing takes its stale entries away: where they are more than the
// blocks, they go.
func (p *blockPool) keep(b int32) {
	if len(p.kept) >= 2*len(p.uses) {
		n := 0
		for i, c := range p.kept {
			if p.uses[c] == 0 && p.stamp[c] == p.when[i] {
				p.kept[n], p.when[n] = c, p.when[i]
				n++
			}
		}
		p.kept, p.when = p.kept[:n], p.when[:n]
	}
	p.clock++
	p.kept, p.when, p.stamp[b] = append(p.kept, b), append(p.when, p.clock), p.clock
	p.spare++
}
