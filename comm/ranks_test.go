package comm

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type table = [][]int

// TestWorkedTables compares with the tables that DeepSpeed's group code gives.
func TestWorkedTables(t *testing.T) {
	pairs := func(d int) (g table) { // [0 d] [1 1+d] …, 8 ranks
		for i := range 8 {
			if i/d%2 == 0 {
				g = append(g, []int{i, i + d})
			}
		}
		return g
	}
	singles := table{{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}}
	whole := table{{0, 1, 2, 3, 4, 5, 6, 7}}
	halves := table{{0, 1, 2, 3}, {4, 5, 6, 7}}
	evenOdd := table{{0, 2, 4, 6}, {1, 3, 5, 7}}
	for _, c := range []struct {
		what                string
		sizes               Sizes
		tp, dp, ep, es, rep table
	}{
		{"inference engine, e=8", Sizes{World: 8, Experts: []int{8}},
			singles, whole, whole, singles, singles},
		{"inference engine, e=4: expert j on ranks j and j+4", Sizes{World: 8, EP: 4, ES: AutoES, Experts: []int{4}},
			singles, whole, halves, pairs(4), singles},
		{"inference engine, e=2", Sizes{World: 8, EP: 2, ES: AutoES, Experts: []int{2}},
			singles, whole, pairs(1), evenOdd, singles},
		{"training, no tensor slices, e=4: replicas instead", Sizes{World: 8, EP: 4, Experts: []int{4}},
			singles, whole, halves, singles, pairs(4)},
		{"training, tp=2, e=4", Sizes{World: 8, TP: 2, EP: 4, Experts: []int{4}},
			pairs(1), evenOdd, evenOdd, singles, pairs(1)},
		{"training, tp=2, e=4, expert slices: those of expert j on ranks 2j and 2j+1", Sizes{World: 8, TP: 2, EP: 4, ES: 2, Experts: []int{4}},
			pairs(1), evenOdd, evenOdd, pairs(1), singles},
		{"training, tp=2, e=2, expert slices", Sizes{World: 8, TP: 2, EP: 2, ES: 2, Experts: []int{4}},
			pairs(1), evenOdd, table{{0, 2}, {1, 3}, {4, 6}, {5, 7}}, pairs(1), table{{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
		{"tp=2, e=8: all ranks, peers of equal tp rank first", Sizes{World: 8, TP: 2, Experts: []int{8}},
			pairs(1), evenOdd, table{{0, 2, 4, 6, 1, 3, 5, 7}}, singles, singles},
		{"two stages", Sizes{World: 8, PP: 2, Experts: []int{4}},
			singles, halves, halves, singles, singles},
	} {
		l, err := Ranks(c.sizes)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		e := l.Experts[0]
		for name, pair := range map[string][2]table{
			"tp": {c.tp, l.TPGroups}, "dp": {c.dp, l.DPGroups}, "ep": {c.ep, e.EPGroups},
			"es": {c.es, e.ESGroups}, "replicas": {c.rep, e.ReplicaGroups},
		} {
			if d := cmp.Diff(pair[0], pair[1]); d != "" {
				t.Errorf("%s: %s groups (-want +got)\n%s", c.what, name, d)
			}
		}
	}
}

// TestSixteenRanks compares with DeepSpeed's own test of its groups: 16 ranks, tp 2, ep 4.
func TestSixteenRanks(t *testing.T) {
	l, err := Ranks(Sizes{World: 16, TP: 2, EP: 4, ES: 2, Experts: []int{4}})
	if err != nil {
		t.Fatal(err)
	}
	e := l.Experts[0]
	if d := cmp.Diff(table{{0, 2, 4, 6}, {1, 3, 5, 7}, {8, 10, 12, 14}, {9, 11, 13, 15}}, e.EPGroups); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(table{{0, 8}, {1, 9}, {2, 10}, {3, 11}, {4, 12}, {5, 13}, {6, 14}, {7, 15}}, e.ReplicaGroups); d != "" {
		t.Error(d)
	}
}

func TestStagesWithSlices(t *testing.T) {
	l, err := Ranks(Sizes{World: 16, TP: 2, PP: 2, EP: 2, ES: 2, Experts: []int{4}})
	if err != nil {
		t.Fatal(err)
	}
	want := table{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}}
	if d := cmp.Diff(want, l.Experts[0].EPGroups); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int{3, 11}, l.PPGroups[3]); d != "" {
		t.Error(d)
	}
}

func TestPyramidHasAGroupSetForEachExpertCount(t *testing.T) { // PR-MoE 64/128 on 128 ranks, and with a given ep
	l, err := Ranks(Sizes{World: 128, Experts: []int{64, 64, 128, 64, 128}})
	if err != nil || len(l.Experts) != 2 || l.Experts[0].EP != 64 || l.Experts[1].EP != 128 {
		t.Errorf("%+v, %v", l, err)
	}
	l, err = Ranks(Sizes{World: 8, EP: 8, Experts: []int{4, 8}})
	if err != nil || l.Experts[0].EP != 4 || l.Experts[1].EP != 8 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestDefaultEP(t *testing.T) {
	for _, c := range []struct{ experts, ranks, want int }{
		{64, 8, 8}, {8, 64, 8}, {64, 12, 4}, {6, 4, 2}, {7, 8, 1}, {1, 8, 1}, {128, 1, 1}, {60, 24, 12}, {5, 5, 5},
	} {
		if n := DefaultEP(c.experts, c.ranks); n != c.want {
			t.Errorf("%d experts, %d ranks: %d, want %d", c.experts, c.ranks, n, c.want)
		}
	}
}

func TestImpossibleSizes(t *testing.T) {
	for _, c := range []struct {
		sizes Sizes
		want  string
	}{
		{Sizes{World: 64, EP: 12, Experts: []int{64}}, "ep_size 12: 64 experts cannot be spread evenly over 12 ranks; use 1, 2, 4, 8, 16, 32 or 64"},
		{Sizes{World: 8, EP: 3, Experts: []int{3}}, "ep_size 3: 8 ranks cannot be divided into groups of 3; use 1"},
		{Sizes{World: 12, EP: 12, Experts: []int{64}}, "ep_size 12: 64 experts cannot be spread evenly over 12 ranks; use 1, 2 or 4"},
		{Sizes{World: 4, EP: 8, Experts: []int{8}}, "ep_size 8: 4 ranks cannot be divided into groups of 8; use 1, 2 or 4"},
		{Sizes{World: 8, EP: 8, Experts: []int{6, 8}}, "ep_size 8: 6 experts cannot be spread evenly over 8 ranks; use 1 or 2"},
		{Sizes{World: 8, EP: -1, Experts: []int{8}}, "ep_size -1: 8 experts cannot be spread evenly over -1 ranks; use 1, 2, 4 or 8"},
		{Sizes{World: 8, EP: 2}, "ep_size 2: the model has no experts; use 1"},
		{Sizes{World: 8, ES: 2}, "es 2: the model has no experts to slice; use 1"},
		{Sizes{World: 8, TP: 3}, "tp_size 3: 8 ranks cannot be divided into groups of 3; use 1, 2, 4 or 8"},
		{Sizes{World: 6, PP: 4}, "pp 4: 6 ranks cannot be cut into 4 stages of equal size; use 1, 2, 3 or 6"},
		{Sizes{World: 8, TP: 8, PP: 2}, "tp_size 8: 4 ranks cannot be divided into groups of 8; use 1, 2 or 4"},
		{Sizes{World: 8, ES: 4, Experts: []int{4}}, "es 4: with ep 4 an expert is held by 2 ranks, and cannot be cut into 4 slices; use 1 or 2"},
		{Sizes{World: 4, ES: 2, Experts: []int{4}}, "es 2: with ep 4 an expert is held by 1 rank, and cannot be cut into 2 slices; use 1"},
		{Sizes{}, "world 0: a job has 1 rank or more"},
		{Sizes{World: 1, Experts: []int{0}}, "experts 0: an MoE layer has 1 expert or more"},
	} {
		_, err := Ranks(c.sizes)
		var size *SizeError
		if !errors.As(err, &size) || err.Error() != c.want {
			t.Errorf("%+v:\n got %v\nwant %s", c.sizes, err, c.want)
			continue
		}
		for _, n := range size.Use { // what is advised works
			s := c.sizes
			switch size.Name {
			case "ep_size":
				s.EP = n
			case "tp_size":
				s.TP = n
			case "pp":
				s.PP = n
			case "es":
				s.ES = n
			}
			if _, err := Ranks(s); err != nil {
				t.Errorf("%v\nyet %s %d: %v", size, size.Name, n, err)
			}
		}
	}
}

// TestTablesAreSound: each table has every rank once in groups of one size, all experts are held es·replicas times, and
// the members of an ep group hold the same slice.
func TestTablesAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Sizes{
			World: rapid.IntRange(1, 48).Draw(t, "world"), TP: rapid.IntRange(0, 4).Draw(t, "tp"), PP: rapid.IntRange(0, 3).Draw(t, "pp"),
			EP: rapid.IntRange(0, 16).Draw(t, "ep"), ES: rapid.IntRange(-1, 4).Draw(t, "es"),
			Experts: rapid.SliceOfN(rapid.IntRange(1, 64), 0, 3).Draw(t, "experts"),
		}
		l, err := Ranks(s)
		if err != nil {
			return
		}
		if l.TP*l.DP*l.PP != l.World {
			t.Fatalf("%d x %d x %d is not %d", l.TP, l.DP, l.PP, l.World)
		}
		tables := map[string]table{"tp": l.TPGroups, "dp": l.DPGroups, "pp": l.PPGroups}
		for _, e := range l.Experts {
			tables[fmt.Sprint("ep of ", e.Experts)] = e.EPGroups
			tables[fmt.Sprint("es of ", e.Experts)] = e.ESGroups
			tables[fmt.Sprint("replicas of ", e.Experts)] = e.ReplicaGroups
			tables[fmt.Sprint("peers of ", e.Experts)] = e.PeerGroups
			tables[fmt.Sprint("gather of ", e.Experts)] = e.GatherGroups
			tables[fmt.Sprint("share of ", e.Experts)] = e.ShareGroups
			slice, run := make([]int, l.World), make([]int, l.World)
			for _, g := range e.ESGroups {
				for i, r := range g {
					slice[r] = i
				}
			}
			stage := func(r int) int { return r / (l.World / l.PP) }
			for _, g := range e.EPGroups {
				for i, r := range g {
					run[r] = i
					if slice[r] != slice[g[0]] || stage(r) != stage(g[0]) {
						t.Fatalf("ep group %v mixes slices or stages", g)
					}
				}
			}
			for _, g := range slices.Concat(e.ESGroups, e.ReplicaGroups) {
				for _, r := range g {
					if run[r] != run[g[0]] {
						t.Fatalf("group %v mixes experts", g)
					}
				}
			}
			if len(e.ESGroups[0]) != e.ES || len(e.EPGroups[0]) != e.EP || e.EP*e.ES*len(e.ReplicaGroups[0])*l.PP != l.World {
				t.Fatalf("sizes of %+v", e)
			}
		}
		for name, groups := range tables {
			seen := make([]bool, l.World)
			for _, g := range groups {
				if len(g) != len(groups[0]) {
					t.Fatalf("%s: groups of unequal size: %v", name, groups)
				}
				for _, r := range g {
					if seen[r] {
						t.Fatalf("%s: rank %d twice: %v", name, r, groups)
					}
					seen[r] = true
				}
			}
			if slices.Contains(seen, false) {
				t.Fatalf("%s: a rank is missing: %v", name, groups)
			}
		}
	})
}
