package moe_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dsbatch/dsbatch/moe"
)

// shapes that a layer comes in: odd sizes, every kind of gate, residual branches, one expert.
var shapes = []shape{
	{hidden: 16, ffn: 32, experts: 4, k: 1},
	{hidden: 24, ffn: 40, experts: 8, k: 2, residual: true, bias: true, renor: true},
	{hidden: 33, ffn: 17, experts: 5, k: 3, gated: true},
	{hidden: 48, ffn: 31, experts: 64, k: 8, gated: true, bias: true, renor: true},
	{hidden: 8, ffn: 9, experts: 1, k: 1, residual: true},
	{hidden: 24, ffn: 10, experts: 8, k: 3, shared: 45, gated: true},
	{hidden: 7, ffn: 5, experts: 6, k: 6, renor: true, bias: true},
}

// A gate's choice may turn with the order of sums where two probabilities are closer than this.
const expertMargin = 1e-5

func TestLayerByDefinition(t *testing.T) {
	for _, s := range shapes {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(s.hidden)))
			d, m := randomDefinition(rng, s), newMachine(t, 2)
			layer, w := m.layer(d, nil), m.workspace(70, d)
			for _, tokens := range []int{70, 1, 0, 2, 13, 64} { // the first leaves its contents to the others
				x := random(rng, tokens, s.hidden, 1)
				y := m.forward(w, x, layer)
				checkRouting(t, m, d, x, w)
				r, _ := w.Routed()
				chosen, weights := m.ints(r.Expert), m.read(r.Weight)
				for i := range tokens {
					var e []int
					for _, c := range chosen[i*s.k : (i+1)*s.k] {
						e = append(e, int(c))
					}
					want := d.token(wide(x.row(i)), e, wide(weights.row(i)))
					for j, v := range want {
						if math.Abs(float64(y.row(i)[j])-v) > 2e-5 {
							t.Fatalf("%d tokens: token %d, column %d: %g, want %g", tokens, i, j, y.row(i)[j], v)
						}
					}
				}
			}
		})
	}
}

// checkRouting holds the routing of the last layer against its definition: the experts of largest probability with
// their weights, and the tables that list each expert's choices in order.
func checkRouting(t *testing.T, m *machine, d *definition, x matrix, w *moe.Workspace) {
	t.Helper()
	r, _ := w.Routed()
	expert, weight := m.ints(r.Expert), m.read(r.Weight)
	for i := range x.rows {
		p := d.probabilities(wide(x.row(i)))
		order := ranked(p)
		sum := 1.0
		if d.gate.Renormalise {
			sum = 0
			for _, e := range order[:r.K] {
				sum += p[e]
			}
		}
		for c := range r.K {
			e := int(expert[i*r.K+c])
			if e != order[c] && math.Abs(p[e]-p[order[c]]) > expertMargin {
				t.Fatalf("token %d, choice %d: expert %d of probability %g, want %d of %g", i, c, e, p[e], order[c], p[order[c]])
			}
			if got, want := float64(weight.row(i)[c]), p[e]/sum; math.Abs(got-want) > 1e-6 {
				t.Fatalf("token %d, choice %d: weight %g, want %g", i, c, got, want)
			}
		}
	}
	checkTables(t, m, w)
}

// checkTables derives the slots from the experts of the choices: each expert's in order, one expert after the other.
func checkTables(t *testing.T, m *machine, w *moe.Workspace) {
	t.Helper()
	r, _ := w.Routed()
	expert := m.ints(r.Expert)
	place := slices.Repeat([]int32{-1}, len(expert))
	var offsets, choices, counts []int32
	for e := range int32(r.Experts) {
		offsets = append(offsets, int32(len(choices)))
		for i, c := range expert {
			if c == e {
				place[i] = int32(len(choices))
				choices = append(choices, int32(i))
			}
		}
		counts = append(counts, int32(len(choices))-offsets[e])
	}
	offsets = append(offsets, int32(len(choices)))
	if got := m.ints(r.Offsets); !slices.Equal(got, offsets) {
		t.Fatalf("offsets %v, want %v", got, offsets)
	}
	if got := m.ints(r.Choices)[:len(choices)]; !slices.Equal(got, choices) {
		t.Fatalf("choices of slots %v, want %v", got, choices)
	}
	if got := m.ints(r.Place); !slices.Equal(got, place) {
		t.Fatalf("slots of choices %v, want %v", got, place)
	}
	if all := w.Counts(); !slices.Equal(all[len(all)-1], counts) {
		t.Fatalf("counts %v, want %v", all, counts)
	}
}

func TestEqualLogitsGoToTheLowerExpert(t *testing.T) {
	d, m := randomDefinition(rand.New(rand.NewPCG(2, 2)), shape{hidden: 6, ffn: 5, experts: 7, k: 3}), newMachine(t, 1)
	for e := range d.gate.Experts { // experts 2, 3 and 5 have the same logit, the largest
		for i := range d.wg.weight.row(e) {
			d.wg.weight.row(e)[i] = map[bool]float32{true: 2, false: 1}[e == 2 || e == 3 || e == 5]
		}
	}
	w := m.workspace(2, d)
	m.forward(w, matrix{2, 6, []float32{1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2}}, m.layer(d, nil))
	r, _ := w.Routed()
	if got := m.ints(r.Expert); !slices.Equal(got, []int32{2, 3, 5, 2, 3, 5}) {
		t.Errorf("experts %v", got)
	}
}

// TestTokenIgnoresItsNeighbours is promise 1 in one layer: a token's bits are the same alone and among others.
func TestTokenIgnoresItsNeighbours(t *testing.T) {
	for _, s := range shapes {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			m := newMachine(t, 2)
			d := randomDefinition(rand.New(rand.NewPCG(3, uint64(s.hidden))), s)
			layer, w := m.layer(d, nil), m.workspace(64, d)
			rapid.Check(t, func(t *rapid.T) {
				x := drawTokens(t, s.hidden, rapid.IntRange(1, 64).Draw(t, "tokens"))
				at := rapid.IntRange(0, x.rows-1).Draw(t, "token")
				among := m.forward(w, x, layer).row(at)
				if alone := m.forward(w, x.slice(at, at+1), layer).v; !sameBits(alone, among) {
					t.Fatalf("token %d of %d: alone %v, among them %v", at, x.rows, alone, among)
				}
			})
		})
	}
}

// drawTokens draws rows of ordinary values, some with infinities, denormals, zeros or huge values in them; some rows
// are copies, so that one expert gets many.
func drawTokens(t *rapid.T, hidden, tokens int) matrix {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	x := random(rng, tokens, hidden, math.Exp(rapid.Float64Range(-6, 4).Draw(t, "log of the spread")))
	odd := []float32{0, float32(math.Inf(1)), float32(math.Inf(-1)), 1e-42, -1e-45, 3e38, float32(math.Copysign(0, -1))}
	for i := range tokens {
		switch rng.IntN(4) {
		case 0:
			x.row(i)[rng.IntN(hidden)] = odd[rng.IntN(len(odd))]
		case 1:
			copy(x.row(i), x.row(rng.IntN(tokens)))
		}
	}
	return x
}
