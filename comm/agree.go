package comm

import (
	"context"
	"encoding/binary"

	"github.com/dsbatch/dsbatch/mpi"
)

// Votes are the numbers that the ranks of a world have given to one Agree: all ranks hold the same.
type Votes struct {
	n int
	v []int64 // [ranks][n]
}

// Agree tells every rank the numbers of all, in one small collective call: how many rows are left, whether a signal came,
// which chunk was finished. What a rank decides from Votes alone, all ranks decide alike. All give equally many numbers.
func Agree(ctx context.Context, w mpi.World, mine ...int64) (Votes, error) {
	send, recv := make([]byte, 8*len(mine)), make([]byte, 8*len(mine)*w.Size())
	for i, x := range mine {
		binary.LittleEndian.PutUint64(send[8*i:], uint64(x))
	}
	if err := w.AllGather(ctx, send, recv); err != nil {
		return Votes{}, err
	}
	votes := Votes{n: len(mine), v: make([]int64, len(mine)*w.Size())}
	for i := range votes.v {
		votes.v[i] = int64(binary.LittleEndian.Uint64(recv[8*i:]))
	}
	return votes, nil
}

// Of returns the i-th number of one rank.
func (v Votes) Of(rank, i int) int64 { return v.v[rank*v.n+i] }

// Sum returns the sum of all ranks' i-th numbers.
func (v Votes) Sum(i int) (sum int64) {
	for ; i < len(v.v); i += v.n {
		sum += v.v[i]
	}
	return sum
}

// Max returns the largest of all ranks' i-th numbers.
func (v Votes) Max(i int) int64 {
	most := v.v[i]
	for ; i < len(v.v); i += v.n {
		most = max(most, v.v[i])
	}
	return most
}

// Min returns the smallest of all ranks' i-th numbers.
func (v Votes) Min(i int) int64 {
	least := v.v[i]
	for ; i < len(v.v); i += v.n {
		least = min(least, v.v[i])
	}
	return least
}

// Any tells whether a rank's i-th number is not 0.
func (v Votes) Any(i int) bool {
	for ; i < len(v.v); i += v.n {
		if v.v[i] != 0 {
			return true
		}
	}
	return false
}
