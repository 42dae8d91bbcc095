package engine

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
)

// agreed is the votes of ranks that tell so many numbers each: set(rank) by place.
func agreed(t *testing.T, ranks int, set func(rank int, vote *[votes]int64)) (v comm.Votes) {
	t.Helper()
	err := mpi.Run(ranks, func(w mpi.World) error {
		var mine [votes]int64
		set(w.Rank(), &mine)
		got, err := comm.Agree(t.Context(), w, mine[:]...)
		if w.Rank() == 0 {
			v = got
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSharesEvenOutExperts: with its share of the tokens each rank has as much to compute as any other, experts included; a
// rank whose experts get all rows still has half of what it would have; a rank that follows has none.
func TestSharesEvenOutExperts(t *testing.T) {
	for name, c := range map[string]struct {
		leads, dense, experts []int64
		want                  []float64
	}{
		"nothing is known yet":   {leads: []int64{1, 1}, dense: []int64{0, 0}, experts: []int64{0, 0}, want: []float64{0.5, 0.5}},
		"even":                   {leads: []int64{1, 1}, dense: []int64{70, 50}, experts: []int64{9, 9}, want: []float64{0.5, 0.5}},
		"the second has more":    {leads: []int64{1, 1}, dense: []int64{50, 50}, experts: []int64{20, 30}, want: []float64{0.55, 0.45}},
		"the third has all":      {leads: []int64{1, 1, 1}, dense: []int64{10, 10, 10}, experts: []int64{0, 0, 90}, want: []float64{4. / 3, 4. / 3, 1. / 6}},
		"replicas of two ranks":  {leads: []int64{1, 0, 1, 0}, dense: []int64{9, 9, 9, 9}, experts: []int64{1, 2, 3, 4}, want: []float64{0.5, 0, 0.5, 0}},
		"one replica of all two": {leads: []int64{1, 0}, dense: []int64{9, 9}, experts: []int64{1, 2}, want: []float64{1, 0}},
	} {
		v := agreed(t, len(c.leads), func(r int, mine *[votes]int64) {
			mine[voteLeads], mine[voteDense], mine[voteExperts] = c.leads[r], c.dense[r], c.experts[r]
		})
		got := shares(v, len(c.leads))
		for r := range got {
			if math.Abs(got[r]-c.want[r]) > 1e-9 {
				t.Errorf("%s: %v, want %v", name, got, c.want)
				break
			}
		}
		for r := range got {
			if n := budget(got, r, 512); n > 512 || n < 1 || got[r] == slices.Max(got) && n != 512 {
				t.Errorf("%s: rank %d of shares %v has %d of 512 tokens", name, r, got, n)
			}
		}
	}
}

// TestLoansEvenOut: whoever has more left than its share lends of what has not begun, nobody gets more than its share, and
// afterwards a rank is over its share only by what it could not lend. Followers neither lend nor borrow.
func TestLoansEvenOut(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		ranks := 1 + random.IntN(6)
		left, spare, shares := make([]int64, ranks), make([]int64, ranks), make([]float64, ranks)
		for r := range ranks {
			if r > 0 && random.IntN(4) == 0 {
				continue // follows
			}
			left[r], shares[r] = random.Int64N(10_000), 0.5+random.Float64()
			spare[r] = random.Int64N(left[r] + 1)
		}
		v := agreed(t, ranks, func(r int, mine *[votes]int64) { mine[voteLeft], mine[voteSpare] = left[r], spare[r] })
		const slack = 64
		var over, total float64
		for _, s := range shares {
			total += s
		}
		share := func(r int) float64 { return float64(v.Sum(voteLeft)) * shares[r] / total }
		for r := range ranks {
			over = max(over, float64(left[r])-share(r))
		}
		all := loans(v, shares, slack)
		if over <= slack && len(all) > 0 || over > slack+1 && len(all) == 0 && slices.Max(spare) == slices.Min(spare) && spare[0] > 0 {
			t.Fatalf("left %v, spare %v, shares %v: loans %v", left, spare, shares, all)
		}
		if len(all) == 0 {
			continue
		}
		after, lent := slices.Clone(left), make([]int64, ranks)
		for _, x := range all {
			if x.tokens <= 0 || shares[x.to] == 0 {
				t.Fatalf("left %v, shares %v: loan %v", left, shares, x)
			}
			after[x.from], after[x.to], lent[x.from] = after[x.from]-int64(x.tokens), after[x.to]+int64(x.tokens), lent[x.from]+int64(x.tokens)
		}
		for r := range ranks {
			switch off := float64(after[r]) - share(r); {
			case lent[r] > spare[r]:
				t.Fatalf("rank %d lends %d of %d tokens", r, lent[r], spare[r])
			case after[r] > left[r] && off > 1, lent[r] > 0 && off < -1:
				t.Fatalf("left %v, spare %v, shares %v: loans %v leave rank %d %.0f off its share", left, spare, shares, all, r, off)
			case off > float64(ranks) && lent[r] < spare[r]: // each rounding is one token
				t.Fatalf("left %v, spare %v, shares %v: loans %v leave rank %d %.0f over its share", left, spare, shares, all, r, off)
			}
		}
	}
}

// TestLentRowsComeBack: when a rank has done all of what it borrowed, or many, or the job stops.
func TestLentRowsComeBack(t *testing.T) {
	for name, c := range map[string]struct {
		done, borrowed, stop [2]int64
		want                 bool
	}{
		"none are lent":           {},
		"none are done":           {borrowed: [2]int64{5, 0}},
		"some are done":           {borrowed: [2]int64{5, 1}, done: [2]int64{3, 1}},
		"one rank has done all":   {borrowed: [2]int64{5, 0}, done: [2]int64{3, 1}, want: true},
		"many are done":           {borrowed: [2]int64{5, 1}, done: [2]int64{handful, 0}, want: true},
		"the job stops":           {borrowed: [2]int64{5, 1}, done: [2]int64{3, 0}, stop: [2]int64{0, 1}, want: true},
		"it stops, none are done": {borrowed: [2]int64{5, 1}, stop: [2]int64{0, 1}},
	} {
		v := agreed(t, 2, func(r int, mine *[votes]int64) {
			mine[voteDone], mine[voteBorrowed], mine[voteStop] = c.done[r], c.borrowed[r], c.stop[r]
		})
		if got := due(v, 2); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
