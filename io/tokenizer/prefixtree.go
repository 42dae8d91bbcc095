package tokenizer

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
)

// prefixTree finds the strings of a vocabulary that a text begins with, byte by byte. Its edges lie in one hash table
// with open addressing, at most half full, an edge in one word: small, and with few cache misses a step.
type prefixTree struct {
	edges []uint64 // from<<40 | byte<<32 | to; 0: free
	shift uint
	ids   []int32 // by node: the string that ends there, or -1; node 0 is the root
}

// A walk takes time by the length of the text and of the longest string, and an edge has room for so many nodes.
const (
	longestPiece = 1 << 10
	mostNodes    = 1 << 24
)

// newPrefixTree leaves the empty string out.
func newPrefixTree(vocab map[string]int32) (*prefixTree, error) {
	sorted := slices.Sorted(maps.Keys(vocab))
	nodes, before := 1, ""
	for _, s := range sorted {
		if len(s) > longestPiece {
			return nil, fmt.Errorf("vocab: %.20q… has %d bytes; no piece may have more than %d", s, len(s), longestPiece)
		}
		nodes += len(s) - common(before, s)
		before = s
	}
	if nodes > mostNodes {
		return nil, fmt.Errorf("vocab: its pieces have %d different beginnings, more than %d", nodes, mostNodes)
	}
	width := bits.Len(uint(2*nodes - 1))
	t := &prefixTree{make([]uint64, 1<<width), uint(64 - width), make([]int32, 1, nodes)}
	t.ids[0] = -1
	for _, s := range sorted {
		if s != "" {
			t.add(s, vocab[s])
		}
	}
	return t, nil
}

func common(a, b string) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func (t *prefixTree) add(s string, id int32) {
	at := int32(0)
	for i := range len(s) {
		key := edgeKey(at, s[i])
		slot := t.slot(key)
		if t.edges[slot] == 0 {
			t.edges[slot] = key<<32 | uint64(len(t.ids))
			t.ids = append(t.ids, -1)
		}
		at = int32(uint32(t.edges[slot]))
	}
	t.ids[at] = id
}

func edgeKey(from int32, b byte) uint64 { return uint64(from)<<8 | uint64(b) }

func (t *prefixTree) slot(key uint64) int {
	const golden = 0x9E3779B97F4A7C15 // see mergeTable
	at := int(key * golden >> t.shift)
	for t.edges[at] != 0 && t.edges[at]>>32 != key {
		at = (at + 1) & (len(t.edges) - 1)
	}
	return at
}

// next is the node behind a node by a byte, or 0.
func (t *prefixTree) next(from int32, b byte) int32 {
	return int32(uint32(t.edges[t.slot(edgeKey(from, b))]))
}

// longest gives the longest string that text begins with, or -1.
func (t *prefixTree) longest(text string) (id int32, size int) {
	id = -1
	at := int32(0)
	for i := range len(text) {
		if at = t.next(at, text[i]); at == 0 {
			break
		}
		if t.ids[at] >= 0 {
			id, size = t.ids[at], i+1
		}
	}
	return id, size
}
