//go:build mpi

package comm

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// The tests of this file are one rank's part of a test under mpirun.

func TestRankExchanges(t *testing.T) {
	w := mpitest.Rank(t)
	for seed := range uint64(5) {
		if err := exchanges(t.Context(), w, ways["flat"], seed); err != nil {
			w.Abort(1, err.Error())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		if err := exchanges(t.Context(), w, ways[name], 7); err != nil {
			w.Abort(1, name+": "+err.Error())
		}
	}
	nodes, err := FindNodes(t.Context(), w)
	if err != nil || nodes.Count() != 1 {
		t.Errorf("the ranks of this machine live on %v, %v", nodes, err)
	}
	l, err := Ranks(Sizes{World: w.Size(), Experts: []int{2, 3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := Form(t.Context(), w, l)
	if err != nil {
		w.Abort(1, err.Error())
	}
	for _, e := range g.Experts {
		if err := exchanges(t.Context(), e.EP, ways["flat"], uint64(w.Rank()/e.EP.Size())); err != nil {
			w.Abort(1, fmt.Sprintf("groups of %d: %v", e.EP.Size(), err))
		}
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestRankWatched(t *testing.T) {
	raw := mpitest.Rank(t)
	how := os.Getenv("DSBATCH_TEST_HOW")
	x, err := Watch(t.Context(), raw, WatchOptions{Timeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w := x.World()
	for range 100 {
		if err := exchanges(t.Context(), w, ways["flat"], 1); err != nil {
			t.Error(err)
		}
	}
	x.Main().Phase("dispatch")
	for heard := ""; heard != "dispatch"; time.Sleep(10 * time.Millisecond) { // until a beat has told of it
		x.mu.Lock()
		heard = x.heard.Phase
		x.mu.Unlock()
	}
	if err := w.Barrier(t.Context()); err != nil {
		t.Error(err)
	}
	if w.Rank() == 1 {
		switch how {
		case "stopped":
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			select {} // this thread may run on for a while, even to the end of the test
		case "killed":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "stuck":
			select {}
		case "disagree":
			_ = w.Recv(t.Context(), 0, 0, make([]byte, 1))
		}
	}
	if err := w.Barrier(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
