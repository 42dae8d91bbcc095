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

func (c *cache) slot(piece string) *atomic.Pointer[cached] {
	return &c.slots[maphash.String(c.seed, piece)%cacheSlots]
}

// newCached copies both, so that an entry keeps no text alive.
func newCached(piece string, ids []int32) *cached {
	return &cached{strings.Clone(piece), slices.Clone(ids)}
}
