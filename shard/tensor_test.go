package shard

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func lengths(ranges []Range) (n []int) {
	for _, r := range ranges {
		n = append(n, r.Len())
	}
	return n
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		size, ranks int
		want        []int
	}{
		{101, 2, []int{51, 50}}, // AutoTP's own vector
		{96, 4, []int{24, 24, 24, 24}},
		{11008, 3, []int{58 * 64, 57 * 64, 57 * 64}}, // whole grains
		{128, 3, []int{43, 43, 42}},                  // not enough grains to go round
		{5, 5, []int{1, 1, 1, 1, 1}},
	} {
		got, err := Cut("a vocabulary", c.size, c.ranks)
		if err != nil || !slices.Equal(lengths(got), c.want) {
			t.Errorf("%d over %d: %v, %v; want %v", c.size, c.ranks, got, err, c.want)
		}
	}
	if _, err := Cut("a vocabulary", 5, 6); err == nil || !strings.Contains(err.Error(), "a vocabulary of 5 cannot be cut into 6 slices; use 1 to 5") {
		t.Errorf("%v", err)
	}
}

func TestCutHoldsEveryElementOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 3000).Draw(t, "size")
		cut, err := Cut("x", size, rapid.IntRange(1, min(size, 70)).Draw(t, "ranks"))
		if err != nil {
			t.Fatal(err)
		}
		n, at := lengths(cut), 0
		for _, r := range cut {
			if r.From != at {
				t.Fatalf("%v", cut)
			}
			at = r.To
		}
		if at != size || slices.Min(n) < 1 || slices.Max(n)-slices.Min(n) > grain || size%len(n) == 0 && slices.Max(n) != slices.Min(n) {
			t.Fatalf("%d: %v", size, n)
		}
	})
}

func TestCutHeads(t *testing.T) {
	for _, c := range []struct {
		heads, kv, ranks int
		want             string
	}{
		{6, 6, 4, "[{{0 2} {0 2}} {{2 4} {2 4}} {{4 5} {4 5}} {{5 6} {5 6}}]"}, // AutoTP: 384 over 4 with 6 heads is 128, 128, 64, 64
		{8, 2, 2, "[{{0 4} {0 1}} {{4 8} {1 2}}]"},
		{8, 2, 4, "[{{0 2} {0 1}} {{2 4} {0 1}} {{4 6} {1 2}} {{6 8} {1 2}}]"},
		{6, 2, 3, "[{{0 2} {0 1}} {{2 3} {0 1}} {{3 6} {1 2}}]"},
	} {
		if got, err := CutHeads(c.heads, c.kv, c.ranks); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%d heads, %d of K and V over %d: %v, %v; want %s", c.heads, c.kv, c.ranks, got, err, c.want)
		}
	}
	if _, err := CutHeads(4, 2, 5); err == nil || !strings.Contains(err.Error(), "use 1 to 4") {
		t.Errorf("%v", err)
	}
}

// TestEveryHeadFindsItsKV: attention on a rank gives its i-th query head the KV head i·kv/q of those that it holds, which
// must be the one that the whole model gives it.
func TestEveryHeadFindsItsKV(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kv, group := rapid.IntRange(1, 12).Draw(t, "key-value heads"), rapid.IntRange(1, 9).Draw(t, "query heads of each")
		all, err := CutHeads(kv*group, kv, rapid.IntRange(1, kv*group).Draw(t, "ranks"))
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for _, h := range all {
			if h.Q.From != next || h.Q.Len() < 1 || h.KV.Len() < 1 || h.Q.Len()%h.KV.Len() != 0 {
				t.Fatalf("%v", all)
			}
			next = h.Q.To
			for q := h.Q.From; q < h.Q.To; q++ {
				if got := h.KV.From + (q-h.Q.From)/(h.Q.Len()/h.KV.Len()); got != q/group {
					t.Fatalf("query head %d looks at %d of K and V, want %d: %v", q, got, q/group, all)
				}
			}
		}
		if next != kv*group {
			t.Fatalf("%d of %d heads: %v", next, kv*group, all)
		}
	})
}

// TestStagesAreAsEvenAsCanBe compares with every way to cut.
func TestStagesAreAsEvenAsCanBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(0, 20), 1, 9).Draw(t, "sizes")
		stages := rapid.IntRange(1, len(sizes)).Draw(t, "stages")
		cut, err := Stages(sizes, stages)
		if err != nil || len(cut) != stages {
			t.Fatalf("%v, %v", cut, err)
		}
		largest, at := int64(0), 0
		for _, r := range cut {
			if r.From != at || r.Len() < 1 {
				t.Fatalf("%v", cut)
			}
			largest, at = max(largest, sumOf(sizes[r.From:r.To])), r.To
		}
		if least := leastLargest(sizes, stages); at != len(sizes) || largest != least {
			t.Fatalf("%v: the largest of %v has %d, want %d", sizes, cut, largest, least)
		}
	})
	if _, err := Stages(make([]int64, 3), 4); err == nil || !strings.Contains(err.Error(), "use 1 to 3") {
		t.Errorf("%v", err)
	}
	if cut, _ := Stages([]int64{1, 1, 1, 1, 1, 1, 1}, 4); fmt.Sprint(lengths(cut)) != "[2 2 2 1]" {
		t.Errorf("7 equal layers over 4: %v", cut)
	}
}

func sumOf(sizes []int64) (sum int64) {
	for _, s := range sizes {
		sum += s
	}
	return sum
}

func leastLargest(sizes []int64, stages int) int64 {
	if stages == 1 {
		return sumOf(sizes)
	}
	least := int64(1 << 60)
	for n := 1; n <= len(sizes)-stages+1; n++ {
		least = min(least, max(sumOf(sizes[:n]), leastLargest(sizes[n:], stages-1)))
	}
	return least
}
