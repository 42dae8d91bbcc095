package comm

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/dsbatch/dsbatch/mpi"
)

// Nodes tells which ranks share a node: a machine, inside of which messages are cheap. The zero value is one node.
type Nodes struct {
	of    []int   // node of each rank
	ranks [][]int // of each node, ascending; nodes in the order of their first ranks
}

// FindNodes asks every rank of a world which others share its memory. Where the MPI library finds every rank alone, which
// some containers make it do, and Slurm says otherwise, Slurm is believed. It is collective.
func FindNodes(ctx context.Context, w mpi.World) (Nodes, error) {
	return findNodes(ctx, w, os.LookupEnv)
}

func findNodes(ctx context.Context, w mpi.World, env func(string) (string, bool)) (Nodes, error) {
	node, err := w.Node(ctx)
	if err != nil {
		return Nodes{}, err
	}
	first := make([]byte, 8) // rank of the node that comes first names it
	binary.LittleEndian.PutUint64(first, uint64(w.Rank()))
	if err := node.Bcast(ctx, 0, first); err != nil {
		return Nodes{}, err
	}
	if err := node.Close(); err != nil {
		return Nodes{}, err
	}
	votes, err := Agree(ctx, w, int64(binary.LittleEndian.Uint64(first)), slurmNode(env))
	if err != nil {
		return Nodes{}, err
	}
	which, alone := 0, true
	for r := range w.Size() {
		alone = alone && votes.Of(r, 0) == int64(r)
	}
	if alone && votes.Min(1) >= 0 {
		which = 1
	}
	names := make([]int, w.Size())
	for r := range names {
		names[r] = int(votes.Of(r, which))
	}
	return nodesOf(names), nil
}

// slurmNode is the number of this process's node in its job step, -1 where Slurm did not start it.
func slurmNode(env func(string) (string, bool)) int64 {
	if _, step := env("SLURM_STEP_NUM_TASKS"); step { // set by srun, not in the batch script around it
		if s, ok := env("SLURM_NODEID"); ok {
			if n, err := strconv.ParseInt(s, 10, 32); err == nil {
				return n
			}
		}
	}
	return -1
}

// FakeNodes pretends that a world's ranks live on so many nodes, in runs that differ by one rank at most.
func FakeNodes(ranks, nodes int) (Nodes, error) {
	if nodes < 1 || nodes > ranks {
		return Nodes{}, fmt.Errorf("--fake-nodes %d: %s can live on 1 to %d nodes", nodes, count(ranks, "rank"), ranks)
	}
	names := make([]int, ranks)
	for r := range names {
		names[r] = r * nodes / ranks
	}
	return nodesOf(names), nil
}

// nodesOf numbers nodes by their first ranks; names[r] is anything that tells rank r's node from others.
func nodesOf(names []int) Nodes {
	n, number := Nodes{of: make([]int, len(names))}, map[int]int{}
	for r, name := range names {
		k, known := number[name]
		if !known {
			k = len(n.ranks)
			number[name], n.ranks = k, append(n.ranks, nil)
		}
		n.of[r] = k
		n.ranks[k] = append(n.ranks[k], r)
	}
	return n
}

// Of returns the node of a rank.
func (n Nodes) Of(rank int) int {
	if n.of == nil {
		return 0
	}
	return n.of[rank]
}

// Count returns how many nodes there are.
func (n Nodes) Count() int { return max(1, len(n.ranks)) }

// Largest returns the most ranks that a node has, 0 where that is not known.
func (n Nodes) Largest() (most int) {
	for _, r := range n.ranks {
		most = max(most, len(r))
	}
	return most
}

// within returns the nodes as the members of a group see them: ranks are places in the group, and nodes without a member
// are left out.
func (n Nodes) within(group []int) Nodes {
	names := make([]int, len(group))
	for i, r := range group {
		names[i] = n.Of(r)
	}
	return nodesOf(names)
}

// String tells how many ranks each node has: "2 nodes of 8 ranks".
func (n Nodes) String() string {
	if len(n.ranks) < 2 {
		return "1 node"
	}
	least := len(slices.MinFunc(n.ranks, func(a, b []int) int { return len(a) - len(b) }))
	if least == n.Largest() {
		return fmt.Sprintf("%d nodes of %s", len(n.ranks), count(least, "rank"))
	}
	return fmt.Sprintf("%d nodes of %d to %d ranks", len(n.ranks), least, n.Largest())
}
