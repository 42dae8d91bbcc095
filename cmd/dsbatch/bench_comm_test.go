package main_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/benchmarks"
)

// TestBenchComm and TestBenchScaling look whether the figures are there and hang together; how large they are is the
// machine's affair.
func TestBenchComm(t *testing.T) {
	needMPI(t)
	r := bench(t, "comm", "--rounds", "1")
	if len(r.Groups) != 2 {
		t.Fatalf("%d groups", len(r.Groups))
	}
	for _, g := range r.Groups {
		if len(g.Figures) != 5 {
			t.Errorf("%s: %d sizes", g.Name, len(g.Figures))
		}
		for _, f := range g.Figures {
			if f.Value <= 0 || f.Bound <= 0 || f.Fraction <= 0 {
				t.Errorf("%s, %s: %+v", g.Name, f.Name, f)
			}
		}
	}
}

func TestBenchScaling(t *testing.T) {
	needMPI(t)
	r := bench(t, "scaling", "--rounds", "1", "--rows", "4")
	var names []string
	hot := r.Groups[len(r.Groups)-1]
	if len(hot.Figures) != 3 || !strings.Contains(hot.Name, "hot") {
		t.Errorf("%+v", hot)
	}
	for _, f := range hot.Figures {
		if f.Value <= 0 {
			t.Errorf("%s: %+v", hot.Name, f)
		}
	}
	for _, g := range r.Groups[:len(r.Groups)-1] {
		names = append(names, g.Name)
		one, two, exchange := g.Figures[0], g.Figures[1], g.Figures[2]
		if one.Value <= 0 || two.Value <= 0 || two.Fraction <= 0 || exchange.Value <= 0 || exchange.Value >= 100 {
			t.Errorf("%s: %+v", g.Name, g.Figures)
		}
		if apart := g.Figures[len(g.Figures)-2]; apart.Name != "2 jobs of 1 rank, at once" || apart.Value <= 0 || apart.Fraction <= 0 {
			t.Errorf("%s: %+v", g.Name, apart)
		}
	}
	if len(names) != 2 || !strings.Contains(names[1], "score") {
		t.Errorf("measured %v", names)
	}
}

func bench(t *testing.T, args ...string) (r benchmarks.Report) {
	t.Helper()
	e := dsbatch(t, append(append([]string{"bench"}, args...), "--json")...).want(t, done)
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatalf("%v in\n%s", err, e.stdout)
	}
	return r
}
