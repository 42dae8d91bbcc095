package shard

import (
	"cmp"
	"fmt"
	"slices"
)

// Experts tells which rank of an expert-parallel group holds which experts: contiguous runs of equal length, rank 0
// the first. It is a value; the zero Experts holds nothing.
type Experts struct {
	Count int // experts of the layer
	Ranks int // ranks of the group; divides Count
}

// Spread gives experts over the ranks of a group. ranks must divide count.
func Spread(count, ranks int) (Experts, error) {
	if ranks < 1 || count%ranks != 0 {
		return Experts{}, fmt.Errorf("%d experts cannot be spread evenly over %d ranks; use a number of ranks that divides %d", count, ranks, count)
	}
	return Experts{Count: count, Ranks: ranks}, nil
}

// Local is the number of experts of each rank.
func (e Experts) Local() int { return e.Count / e.Ranks }

// Range is the experts [from, to) of a rank.
func (e Experts) Range(rank int) (from, to int) { return rank * e.Local(), (rank + 1) * e.Local() }

// Owner is the rank that holds an expert.
func (e Experts) Owner(expert int) int { return expert / e.Local() }

// Balance places experts of given loads (tokens, say) on ranks, equally many on each, so that the largest rank's load is
// low: the heaviest first, each on the rank with the least load that has room. The result is the expert at each place;
// those of rank r, ascending, are at the places of Spread's Range. Where that is no better it is 0, 1, 2 …
func Balance(load []int64, ranks int) ([]int, error) {
	spread, err := Spread(len(load), ranks)
	if err != nil {
		return nil, err
	}
	inOrder := make([]int, len(load))
	for e := range inOrder {
		inOrder[e] = e
	}
	heaviest := slices.Clone(inOrder)
	slices.SortStableFunc(heaviest, func(a, b int) int { return cmp.Compare(load[b], load[a]) })
	held, sum := make([][]int, ranks), make([]int64, ranks)
	for _, e := range heaviest {
		best := -1
		for r := range ranks {
			if len(held[r]) < spread.Local() && (best < 0 || sum[r] < sum[best]) {
				best = r
			}
		}
		held[best], sum[best] = append(held[best], e), sum[best]+load[e]
	}
	for _, h := range held {
		slices.Sort(h)
	}
	if placed := slices.Concat(held...); spread.Largest(load, placed) < spread.Largest(load, inOrder) {
		return placed, nil
	}
	return inOrder, nil
}

// Largest is the load of the rank with most, for the expert at each place.
func (e Experts) Largest(load []int64, placed []int) (most int64) {
	for r := range e.Ranks {
		from, to := e.Range(r)
		sum := int64(0)
		for _, expert := range placed[from:to] {
			sum += load[expert]
		}
		most = max(most, sum)
	}
	return most
}
