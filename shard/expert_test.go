package shard

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestBalance(t *testing.T) {
	load := []int64{90, 80, 5, 5, 70, 5, 5, 60} // the first rank of four has more than half
	placed, err := Balance(load, 4)
	if want := []int{0, 6, 1, 5, 3, 4, 2, 7}; err != nil || !slices.Equal(placed, want) {
		t.Errorf("%v, %v; want %v", placed, err, want)
	}
	if _, err := Balance(load, 3); err == nil {
		t.Error("8 experts over 3 ranks accepted")
	}
	rapid.Check(t, func(t *rapid.T) {
		ranks, local := rapid.IntRange(1, 6).Draw(t, "ranks"), rapid.IntRange(1, 5).Draw(t, "experts of each")
		load := rapid.SliceOfN(rapid.Int64Range(0, 1000), ranks*local, ranks*local).Draw(t, "loads")
		placed, err := Balance(load, ranks)
		if err != nil {
			t.Fatal(err)
		}
		all := slices.Sorted(slices.Values(placed))
		for e := range all {
			if all[e] != e {
				t.Fatalf("%v is no permutation", placed)
			}
		}
		s := Experts{Count: len(load), Ranks: ranks}
		if got, before := s.Largest(load, placed), s.Largest(load, all); got > before {
			t.Fatalf("%v: the largest rank has %d, in order %d", placed, got, before)
		}
	})
}
