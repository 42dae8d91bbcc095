package shard

import "fmt"

// Experts tells which rank of an expert-parallel group holds which experts: contiguous runs of equal length, rank 0
// the first. It is a value; the zero Experts holds nothing.
type Experts struct {
	Count int // experts of the layer
	Ranks int // ranks of the group; divides Count
}

// Spread lays count experts out over the ranks of a group. A number of ranks that does not divide count is an error.
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
