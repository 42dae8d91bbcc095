package comm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// TestForm asks the members of every group who they are, through the group.
func TestForm(t *testing.T) {
	sizes := Sizes{World: 12, TP: 2, PP: 2, EP: 3, ES: 2, Experts: []int{6, 3, 12}}
	formed(t, sizes, func(w mpi.World, g *Groups) error {
		all := []*Group{g.World, g.TP, g.DP, g.PP}
		for _, e := range []int{3, 6, 12} {
			x := g.Expert(e)
			all = append(all, x.EP, x.ES, x.Replicas, x.Peers, x.Gather, x.Share)
		}
		for i, one := range all {
			mine, table := make([]byte, 8), make([]byte, 8*one.Size())
			binary.LittleEndian.PutUint64(mine, uint64(w.Rank()))
			if err := one.AllGather(t.Context(), mine, table); err != nil {
				return err
			}
			var ranks []int
			for k := range one.Size() {
				ranks = append(ranks, int(binary.LittleEndian.Uint64(table[8*k:])))
			}
			if !slices.Equal(ranks, one.Ranks) || one.Ranks[one.Rank()] != w.Rank() {
				return fmt.Errorf("group %d of rank %d: place %d of %v, its members are %v", i, w.Rank(), one.Rank(), one.Ranks, ranks)
			}
		}
		if g.Expert(3).EP != g.Expert(12).EP {
			return fmt.Errorf("equal tables have communicators of their own")
		}
		if g.Expert(5) != nil {
			return fmt.Errorf("groups for layers that don't exist")
		}
		return nil
	})
	l, err := Ranks(sizes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Form(t.Context(), mpi.Alone(), l); err == nil {
		t.Error("12 ranks laid out on 1")
	}
}

// formed runs f on every rank of a world of that layout, with the groups that the rank is in.
func formed(t *testing.T, s Sizes, f func(w mpi.World, g *Groups) error) {
	t.Helper()
	l, err := Ranks(s)
	if err != nil {
		t.Fatal(err)
	}
	mpitest.Run(t, s.World, func(w mpi.World) error {
		g, err := Form(t.Context(), w, l)
		if err != nil {
			return err
		}
		if err := f(w, g); err != nil {
			return err
		}
		return g.Close()
	})
}

func TestAgree(t *testing.T) {
	mpitest.Run(t, 5, func(w mpi.World) error {
		v, err := Agree(t.Context(), w, int64(w.Rank()), -int64(w.Rank()*w.Rank()), int64(w.Rank()/4), 0)
		if err != nil {
			return err
		}
		if v.Sum(0) != 10 || v.Max(0) != 4 || v.Min(0) != 0 || v.Sum(1) != -30 || v.Max(1) != 0 || v.Min(1) != -16 || v.Of(3, 1) != -9 ||
			!v.Any(2) || v.Any(3) {
			return fmt.Errorf("votes %+v", v)
		}
		return nil
	})
}

// TestSame lets ranks 1 and 3 of 4 differ, in a long value, in one that they alone have and in one that they lack.
func TestSame(t *testing.T) {
	long := strings.Repeat("x", 200)
	var mu sync.Mutex
	said := map[string]int{}
	err := mpi.Run(4, func(w mpi.World) error {
		if err := Same(t.Context(), w, []Trait{{"--model", "a"}}, "mend it"); err != nil {
			return err
		}
		traits := []Trait{{"--model", long + "a" + long}, {"same", "1"}, {"--seed", "7"}}
		if w.Rank()%2 == 1 {
			traits = []Trait{{"--model", long + "b" + long}, {"same", "1"}, {"--top-k", "3"}}
		}
		err := Same(t.Context(), w, traits, "mend it")
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(err, ErrUnlike) {
			t.Errorf("%v", err)
		} else {
			said[err.Error()]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for s, ranks := range said {
		for _, want := range []string{"rank 1 (", "differs from rank 0 (", "--model (…", `xb`, `xa`, `--top-k ("3", rank 0 has none)`, `--seed (none, rank 0 has "7")`,
			"2 ranks differ, up to rank 3"} {
			if ranks != 4 || len(s) > 600 || !strings.Contains(s, want) {
				t.Errorf("%d ranks say, without %q: %s", ranks, want, s)
			}
		}
	}
}
