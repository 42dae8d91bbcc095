package moe_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// pyramid is two layers of one hidden size with 4 and 8 experts. Steep: of all experts only the last two and, as a
// second choice, the first are ever chosen, so that some ranks get nothing.
func pyramid(steep bool) []*definition {
	rng := rand.New(rand.NewPCG(8, 8))
	layers := []*definition{
		randomDefinition(rng, shape{hidden: 12, ffn: 20, experts: 4, k: 1, residual: true, bias: true}),
		randomDefinition(rng, shape{hidden: 12, ffn: 9, experts: 8, k: 2, renor: true, gated: true}),
	}
	if !steep {
		return layers
	}
	for _, d := range layers {
		last, beside := d.wg.weight.row(d.gate.Experts-1), d.wg.weight.row(d.gate.Experts-2)
		clear(d.wg.weight.v[:len(d.wg.weight.v)-2*d.hidden()])
		for i, v := range last {
			beside[i] = -v // the logit of one is positive, all others are 0 or negative
		}
	}
	return layers
}

// onRanks runs the layers on as many ranks as xs has parts, one part each, in two steps with the parts in opposite
// order first, so that every buffer has old contents of another size. It returns the results and counts of each rank.
func onRanks(t testing.TB, layers []*definition, xs []matrix) (ys []matrix, counts [][][]int32, err error) {
	ranks := len(xs)
	ys, counts = make([]matrix, ranks), make([][][]int32, ranks)
	most := 0
	for _, x := range xs {
		most = max(most, x.rows)
	}
	err = mpi.Run(ranks, func(world mpi.World) error {
		m := newMachine(t, 1)
		var held []*moe.Layer
		for _, d := range layers {
			group, err := world.Split(t.Context(), 0, world.Rank())
			if err != nil {
				return err
			}
			held = append(held, m.layer(d, &moe.Exchange{Rank: world.Rank(), Ranks: ranks, Rows: comm.NewFlat(group)}))
		}
		w := m.workspace(most, layers...)
		for _, x := range []matrix{xs[ranks-1-world.Rank()], xs[world.Rank()]} {
			w.Begin()
			in := m.tensor(x)
			for _, l := range held {
				out := m.tensor(matrix{x.rows, x.cols, make([]float32, len(x.v))})
				if err := l.Forward(t.Context(), m.stream, out, in, w); err != nil {
					return err
				}
				in = out
			}
			ys[world.Rank()] = m.read(in)
		}
		counts[world.Rank()] = w.Counts()
		return nil
	})
	return ys, counts, err
}

// TestExchangeKeepsTheBits is promise 1 over ranks: tokens spread over 1, 2 and 4 ranks in any way, ranks without any
// among them, have the bits that they have on one rank without an exchange.
func TestExchangeKeepsTheBits(t *testing.T) {
	for _, c := range []struct {
		name        string
		steep, same bool
	}{{"any tokens", false, false}, {"experts without tokens", true, false}, {"one expert takes all", false, true}} {
		layers := pyramid(c.steep)
		for _, ranks := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("%s, %d ranks", c.name, ranks), func(t *testing.T) {
				rapid.Check(t, func(rt *rapid.T) {
					tokens, total := drawSpread(rt, ranks)
					x := drawTokens(rt, layers[0].hidden(), total)
					for i := 1; c.same && i < total; i++ {
						copy(x.row(i), x.row(0))
					}
					checkExchange(t, rt, layers, x, tokens)
				})
			})
		}
	}
}

// drawSpread draws how many tokens each rank has, often none.
func drawSpread(t *rapid.T, ranks int) (tokens []int, total int) {
	tokens = rapid.SliceOfN(rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 20)), ranks, ranks).Draw(t, "tokens of ranks")
	for _, n := range tokens {
		total += n
	}
	return tokens, total
}

func cut(x matrix, tokens []int) (parts []matrix) {
	at := 0
	for _, n := range tokens {
		parts = append(parts, x.slice(at, at+n))
		at += n
	}
	return parts
}

func checkExchange(t *testing.T, rt *rapid.T, layers []*definition, x matrix, tokens []int) {
	ys, counts, err := onRanks(t, layers, cut(x, tokens))
	if err != nil {
		rt.Fatal(err)
	}
	m := newMachine(t, 1)
	w := m.workspace(x.rows, layers...)
	want := m.forward(w, x, m.layer(layers[0], nil), m.layer(layers[1], nil))
	for r, part := range cut(want, tokens) {
		if !sameBits(ys[r].v, part.v) {
			rt.Fatalf("tokens %v: rank %d differs from one rank alone", tokens, r)
		}
	}
	for l, all := range w.Counts() { // a rank counts its own tokens
		for e, n := range all {
			for r := range counts {
				n -= counts[r][l][e]
			}
			if n != 0 {
				rt.Fatalf("tokens %v, layer %d, expert %d: the ranks' counts %v do not sum up", tokens, l, e, counts)
			}
		}
	}
}

func TestSteepPyramidLeavesExpertsEmpty(t *testing.T) { // else the test above would not test it
	layers, m := pyramid(true), newMachine(t, 1)
	w := m.workspace(50, layers...)
	m.forward(w, random(rand.New(rand.NewPCG(9, 9)), 50, 12, 1), m.layer(layers[0], nil), m.layer(layers[1], nil))
	for l, counts := range w.Counts() {
		var used []int
		for e, n := range counts {
			if n > 0 {
				used = append(used, e)
			}
		}
		if want := [][]int{{2, 3}, {0, 6, 7}}[l]; !slices.Equal(used, want) {
			t.Errorf("layer %d: experts %v are used, want %v", l, used, want)
		}
	}
}

// With capacity a rank drops among its own tokens, as DeepSpeed's do: the ranks' results are those of each alone.
func TestCapacityIsEachRanksOwn(t *testing.T) {
	layers := pyramid(false)
	for _, d := range layers {
		d.capacity = &moe.Capacity{Factor: 0.7, Min: 2, Policy: kernels.DropByProbs}
	}
	rapid.Check(t, func(rt *rapid.T) {
		tokens, total := drawSpread(rt, 4)
		parts := cut(drawTokens(rt, layers[0].hidden(), total), tokens)
		ys, counts, err := onRanks(t, layers, parts)
		if err != nil {
			rt.Fatal(err)
		}
		m := newMachine(t, 1)
		w := m.workspace(20, layers...)
		a, b := m.layer(layers[0], nil), m.layer(layers[1], nil)
		for r, x := range parts {
			if y := m.forward(w, x, a, b); !sameBits(y.v, ys[r].v) {
				rt.Fatalf("tokens %v: rank %d differs from itself alone", tokens, r)
			}
			if fmt.Sprint(w.Counts()) != fmt.Sprint(counts[r]) {
				rt.Fatalf("tokens %v: rank %d counts %v, alone %v", tokens, r, counts[r], w.Counts())
			}
		}
	})
}

// broken is an exchange that fails at a step of a layer.
type broken struct {
	comm.AllToAll
	at string
}

var errBroken = errors.New("the wire is cut")

func (b broken) Count(ctx context.Context, rows []int) ([][]int, error) {
	if b.at == "counts" {
		return nil, errBroken
	}
	return b.AllToAll.Count(ctx, rows)
}

func (b broken) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if b.at == "dispatch" {
		return errBroken
	}
	return b.AllToAll.Dispatch(ctx, recv, send, rowBytes)
}

func (b broken) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	if b.at == "combine" {
		return errBroken
	}
	return b.AllToAll.Combine(ctx, recv, send, rowBytes)
}

func TestExchangeThatFailsSaysWhere(t *testing.T) {
	d, m := pyramid(false)[0], newMachine(t, 1)
	w, x := m.workspace(9, d), m.tensor(random(rand.New(rand.NewPCG(1, 1)), 9, 12, 1))
	for _, at := range []string{"counts", "dispatch", "combine"} {
		w.Begin()
		l := m.layer(d, &moe.Exchange{Ranks: 1, Rows: broken{comm.NewFlat(mpi.Alone()), at}})
		err := l.Forward(t.Context(), m.stream, x, x, w)
		if !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "moe: ") || !strings.Contains(err.Error(), at) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// full is a device with room for so many more tensors.
type full struct {
	kernels.Device
	left int
}

func (f *full) Alloc(what string, d kernels.DType, rows, cols int) (kernels.Tensor, error) {
	if f.left--; f.left < 0 {
		return kernels.Tensor{}, fmt.Errorf("%s: %w", what, errFull)
	}
	return f.Device.Alloc(what, d, rows, cols)
}

func TestExchangeWithoutRoomForArrivingRows(t *testing.T) {
	d, m := pyramid(false)[0], newMachine(t, 1)
	l := m.layer(d, &moe.Exchange{Ranks: 1, Rows: comm.NewFlat(mpi.Alone())})
	x := m.tensor(random(rand.New(rand.NewPCG(1, 1)), 9, 12, 1))
	device := &full{m.device, 100}
	w, err := moe.NewWorkspace(device, kernels.F32, moe.Shape{Tokens: 9, Hidden: 12, Inner: 20, Experts: 4, K: 1, Layers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Free()
	for left := range 6 {
		device.left = 0
		if left > 0 { // what an earlier step has made stays
			device.left = 1
		}
		w.Begin()
		err := l.Forward(t.Context(), m.stream, x, x, w)
		if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "arriving rows") {
			t.Fatalf("tensor %d: %v", left, err)
		}
	}
	device.left = 1
	w.Begin()
	if err := l.Forward(t.Context(), m.stream, x, x, w); err != nil {
		t.Error(err)
	}
}
