package shard

import "fmt"

// grain is what slices are a multiple of where that goes: back ends pack outputs in tiles of up to 64, and pad the last one.
const grain = 64

// Range is the part [From, To) of an axis that a rank holds.
type Range struct{ From, To int }

// Len is the length of the range.
func (r Range) Len() int { return r.To - r.From }

// Cut slices an axis of size elements (the inside of an MLP, the vocabulary) over ranks. Slices are equal where ranks divide
// size; else they are multiples of 64 where 64 divides size and each rank gets one, the first ranks 64 more; else the first
// ranks get an element more. Source: the rule of DeepSpeed's AutoTP, which drops the remainder of a size that 64 does not
// divide; here nothing is dropped. More ranks than elements are an error, in which what names the axis.
func Cut(what string, size, ranks int) ([]Range, error) {
	if ranks < 1 || ranks > size {
		return nil, fmt.Errorf("%s of %d cannot be cut into %d slices; use 1 to %d", what, size, ranks, size)
	}
	unit := 1
	if size%ranks != 0 && size%grain == 0 && size/grain >= ranks {
		unit = grain
	}
	return deal(size/unit, ranks, unit), nil
}

// deal gives units out to ranks in order, the first ones one more, as ranges of elements.
func deal(units, ranks, unit int) []Range {
	all := make([]Range, ranks)
	at := 0
	for r := range all {
		n := units / ranks
		if r < units%ranks {
			n++
		}
		all[r] = Range{at * unit, (at + n) * unit}
		at += n
	}
	return all
}

// Heads is a rank's attention heads: query heads Q, and the KV heads that they look at. Q.Len is a multiple of KV.Len.
type Heads struct{ Q, KV Range }

// CutHeads slices attention over ranks. KV heads are dealt out, the first ranks one more, and take their query heads
// with them (AutoTP's rule). With fewer KV heads than ranks each is held by several ranks, which deal out its query heads.
// More ranks than heads are an error. heads is a multiple of kvHeads.
func CutHeads(heads, kvHeads, ranks int) ([]Heads, error) {
	if ranks < 1 || ranks > heads {
		return nil, fmt.Errorf("%d attention heads cannot be cut into %d slices; use 1 to %d", heads, ranks, heads)
	}
	group := heads / kvHeads // query heads of a KV head
	all := make([]Heads, 0, ranks)
	if kvHeads >= ranks {
		for _, kv := range deal(kvHeads, ranks, 1) {
			all = append(all, Heads{Q: Range{kv.From * group, kv.To * group}, KV: kv})
		}
		return all, nil
	}
	for kv, holders := range deal(ranks, kvHeads, 1) {
		for _, q := range deal(group, holders.Len(), 1) {
			all = append(all, Heads{Q: Range{kv*group + q.From, kv*group + q.To}, KV: Range{kv, kv + 1}})
		}
	}
	return all, nil
}
