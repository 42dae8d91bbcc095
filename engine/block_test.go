package engine

import (
	"slices"
	"testing"
)

// TestSharedBeginningLeavesNoTrail: a beginning that a million rows share, one after the other, is one block and a few
// entries of the pool, and blocks are still forgotten in the order in which they were last used.
func TestSharedBeginningLeavesNoTrail(t *testing.T) {
	p := newBlockPool(8)
	key := func(i int32) blockKey { return blockKey{}.next([]int32{i}) }
	for i := range int32(4) { // each kept once, before the shared one
		b := p.take(1, nil)
		p.name(b[0], key(i))
		p.release(b)
	}
	shared := p.take(1, nil)
	p.name(shared[0], key(9))
	p.release(shared)
	for range 1_000_000 {
		b, ok := p.find(key(9))
		if !ok {
			t.Fatal("the shared block is gone")
		}
		p.release([]int32{b})
	}
	if n := len(p.kept); n > 2*8+1 || len(p.when) != n || cap(p.kept) > 64 {
		t.Errorf("%d entries in room for %d", n, cap(p.kept))
	}
	if n := p.available(); n != 8 {
		t.Errorf("%d blocks of 8 are available", n)
	}
	taken := p.take(8-2, nil) // the free ones, and those of keys 0 to 2
	slices.Sort(taken)
	if len(slices.Compact(taken)) != 6 || p.has(key(2)) || !p.has(key(3)) || !p.has(key(9)) {
		t.Errorf("took %v; the longest unused should go first", taken)
	}
}
