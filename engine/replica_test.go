package engine

import (
	"slices"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
)

// TestFasterReplicasTakeMoreChunks: ranks that need 1, 2 and 4 steps for a chunk share the queue by what they get done,
// each chunk is one rank's, and those that want chunks at the same time get them by what they have left to do.
func TestFasterReplicasTakeMoreChunks(t *testing.T) {
	const ranks, chunks = 3, 70
	var mu sync.Mutex
	var taken [ranks][]int
	err := mpi.Run(ranks, func(w mpi.World) error {
		q, mine, left := queue{chunks: make([]shard.Chunk, chunks)}, w.Rank(), 0
		for i := range q.chunks {
			q.chunks[i].Index = i
		}
		for !q.empty() {
			vote := make([]int64, votes)
			if left == 0 {
				vote[voteWants] = 1
			}
			vote[voteBacklog] = int64(left)
			v, err := comm.Agree(t.Context(), w, vote...)
			if err != nil {
				return err
			}
			for _, c := range q.assign(v, ranks, mine) {
				mu.Lock()
				taken[mine] = append(taken[mine], c.Index)
				mu.Unlock()
				left += 1 << mine // steps
			}
			left = max(left-1, 0)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(taken[0], taken[1], taken[2])
	slices.Sort(all)
	for i, c := range all {
		if i != c {
			t.Fatalf("chunk %d is nobody's or several ranks': %v", i, taken)
		}
	}
	if len(all) != chunks || len(taken[0]) != 40 || len(taken[1]) != 20 || len(taken[2]) != 10 {
		t.Errorf("%d, %d and %d of %d chunks; want 40, 20 and 10", len(taken[0]), len(taken[1]), len(taken[2]), chunks)
	}
}

// TestChunksGoToTheLeastBusy: two ranks want the last chunk.
func TestChunksGoToTheLeastBusy(t *testing.T) {
	err := mpi.Run(2, func(w mpi.World) error {
		vote := make([]int64, votes)
		vote[voteWants], vote[voteBacklog] = 1, int64(5-w.Rank())
		v, err := comm.Agree(t.Context(), w, vote...)
		q := queue{chunks: make([]shard.Chunk, 1)}
		if got := q.assign(v, 2, w.Rank()); len(got) != w.Rank() {
			t.Errorf("rank %d gets %d chunks", w.Rank(), len(got))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
