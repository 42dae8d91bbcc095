package tokenizer

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
)

const (
	cacheSlots    = 1 << 15 // 256 KiB of pointers; entries are some 100 bytes each
	longestCached = 48      // bytes of a piece
)

// cache remembers the ids of pieces, the most recent of those that share a slot. Readers and writers need no lock:
// an entry never changes once it is stored, and a lost one is only computed again.
type cache struct {
	seed  maphash.Seed
	slots [cacheSlots]atomic.Pointer[cached]
}

type cached struct {
	piece string
	ids   []int32
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// uncached is a model's own work on a piece.
type uncached interface {
	compute(ids []int32, piece string) ([]int32, error)
}

// append appends the ids of a piece, which m computes where they are not remembered.
func (c *cache) append(ids []int32, piece string, m uncached) (_ []int32, err error) {
	if len(piece) > longestCached {
		return m.compute(ids, piece)
	}
	slot := c.slot(piece)
	if known := slot.Load(); known != nil && known.piece == piece {
		return append(ids, known.ids...), nil
	}
	before := len(ids)
	if ids, err = m.compute(ids, piece); err != nil {
		return nil, err
	}
	slot.Store(newCached(piece, ids[before:]))
	return ids, nil
}

func (c *cache) slot(piece string) *atomic.Pointer[cached] {
	return &c.slots[maphash.String(c.seed, piece)%cacheSlots]
}

// newCached copies both, so that an entry keeps no text alive.
func newCached(piece string, ids []int32) *cached {
	return &cached{strings.Clone(piece), slices.Clone(ids)}
}
