package shard

import "fmt"

// Stages cuts layers of the given sizes into contiguous pipeline stages of one layer or more, so that the largest stage
// is as small as can be; among such cuts, each stage, from the last to the first, takes as few layers as possible.
// Fewer layers than stages are an error. By dynamic programming over (stage, layer): O(stages·layers²).
func Stages(sizes []int64, stages int) ([]Range, error) {
	n := len(sizes)
	if stages < 1 || stages > n {
		return nil, fmt.Errorf("%d layers cannot be cut into %d stages; use 1 to %d", n, stages, n)
	}
	before := make([]int64, n+1) // sum of the sizes before a layer
	for i, size := range sizes {
		before[i+1] = before[i] + size
	}
	// least[s][i] is the largest of s+1 stages that hold the first i layers, from[s][i] the last stage's first layer.
	least, from := make([][]int64, stages), make([][]int, stages)
	for s := range stages {
		least[s], from[s] = make([]int64, n+1), make([]int, n+1)
		for i := s + 1; i <= n; i++ {
			least[s][i] = before[i]
			for first := s; s > 0 && first < i; first++ {
				if largest := max(least[s-1][first], before[i]-before[first]); first == s || largest <= least[s][i] {
					least[s][i], from[s][i] = largest, first
				}
			}
		}
	}
	cut := make([]Range, stages)
	for s, to := stages-1, n; s >= 0; s-- {
		cut[s] = Range{from[s][to], to}
		to = from[s][to]
	}
	return cut, nil
}
