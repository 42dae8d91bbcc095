package moe_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// columns is the columns [from, to) of all rows.
func (m matrix) columns(from, to int) matrix {
	y := matrix{m.rows, to - from, nil}
	for i := range m.rows {
		y.v = append(y.v, m.row(i)[from:to]...)
	}
	return y
}

// sliced is an expert with its inside cut to [from, to); the output's bias is the first slice's.
func (e expert) sliced(from, to int) expert {
	cut := func(l linear) linear {
		if l.weight.rows == 0 {
			return l
		}
		y := linear{weight: l.weight.slice(from, to)}
		if l.bias.rows > 0 {
			y.bias = l.bias.columns(from, to)
		}
		return y
	}
	y := expert{gate: cut(e.gate), up: cut(e.up), down: linear{weight: e.down.weight.columns(from, to)}}
	if from == 0 {
		y.down.bias = e.down.bias
	}
	return y
}

// slicedLayer packs slices [first, first+n) of all, equal ones, of the experts that exchange gives this rank.
func (m *machine) slicedLayer(d *definition, exchange *moe.Exchange, first, n, all int) *moe.Layer {
	m.t.Helper()
	l := m.layer(d, exchange)
	held, each := d.experts, d.ffn()/all
	if exchange != nil {
		local := len(held) / exchange.Ranks
		held = held[exchange.Rank*local : (exchange.Rank+1)*local]
	}
	pack := func(from, to int) (kernels.Weights, []kernels.Weights) {
		var cut []expert
		for _, e := range held {
			cut = append(cut, e.sliced(from, to))
		}
		return m.experts(cut...)
	}
	l.Up, _ = pack(first*each, (first+n)*each)
	l.Down = nil
	for s := first; s < first+n; s++ {
		_, down := pack(s*each, (s+1)*each)
		l.Down = append(l.Down, down...)
	}
	return l
}

// TestSlicedExpertsKeepTheBits: experts in four slices over 1, 2 and 4 ranks, these over 1 and 2 groups of experts, any
// tokens on each rank, often none: the bits are those of one rank that holds all slices, and near those of whole experts.
func TestSlicedExpertsKeepTheBits(t *testing.T) {
	const all = 4
	rng := rand.New(rand.NewPCG(11, 12))
	d := randomDefinition(rng, shape{hidden: 12, ffn: 24, experts: 4, k: 2, renor: true, gated: true, bias: true})
	m := newMachine(t, 1)
	x := random(rng, 20, d.hidden(), 1)
	w := m.workspace(20, d)
	whole := m.forward(w, x, m.layer(d, nil))
	for i, v := range m.forward(w, x, m.slicedLayer(d, nil, 0, all, all)).v {
		if diff := v - whole.v[i]; !(diff < 1e-5 && diff > -1e-5) {
			t.Fatalf("element %d: %g in slices, %g whole", i, v, whole.v[i])
		}
	}
	for _, c := range []struct{ es, ep int }{{1, 2}, {2, 1}, {2, 2}, {4, 1}, {4, 2}} {
		t.Run(fmt.Sprintf("es %d, ep %d", c.es, c.ep), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				tokens, total := drawSpread(rt, c.es*c.ep)
				x := drawTokens(rt, d.hidden(), total)
				parts := cut(x, tokens)
				ys := make([]matrix, len(parts))
				err := mpi.Run(len(parts), func(world mpi.World) error {
					table, err := comm.Ranks(comm.Sizes{World: world.Size(), EP: c.ep, ES: c.es, Experts: []int{4}})
					if err != nil {
						return err
					}
					groups, err := comm.Form(t.Context(), world, table)
					if err != nil {
						return err
					}
					m, g := newMachine(t, 1), groups.Expert(4)
					n := all / c.es
					l := m.slicedLayer(d, &moe.Exchange{Rank: g.EP.Rank(), Ranks: g.EP.Size(), Rows: comm.NewFlat(g.EP), Slice: g.ES}, g.ES.Rank()*n, n, all)
					w := m.workspace(20, d)
					for _, x := range []matrix{parts[len(parts)-1-world.Rank()], parts[world.Rank()]} { // old contents of another size
						w.Begin(0)
						in, out := m.tensor(x), m.tensor(matrix{x.rows, x.cols, make([]float32, len(x.v))})
						if err := l.Forward(t.Context(), m.stream, out, in, w); err != nil {
							return err
						}
						ys[world.Rank()] = m.read(out)
					}
					return nil
				})
				if err != nil {
					rt.Fatal(err)
				}
				m := newMachine(t, 1)
				w := m.workspace(total, d)
				want := m.forward(w, x, m.slicedLayer(d, nil, 0, all, all))
				for r, part := range cut(want, tokens) {
					if !sameBits(ys[r].v, part.v) {
						rt.Fatalf("tokens %v: rank %d differs from one rank alone", tokens, r)
					}
				}
			})
		})
	}
}

// severed is a group of two whose other rank can't be reached.
type severed struct{ mpi.World }

func (severed) Size() int { return 2 }

func (severed) AllGather(context.Context, []byte, []byte) error { return errBroken }

func (severed) AllGatherV(context.Context, []byte, []byte, []int64) error { return errBroken }

// TestFailuresOfSlicesSayWhere: a group that fails is told with what it was to do.
func TestFailuresOfSlicesSayWhere(t *testing.T) {
	d, m := pyramid(false)[0], newMachine(t, 1)
	w, x := m.workspace(9, d), m.tensor(random(rand.New(rand.NewPCG(1, 1)), 9, 12, 1))
	for want, group := range map[string]func(*moe.Exchange, *comm.Group){
		"moe: counts of the slices: ":  func(e *moe.Exchange, g *comm.Group) { e.Slice = g },
		"moe: results of the shares: ": func(e *moe.Exchange, g *comm.Group) { e.Split = g },
	} {
		e := &moe.Exchange{Ranks: 1, Rows: comm.NewFlat(mpi.Alone())}
		group(e, &comm.Group{World: severed{mpi.Alone()}})
		w.Begin(0)
		if err := m.layer(d, e).Forward(t.Context(), m.stream, x, x, w); !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
