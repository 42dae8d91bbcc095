package comm

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

func TestFakeNodes(t *testing.T) {
	for _, c := range []struct {
		ranks, nodes int
		want         table
		says         string
	}{
		{8, 1, table{{0, 1, 2, 3, 4, 5, 6, 7}}, "1 node"},
		{8, 2, table{{0, 1, 2, 3}, {4, 5, 6, 7}}, "2 nodes of 4 ranks"},
		{8, 3, table{{0, 1, 2}, {3, 4, 5}, {6, 7}}, "3 nodes of 2 to 3 ranks"},
		{3, 3, table{{0}, {1}, {2}}, "3 nodes of 1 rank"},
	} {
		n, err := FakeNodes(c.ranks, c.nodes)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, n.ranks); d != "" || n.Count() != c.nodes || n.String() != c.says {
			t.Errorf("%d ranks on %d nodes: %v, %d of them\n%s", c.ranks, c.nodes, n, n.Count(), d)
		}
	}
	for _, nodes := range []int{-1, 0, 5} {
		if _, err := FakeNodes(4, nodes); err == nil {
			t.Errorf("4 ranks live on %d nodes", nodes)
		}
	}
}

func TestNodesOfAGroup(t *testing.T) {
	n, err := FakeNodes(8, 2)
	if err != nil {
		t.Fatal(err)
	}
	g := n.within([]int{6, 0, 4, 2})
	if d := cmp.Diff(table{{0, 2}, {1, 3}}, g.ranks); d != "" {
		t.Error(d)
	}
	if one := n.within([]int{5, 7}); one.Count() != 1 || one.Largest() != 2 {
		t.Errorf("%v", one)
	}
	if unknown := (Nodes{}).within([]int{3, 1}); unknown.Count() != 1 || unknown.Of(1) != 0 {
		t.Errorf("%v", unknown)
	}
}

func TestFindNodes(t *testing.T) {
	mpitest.Run(t, 5, func(w mpi.World) error {
		n, err := FindNodes(t.Context(), w)
		if err == nil && (n.Count() != 1 || n.Largest() != 5) {
			err = fmt.Errorf("goroutines of one process live on %v", n)
		}
		return err
	})
}

// apart is a world whose library takes every rank for a node of its own.
type apart struct{ mpi.World }

func (a apart) Node(ctx context.Context) (mpi.World, error) { return a.Split(ctx, a.Rank(), 0) }

func TestSlurmKnowsNodes(t *testing.T) {
	for _, c := range []struct {
		nodes []string // SLURM_NODEID of each rank
		want  table
	}{
		{[]string{"0", "0", "1", "1"}, table{{0, 1}, {2, 3}}},
		{[]string{"0", "1", "0", "1"}, table{{0, 2}, {1, 3}}},
		{[]string{"0", "0", "", "1"}, table{{0}, {1}, {2}, {3}}}, // not all started by Slurm
	} {
		mpitest.Run(t, 4, func(w mpi.World) error {
			env := map[string]string{"SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": c.nodes[w.Rank()]}
			n, err := findNodes(t.Context(), apart{w}, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
			if d := cmp.Diff(c.want, n.ranks); err == nil && d != "" {
				err = fmt.Errorf("SLURM_NODEID %v: %s", c.nodes, d)
			}
			return err
		})
	}
	mpitest.Run(t, 4, func(w mpi.World) error { // the library knows better
		env := map[string]string{"SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "01"[w.Rank()/2 : w.Rank()/2+1]}
		n, err := findNodes(t.Context(), w, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		if err == nil && n.Count() != 1 {
			err = fmt.Errorf("one process lives on %v", n)
		}
		return err
	})
}
