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

// TestThrift: where memory costs time a thousand rows, one after the other, take no more blocks than a third above what is in use, or
// than are to be kept; a beginning that every tenth row has is always there, and rows' own go in their order.
func TestThrift(t *testing.T) {
	for _, c := range []struct{ keeps, flight, most int }{{0, 3, 1000}, {16, 3, 16 + 3 + 1}, {4, 40, 41 * 4 / 3}} {
		p, inFlight := newBlockPool(1000), [][]int32{}
		p.keeps = c.keeps
		key := func(i int32) blockKey { return blockKey{}.next([]int32{i}) }
		for row := range int32(1000) {
			k := key(row)
			if row%10 == 0 {
				k = key(-1)
			}
			b, ok := p.find(k)
			switch {
			case ok:
			case row%10 == 0 && row > 0:
				t.Fatalf("%+v: row %d: the shared beginning is gone", c, row)
			default:
				b = p.take(1, nil)[0]
				p.name(b, k)
			}
			if inFlight = append(inFlight, []int32{b}); len(inFlight) > c.flight {
				p.release(inFlight[0])
				inFlight = inFlight[1:]
			}
		}
		if p.opened > c.most || c.keeps == 0 && p.opened < 900 {
			t.Errorf("%+v: %d blocks were taken", c, p.opened)
		}
		if p.has(key(1)) != (c.keeps == 0) || !p.has(key(995)) {
			t.Errorf("%+v: the first row's beginning is there: %v, the 996th's: %v", c, p.has(key(1)), p.has(key(995)))
		}
	}
}
