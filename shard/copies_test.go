package shard

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestDivideSharesEvenly divides any packing among any sources: every token of every source goes to one copy of its
// expert, all copies of an expert get equally many units, and a rank with a copy sends to no other.
func TestDivideSharesEvenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mates := rapid.SampledFrom([]int{1, 1, 2, 4}).Draw(t, "senders of a source")
		sources := rapid.IntRange(1, 5).Draw(t, "sources")
		ranks, each := mates*sources, rapid.IntRange(1, 4).Draw(t, "experts a rank")
		experts := ranks * each
		loads := rapid.SliceOfN(rapid.Int64Range(0, 1000), experts, experts).Draw(t, "loads")
		held, err := Pack(loads, ranks, rapid.IntRange(0, experts-each).Draw(t, "replicas"))
		if err != nil {
			t.Fatal(err)
		}
		s := Sources{Nodes: rapid.SliceOfN(rapid.IntRange(0, 2), ranks, ranks).Draw(t, "nodes")}
		for i := range sources {
			var senders []int
			for m := range mates {
				senders = append(senders, m*sources+i)
			}
			s.Senders = append(s.Senders, senders)
		}
		divided := Divide(held, experts, s)
		flat := slices.Concat(held...)
		units, copies := make([]int, len(flat)), make([]int, experts)
		for _, e := range flat {
			copies[e]++
		}
		for i, places := range divided {
			if err := CheckPlaces(places, experts, ranks); err != nil {
				t.Fatalf("source %d: %v: %v", i, places, err)
			}
			taken := make([]int, experts) // of 17 tokens of every expert
			for p, x := range places {
				if from, to := x.Part(17); x.Expert != flat[p] || from != taken[x.Expert] || to < from {
					t.Fatalf("source %d, place %d, %+v: tokens %d to %d, %d are taken", i, p, x, from, to, taken[x.Expert])
				} else {
					taken[x.Expert] = to
				}
				units[p] += x.To - x.From
				if mates == 1 && p/len(held[0]) == i && x.To-x.From != copies[x.Expert] {
					t.Fatalf("source %d keeps %d of %d units of expert %d, which is on its rank", i, x.To-x.From, copies[x.Expert], x.Expert)
				}
			}
			if slices.ContainsFunc(taken, func(n int) bool { return n != 17 }) {
				t.Fatalf("source %d: %v of 17 tokens are taken", i, taken)
			}
		}
		for p, n := range units {
			if n != sources {
				t.Fatalf("place %d of expert %d gets %d units of %d sources", p, flat[p], n, sources)
			}
		}
	})
}

// TestDivideStaysNear: of six ranks on three nodes with copies of expert 0 on ranks 0 and 3, rank 1 and rank 2 go to their
// nodes', and 4 and 5 to what these have left; with four copies ranks without one are cut.
func TestDivideStaysNear(t *testing.T) {
	s := Sources{Senders: [][]int{{0}, {1}, {2}, {3}, {4}, {5}}, Nodes: []int{0, 0, 1, 1, 2, 2}}
	goes := func(held [][]int) (parts [][]int) {
		for _, places := range Divide(held, 12, s) {
			var of []int
			for _, p := range places {
				if p.Expert == 0 {
					of = append(of, p.To-p.From)
				}
			}
			parts = append(parts, of)
		}
		return parts
	}
	two := [][]int{{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {0, 9, 10}, {1, 2, 11}, {3, 4, 5}}
	if got, want := goes(two), [][]int{{2, 0}, {2, 0}, {0, 2}, {0, 2}, {2, 0}, {0, 2}}; !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("two copies: %v, want %v", got, want)
	}
	four := [][]int{{0, 1, 2}, {3, 4, 5}, {0, 6, 7}, {0, 8, 9}, {0, 10, 11}, {1, 2, 3}}
	if got, want := goes(four), [][]int{{4, 0, 0, 0}, {2, 2, 0, 0}, {0, 4, 0, 0}, {0, 0, 4, 0}, {0, 0, 0, 4}, {0, 0, 2, 2}}; !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("four copies: %v, want %v", got, want)
	}
	peers := Sources{Senders: [][]int{{0, 2}, {1, 3}}, Nodes: []int{0, 1, 0, 1}} // tp peers 0 and 2, 1 and 3
	got := Divide([][]int{{0}, {1}, {2}, {3}}, 4, peers)
	if err := CheckPlaces(got[1], 4, 4); err != nil || got[0][2] != (Place{2, 0, 1, 1}) {
		t.Errorf("one copy each: %v, %v", got, err)
	}
	got = Divide([][]int{{0, 1}, {2, 3}, {0, 3}, {1, 2}}, 4, peers)
	if got[0][0] != (Place{0, 0, 2, 2}) || got[0][4] != (Place{0, 2, 2, 2}) || got[1][0] != (Place{0, 0, 0, 2}) || got[1][4] != (Place{0, 0, 2, 2}) {
		t.Errorf("a copy in the run of each peer: %v", got) // source 0 has one on rank 0 and on rank 2, where its other sender is
	}
}

func TestPlacesRefused(t *testing.T) {
	one := func(e int) Place { return Place{e, 0, 1, 1} }
	for say, places := range map[string][]Place{
		"3 places cannot be on 2 ranks":       {one(0), one(1), one(0)},
		"a place for expert 2 of 2":           {one(0), one(2)},
		"rank 1 has two places for expert 0":  {one(1), {0, 0, 1, 3}, {0, 1, 2, 3}, {0, 2, 3, 3}},
		"expert 0's places do not follow one": {one(0), one(1), one(0), one(1)},
		"expert 1's places do not follow one": {{1, 0, 1, 2}, {1, 1, 3, 3}},
		"expert 1 do not take all its tokens": {one(0), {1, 0, 1, 2}},
		"expert 0 do not take all its tokens": {{1, 0, 1, 2}, {1, 1, 2, 2}},
	} {
		if err := CheckPlaces(places, 2, 2); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v: %v, want %q", places, err, say)
		}
	}
}
