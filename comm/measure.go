package comm

import (
	"context"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

// What Measure sends, and for how long at most: a message that only latency counts for, and one that only bandwidth does.
const (
	smallMessage = 8
	largeMessage = 1 << 20
	measureFor   = 20 * time.Millisecond // each of four, after what a message takes
)

// Measure sends messages between pairs of ranks, all at the same time, inside of nodes and between them, and returns what
// they cost the slowest, for some tens of milliseconds. It is collective, and all ranks get the same. Where all ranks share
// a node, or none do, there is nothing to choose: it sends nothing and returns the zero Network.
func Measure(ctx context.Context, w mpi.World, nodes Nodes) (Network, error) {
	var n Network
	if nodes.Count() == 1 || nodes.Largest() == 1 {
		return n, nil
	}
	var err error
	if n.Inside, err = measureLink(ctx, w, nodes.mate(w.Rank())); err != nil {
		return Network{}, err
	}
	n.Between, err = measureLink(ctx, w, nodes.counterpart(w.Rank()))
	return n, err
}

// mate pairs the ranks of each node; the last of an odd number is left alone, with itself.
func (n Nodes) mate(rank int) int {
	mates := n.ranks[n.Of(rank)]
	for i, r := range mates {
		if r == rank && i^1 < len(mates) {
			return mates[i^1]
		}
	}
	return rank
}

// counterpart pairs ranks of neighbouring nodes; a rank that has none there is alone.
func (n Nodes) counterpart(rank int) int {
	node := n.Of(rank)
	if node^1 >= len(n.ranks) {
		return rank
	}
	other := n.ranks[node^1]
	for i, r := range n.ranks[node] {
		if r == rank && i < len(other) {
			return other[i]
		}
	}
	return rank
}

// measureLink times messages both ways between this rank and its partner.
func measureLink(ctx context.Context, w mpi.World, partner int) (Link, error) {
	small, err := timeMessages(ctx, w, partner, smallMessage)
	if err != nil {
		return Link{}, err
	}
	large, err := timeMessages(ctx, w, partner, largeMessage)
	return Link{Latency: small, Bandwidth: largeMessage / max(large-small, 1e-9)}, err
}

// timeMessages returns the seconds of one message each way, the least of several rounds, each by the slowest pair.
func timeMessages(ctx context.Context, w mpi.World, partner, size int) (float64, error) {
	counts := make([]int64, w.Size())
	var send, recv []byte
	if partner != w.Rank() {
		counts[partner] = int64(size)
		send, recv = make([]byte, size), make([]byte, size)
	}
	best, spent := time.Duration(1<<62), time.Duration(0)
	for k := 1; spent < measureFor; k *= 2 { // the first round, of one message, also makes connections
		if err := w.Barrier(ctx); err != nil {
			return 0, err
		}
		begun := time.Now()
		for range k {
			if err := w.AllToAllV(ctx, send, counts, recv, counts); err != nil {
				return 0, err
			}
		}
		took := []int64{int64(time.Since(begun))}
		if err := w.AllReduceInt64(ctx, mpi.Max, took); err != nil {
			return 0, err
		}
		spent += time.Duration(took[0])
		best = min(best, time.Duration(took[0])/time.Duration(k))
	}
	return best.Seconds(), nil
}
