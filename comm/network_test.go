package comm

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// TestModelCountsWhatIsSent compares the model's messages with those that the algorithms send (TestHops, TestCoordinatedHops).
func TestModelCountsWhatIsSent(t *testing.T) {
	for _, c := range []struct {
		l              Load
		flat, two, few int
	}{
		{Load{Ranks: 64, Node: 8, TP: 1}, 63, 14, 63},
		{Load{Ranks: 64, Node: 8, TP: 2}, 63, 14, 32},
		{Load{Ranks: 64, Node: 8, TP: 8}, 63, 14, 14},
		{Load{Ranks: 8, Node: 8, TP: 1}, 7, 7, 7},
		{Load{Ranks: 4, Node: 1, TP: 1}, 3, 3, 3},
		{Load{Ranks: 1, Node: 1, TP: 1}, 0, 0, 0},
	} {
		for how, want := range map[Algorithm]int{Flat: c.flat, Hierarchical: c.two, Coordinated: c.few} {
			if got := c.l.Messages(how); got != want {
				t.Errorf("%+v, %v: %d messages, want %d", c.l, how, got, want)
			}
		}
	}
}

func TestSeconds(t *testing.T) {
	n := Network{Inside: Link{1, 10}, Between: Link{100, 1}}
	l := Load{Ranks: 4, Node: 2, TP: 2, Bytes: 40} // 10 bytes for each rank
	for how, want := range map[Algorithm]float64{
		Flat:         1 + 10/10. + 200 + 20,
		Hierarchical: 1 + 20/10. + 100 + 20,
		Coordinated:  100 + 10 + 1 + 20/10., // half the tokens to the one peer, half of the results to the tp peer
	} {
		if got := n.Seconds(how, l); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v takes %g, want %g", how, got, want)
		}
	}
	if how := n.cheapest(l); how != Coordinated {
		t.Errorf("cheapest is %v", how)
	}
	l.TP = 1
	if how := n.cheapest(l); how != Hierarchical {
		t.Errorf("without tp, cheapest is %v", how)
	}
	l.Node = 4
	if how := n.cheapest(l); how != Flat { // hierarchical is flat there
		t.Errorf("on one node, cheapest is %v", how)
	}
	if how := (Network{}).cheapest(Load{Ranks: 4, Node: 2, TP: 2, Bytes: 1}); how != Flat {
		t.Errorf("cheapest of what nobody has measured is %v", how)
	}
}

func TestMeasure(t *testing.T) {
	for _, fake := range []int{1, 2, 3, 5} {
		nodes, err := FakeNodes(5, fake)
		if err != nil {
			t.Fatal(err)
		}
		seen := make([]Network, 5)
		begun := time.Now()
		mpitest.Run(t, 5, func(w mpi.World) (err error) {
			seen[w.Rank()], err = Measure(t.Context(), w, nodes)
			return err
		})
		for r, n := range seen {
			if n != seen[0] {
				t.Errorf("%v: rank %d has measured %+v, rank 0 %+v", nodes, r, n, seen[0])
			}
		}
		if known := seen[0] != (Network{}); known != (fake == 2 || fake == 3) {
			t.Errorf("%v: %+v", nodes, seen[0])
		}
		for _, l := range []Link{seen[0].Inside, seen[0].Between} {
			if seen[0] != (Network{}) && !(l.Latency > 0 && l.Latency < 1 && l.Bandwidth > 1e3) {
				t.Errorf("%v: a link of %+v", nodes, l)
			}
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%v: measured for %v", nodes, took)
		}
	}
}

func TestParseAlgorithm(t *testing.T) {
	for _, c := range []struct {
		env, name string
		want      Algorithm
		err       string
	}{
		{"", "", Auto, ""}, {"", "auto", Auto, ""}, {"", "hierarchical", Hierarchical, ""}, {"flat", "auto", Flat, ""}, {"flat", "", Flat, ""},
		{"flat", "coordinated", Coordinated, ""}, // what was asked for wins
		{"", "ring", Auto, `--all-to-all "ring": use auto, flat, hierarchical, coordinated`},
		{"ring", "auto", Auto, `DSBATCH_A2A "ring": use auto, flat, hierarchical, coordinated`},
	} {
		t.Setenv("DSBATCH_A2A", c.env)
		got, err := ParseAlgorithm(c.name)
		if got != c.want || c.err != "" && fmt.Sprint(err) != c.err || c.err == "" && err != nil {
			t.Errorf("DSBATCH_A2A=%s --all-to-all %q: %v, %v", c.env, c.name, got, err)
		}
	}
}
