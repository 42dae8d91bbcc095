package engine

import (
	"context"
	"math"

	"github.com/dsbatch/dsbatch/mpi"
)

// coreSetBytes holds a set of a host's cores, a bit a core; more cores than it has bits are not counted.
const coreSetBytes = 1 << 10

// coreShare is the number of cores that a rank takes of its host, at least one. A core that several ranks may run on
// is shared evenly between them; so it is the host's cores over its ranks where none is bound, and all of a rank's
// own where a launcher has bound each to cores of its own. All ranks of the node call it.
func coreShare(ctx context.Context, node mpi.World) (int, error) {
	mine := make([]byte, coreSetBytes)
	ownCores(mine)
	all := make([]byte, coreSetBytes*node.Size())
	if err := node.AllGather(ctx, mine, all); err != nil {
		return 0, err
	}
	return evenShare(mine, all), nil
}

// evenShare is coreShare of the set mine, one of the sets in all.
func evenShare(mine, all []byte) int {
	share := 0.0
	for core := range coreSetBytes * 8 {
		if !has(mine, core) {
			continue
		}
		ranks := 0
		for at := 0; at < len(all); at += coreSetBytes {
			if has(all[at:], core) {
				ranks++
			}
		}
		share += 1 / float64(ranks)
	}
	return max(1, int(math.Floor(share+1e-9)))
}

func has(set []byte, core int) bool { return set[core/8]&(1<<(core%8)) != 0 }

// cores lists the cores that this process may run on.
func cores() (list []int) {
	set := make([]byte, coreSetBytes)
	ownCores(set)
	for core := range coreSetBytes * 8 {
		if has(set, core) {
			list = append(list, core)
		}
	}
	return list
}

// anyCores marks the first n cores.
func anyCores(set []byte, n int) {
	for core := range min(n, len(set)*8) {
		set[core/8] |= 1 << (core % 8)
	}
}
