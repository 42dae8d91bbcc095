package moe_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		factor                         float64
		min, tokens, experts, k, limit int
	}{
		{1, 4, 84, 4, 1, 21},
		{1, 4, 84, 8, 1, 11},
		{1, 4, 84, 8, 2, 21},
		{1.2, 0, 25, 2, 1, 16}, // 12.5·1.2 in float32 is a little above 15
		{0.5, 2, 60, 5, 3, 18},
		{1, 4, 3, 64, 1, 4}, // the least
		{1, 0, 0, 8, 2, 0},
		{0.01, 0, 10, 10, 1, 1}, // a part of a token is a token
	} {
		if got := (moe.Capacity{Factor: c.factor, Min: c.min}).Limit(c.tokens, c.experts, c.k); got != c.limit {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// keptByDefinition drops choices over the limit from experts [tokens][k], given the probabilities p [tokens][experts].
func keptByDefinition(experts [][]int, p [][]float64, limit int, byProbs bool) {
	type choice struct {
		token, k int
		p        float64
	}
	k := len(experts[0])
	for e := range p[0] {
		var asked []choice // in the order in which they are served
		serve := func(t, c int) {
			if experts[t][c] == e {
				asked = append(asked, choice{t, c, p[t][e]})
			}
		}
		if k == 2 && !byProbs { // all first choices before any second
			for c := range k {
				for t := range experts {
					serve(t, c)
				}
			}
		} else {
			for t := range experts {
				for c := range k {
					serve(t, c)
				}
			}
		}
		if byProbs {
			slices.SortStableFunc(asked, func(a, b choice) int {
				switch {
				case a.p > b.p:
					return -1
				case a.p < b.p:
					return 1
				}
				return 0
			})
		}
		for i := limit; i < len(asked); i++ {
			experts[asked[i].token][asked[i].k] = -1
		}
	}
}

// What is kept, by both policies, with one, two and three choices, and what the kept weigh.
func TestCapacityByDefinition(t *testing.T) {
	for _, s := range []shape{
		{hidden: 12, ffn: 6, experts: 5, k: 1},
		{hidden: 12, ffn: 6, experts: 5, k: 2, renor: true},
		{hidden: 12, ffn: 6, experts: 6, k: 3, renor: true, residual: true},
		{hidden: 12, ffn: 6, experts: 6, k: 3}, // a family whose gate does not renormalise
	} {
		for _, policy := range []kernels.DropPolicy{kernels.DropByPosition, kernels.DropByProbs} {
			m := newMachine(t, 1)
			d := randomDefinition(rand.New(rand.NewPCG(6, uint64(s.k))), s)
			d.gate.Scale = float32(s.k) / 2 // as DeepSeek's gates have one
			d.capacity = &moe.Capacity{Policy: policy}
			layer, w := m.layer(d, nil), m.workspace(48, d)
			dropped := 0
			rapid.Check(t, func(t *rapid.T) {
				*d.capacity = moe.Capacity{Policy: policy, Factor: rapid.Float64Range(0.1, 2).Draw(t, "factor"), Min: rapid.IntRange(0, 5).Draw(t, "min")}
				tokens := rapid.IntRange(1, 48).Draw(t, "tokens")
				x := random(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), tokens, s.hidden, 1.5)
				m.forward(w, x, layer)
				checkTables(m.t.(*testing.T), m, w)
				dropped += checkKept(t, m, d, x, w)
			})
			if dropped == 0 {
				t.Errorf("%+v, policy %d: nothing was ever dropped", s, policy)
			}
		}
	}
}

// checkKept compares with the definition, unless two probabilities are too close to tell which comes first.
func checkKept(t *rapid.T, m *machine, d *definition, x matrix, w *moe.Workspace) (dropped int) {
	t.Helper()
	k := d.gate.K
	p, want, asked := make([][]float64, x.rows), make([][]int, x.rows), make([][]float64, d.gate.Experts)
	for i := range x.rows {
		p[i] = d.probabilities(wide(x.row(i)))
		order := ranked(p[i])
		want[i] = slices.Clone(order[:k])
		for c, e := range want[i] {
			asked[e] = append(asked[e], p[i][e])
			if c+1 < len(order) && p[i][e]-p[i][order[c+1]] < expertMargin {
				return 0
			}
		}
	}
	for _, a := range asked {
		slices.Sort(a)
		for i := 1; i < len(a); i++ {
			if a[i]-a[i-1] < 1e-6 {
				return 0
			}
		}
	}
	keptByDefinition(want, p, d.capacity.Limit(x.rows, d.gate.Experts, k), d.capacity.Policy == kernels.DropByProbs)
	r, _ := w.Routed()
	expert, weight := m.ints(r.Expert), m.read(r.Weight)
	for i := range x.rows {
		sum := 0.0
		for _, e := range want[i] {
			if e >= 0 {
				sum += p[i][e]
			}
		}
		for c, e := range want[i] {
			got, weighs := int(expert[i*k+c]), float64(weight.row(i)[c])
			wanted := 0.0
			if e < 0 {
				dropped++
			} else if wanted = p[i][e]; d.gate.Renormalise {
				wanted /= sum
			}
			wanted *= float64(d.gate.Scale)
			if got != e || weighs < wanted-2e-6 || weighs > wanted+2e-6 {
				t.Fatalf("token %d of %d, choice %d: expert %d of weight %g, want %d of %g", i, x.rows, c, got, weighs, e, wanted)
			}
		}
	}
	return dropped
}
