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
	heap := make(candidates, 0, n)
	look := func(left int32) {
		if left >= 0 && next[left] < n {
			if m, ok := t.get(symbols[left], symbols[next[left]]); ok {
				heap.push(candidate{m.rank, left, symbols[left], symbols[next[left]], m.id})
			}
		}
	}
	for i := range n {
		look(i)
	}
	const joined = -1 // the symbol of a place that was joined to the one before it
	for len(heap) > 0 {
		c := heap.pop()
		left := c.at
		right := next[left]
		if symbols[left] != c.left || right >= n || symbols[right] != c.right {
			continue // one of the two has changed since
		}
		symbols[left], symbols[right] = c.id, joined
		next[left] = next[right]
		if next[left] < n {
			before[next[left]] = left
		}
		look(before[left])
		look(left)
	}
	for i := int32(0); i < n; i = next[i] {
		dst = append(dst, symbols[i])
	}
	return dst
}

// candidate is a pair that can be joined.
type candidate struct {
	rank, at        int32
	left, right, id int32
}

// candidates is a binary heap: the lowest rank first, the leftmost of those alike.
type candidates []candidate

func (a candidate) before(b candidate) bool {
	return a.rank < b.rank || a.rank == b.rank && a.at < b.at
}

func (h *candidates) push(c candidate) {
	*h = append(*h, c)
	s := *h
	for i := len(s) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s[i].before(s[parent]) {
			break
		}
		s[i], s[parent] = s[parent], s[i]
		i = parent
	}
}

func (h *candidates) pop() candidate {
	s := *h
	top := s[0]
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && s[child+1].before(s[child]) {
			child++
		}
		if !s[child].before(s[i]) {
			break
		}
		s[i], s[child] = s[child], s[i]
		i = child
	}
	*h = s
	return top
}
