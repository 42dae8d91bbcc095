package tokenizer

import "math/bits"

// merge is what a pair of symbols becomes.
type merge struct {
	rank int32 // the lower, the sooner
	id   int32
}

// mergeTable finds the merge of a pair: open addressing, at most half full, the pair in one word. It is what the
// tokenizer spends its time in where the cache does not help; Go's map takes three times as long.
type mergeTable struct {
	pairs  []uint64 // left<<32 | right, plus 1; 0: free
	merges []merge
	shift  uint
}

func newMergeTable(n int) mergeTable {
	width := bits.Len(uint(max(2*n, 2) - 1))
	return mergeTable{make([]uint64, 1<<width), make([]merge, 1<<width), uint(64 - width)}
}

func pairKey(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) + 1 }

// slot is where the key is or would be put.
func (t *mergeTable) slot(key uint64) int {
	const golden = 0x9E3779B97F4A7C15 // 2^64 over the golden ratio: Knuth's multiplicative hashing
	at := int(key * golden >> t.shift)
	for t.pairs[at] != key && t.pairs[at] != 0 {
		at = (at + 1) & (len(t.pairs) - 1)
	}
	return at
}

// put stores the merge of a pair; a pair listed twice has its last rank.
func (t *mergeTable) put(left, right int32, m merge) {
	at := t.slot(pairKey(left, right))
	t.pairs[at], t.merges[at] = pairKey(left, right), m
}

func (t *mergeTable) get(left, right int32) (merge, bool) {
	at := t.slot(pairKey(left, right))
	return t.merges[at], t.pairs[at] != 0
}

// fewSymbols is where the heap of joinMany begins to pay.
const fewSymbols = 48

const never = 1<<31 - 1 // the rank of a pair without a merge

// joinFew joins at most fewSymbols symbols and appends what is left: the best pair is looked for anew each time.
func (t *mergeTable) joinFew(dst, symbols []int32) []int32 {
	var merges [fewSymbols]merge // of symbol i with the next
	n := len(symbols)
	for i := range n {
		merges[i] = t.pairAt(symbols, i)
	}
	for {
		best := 0
		for i := 1; i < n; i++ {
			if merges[i].rank < merges[best].rank {
				best = i
			}
		}
		if n == 0 || merges[best].rank == never {
			return append(dst, symbols[:n]...)
		}
		symbols[best] = merges[best].id
		copy(symbols[best+1:], symbols[best+2:n])
		copy(merges[best+1:], merges[best+2:n])
		n--
		symbols = symbols[:n]
		merges[best] = t.pairAt(symbols, best)
		if best > 0 {
			merges[best-1] = t.pairAt(symbols, best-1)
		}
	}
}

func (t *mergeTable) pairAt(symbols []int32, i int) merge {
	if i+1 < len(symbols) {
		if m, ok := t.get(symbols[i], symbols[i+1]); ok {
			return m
		}
	}
	return merge{rank: never}
}

// joinMany is joinFew for any number: O(n log n) with a heap of the pairs and a list that drops what was joined.
func (t *mergeTable) joinMany(dst, symbols []int32) []int32 {
	n := int32(len(symbols))
	next, before := make([]int32, n), make([]int32, n)
	for i := range n {
		next[i], before[i] = i+1, i-1
	}
	// mergeAt gives the merge of the symbol at a place with the next one.
	mergeAt := func(at int32) merge {
		if at >= 0 && next[at] < n {
			if m, ok := t.get(symbols[at], symbols[next[at]]); ok {
				return m
			}
		}
		return merge{rank: never}
	}
	heap := make(candidates, 0, n)
	look := func(at int32) {
		if m := mergeAt(at); m.rank != never {
			heap.push(m.rank, at)
		}
	}
	for i := range n {
		look(i)
	}
	for len(heap) > 0 {
		rank, at := heap.pop()
		m := mergeAt(at)
		if m.rank != rank { // a rank is one pair's: this pair is no more
			continue
		}
		gone := next[at]
		symbols[at], symbols[gone] = m.id, -1 // -1 has no merge
		next[at] = next[gone]
		if next[at] < n {
			before[next[at]] = at
		}
		look(before[at])
		look(at)
	}
	for i := int32(0); i < n; i = next[i] {
		dst = append(dst, symbols[i])
	}
	return dst
}

// candidates is a heap of places whose pair can be joined, rank<<32 | place: the lowest rank first, the leftmost of
// those alike. A node has four children, which lie in one cache line more often than two generations of two do.
type candidates []uint64

func (h *candidates) push(rank, at int32) {
	*h = append(*h, 0)
	s, c := *h, uint64(rank)<<32|uint64(at)
	i := len(s) - 1
	for i > 0 && c < s[(i-1)/4] {
		s[i] = s[(i-1)/4]
		i = (i - 1) / 4
	}
	s[i] = c
}

func (h *candidates) pop() (rank, at int32) {
	s := *h
	top, c := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	for i := 0; len(s) > 0; {
		least := 4*i + 1
		for child := least + 1; child < min(4*i+5, len(s)); child++ {
			if s[child] < s[least] {
				least = child
			}
		}
		if least >= len(s) || c <= s[least] {
			s[i] = c
			break
		}
		s[i] = s[least]
		i = least
	}
	return int32(top >> 32), int32(uint32(top))
}
