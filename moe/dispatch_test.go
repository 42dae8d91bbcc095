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
	"github.com/dsbatch/dsbatch/shard"
)

// pyramid is two layers of one hidden size with 4 and 8 experts, a residual branch and a shared expert. Steep: of all experts only the last two and, as a
// second choice, the first are ever chosen, so that some ranks get nothing.
func pyramid(steep bool) []*definition {
	rng := rand.New(rand.NewPCG(8, 8))
	layers := []*definition{
		randomDefinition(rng, shape{hidden: 12, ffn: 20, experts: 4, k: 1, residual: true, bias: true}),
		randomDefinition(rng, shape{hidden: 12, ffn: 9, experts: 8, k: 2, shared: 30, renor: true, gated: true}),
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
// order first, so that every buffer has old contents of another size. copies, where not nil, is the experts of each rank
// for a layer of so many. Some ranks compute their own rows apart, others do not. It returns the results of each rank, and
// its counts and rows computed, layer by layer.
func onRanks(t testing.TB, layers []*definition, xs []matrix, copies func(experts int) [][]int) (ys []matrix, counts [][][]int32, computed [][]int, err error) {
	ranks := len(xs)
	ys, counts, computed = make([]matrix, ranks), make([][][]int32, ranks), make([][]int, ranks)
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
			x := &moe.Exchange{Rank: world.Rank(), Ranks: ranks, Rows: comm.NewFlat(group), Apart: (world.Rank() + most) % 3}
			if copies == nil {
				held = append(held, m.layer(d, x))
				continue
			}
			held = append(held, m.copied(d, x, copies(d.gate.Experts)))
		}
		w := m.workspace(most, layers...)
		for _, x := range []matrix{xs[ranks-1-world.Rank()], xs[world.Rank()]} {
			w.Begin(0)
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
		counts[world.Rank()], computed[world.Rank()] = w.Counts(), w.Computed()
		return nil
	})
	return ys, counts, computed, err
}

// copied is a layer whose experts lie over the ranks of x as held says.
func (m *machine) copied(d *definition, x *moe.Exchange, held [][]int) *moe.Layer {
	s := shard.Sources{Nodes: make([]int, x.Ranks)}
	for r := range x.Ranks {
		s.Senders = append(s.Senders, []int{r})
	}
	var here []expert
	for _, e := range held[x.Rank] {
		here = append(here, d.experts[e])
	}
	return m.placed(d, x, shard.Divide(held, d.gate.Experts, s)[x.Rank], here)
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
					checkExchange(t, rt, layers, x, tokens, nil)
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

// checkExchange compares with one rank alone, and returns how many rows each rank computed in each layer.
func checkExchange(t *testing.T, rt *rapid.T, layers []*definition, x matrix, tokens []int, copies func(experts int) [][]int) [][]int {
	ys, counts, computed, err := onRanks(t, layers, cut(x, tokens), copies)
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
	return computed
}

// TestCopiesKeepTheBits: experts packed over the ranks by any loads, with copies of some, have the bits that they have in
// order; a rank computes what its copies are given, which is everything once.
func TestCopiesKeepTheBits(t *testing.T) {
	layers := pyramid(false)
	for _, ranks := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d ranks", ranks), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				tokens, total := drawSpread(rt, ranks)
				x := drawTokens(rt, layers[0].hidden(), total)
				held := map[int][][]int{}
				for _, d := range layers {
					experts := d.gate.Experts
					loads := rapid.SliceOfN(rapid.Int64Range(0, 100), experts, experts).Draw(rt, "loads")
					var err error
					held[experts], err = shard.Pack(loads, ranks, rapid.IntRange(0, experts-experts/ranks).Draw(rt, "copies on a rank"))
					if err != nil {
						rt.Fatal(err)
					}
				}
				computed := checkExchange(t, rt, layers, x, tokens, func(experts int) [][]int { return held[experts] })
				for l, d := range layers {
					rows := 0
					for r := range computed {
						rows += computed[r][l]
					}
					if rows != total*d.gate.K {
						rt.Fatalf("layer %d: %d rows of %d tokens are computed: %v", l, rows, total, computed)
					}
				}
			})
		})
	}
}

// TestCopiesShareTheLoad: where all tokens of four ranks go to one expert, its one rank computes them; with a copy on each
// rank each computes its own, and with two copies each computes half.
func TestCopiesShareTheLoad(t *testing.T) {
	layers := pyramid(false)[:1] // 4 experts, k 1
	x := random(rand.New(rand.NewPCG(4, 4)), 40, layers[0].hidden(), 1)
	for i := 1; i < x.rows; i++ {
		copy(x.row(i), x.row(0))
	}
	for name, c := range map[string]struct {
		held [][]int // but for the numbers of the experts: 0 is the hot one
		want []int
	}{
		"one":  {[][]int{{0}, {1}, {2}, {3}}, []int{40, 0, 0, 0}},
		"two":  {[][]int{{0, 1}, {1, 2}, {2, 3}, {0, 3}}, []int{20, 0, 0, 20}},
		"four": {[][]int{{0, 1}, {0, 2}, {0, 3}, {0, 2}}, []int{10, 10, 10, 10}},
	} {
		hot := 0
		_, counts, _, err := onRanks(t, layers, cut(x, []int{40}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for e, n := range counts[0][0] {
			if n > 0 {
				hot = e
			}
		}
		_, _, computed, err := onRanks(t, layers, cut(x, []int{10, 10, 10, 10}), func(int) [][]int {
			held := make([][]int, 4)
			for r, experts := range c.held {
				for _, e := range experts {
					held[r] = append(held[r], (e+hot)%4)
				}
				slices.Sort(held[r])
			}
			return held
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := []int{computed[0][0], computed[1][0], computed[2][0], computed[3][0]}; !slices.Equal(got, c.want) {
			t.Errorf("%s: the ranks compute %v rows, want %v", name, got, c.want)
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

// With capacity a rank drops among its own tokens, as DeepSpeed's do: the ranks' results are those of each alone, with
// copies of experts too.
func TestCapacityIsEachRanksOwn(t *testing.T) {
	layers := pyramid(false)
	for _, d := range layers {
		d.capacity = &moe.Capacity{Factor: 0.7, Min: 2, Policy: kernels.DropByProbs}
	}
	rapid.Check(t, func(rt *rapid.T) {
		tokens, total := drawSpread(rt, 4)
		parts := cut(drawTokens(rt, layers[0].hidden(), total), tokens)
		var copies func(experts int) [][]int
		if rapid.Bool().Draw(rt, "copies") {
			copies = func(experts int) (held [][]int) {
				for r := range 4 {
					held = append(held, slices.Sorted(slices.Values([]int{r, (r + 1) % 4})))
					if experts == 8 {
						held[r] = append(held[r], 4+r)
					}
				}
				return held
			}
		}
		ys, counts, _, err := onRanks(t, layers, parts, copies)
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

func (b broken) Count(ctx context.Context, rows []int) error {
	if b.at == "counts" {
		return errBroken
	}
	return b.AllToAll.Count(ctx, rows)
}

func (b broken) Counted(ctx context.Context) ([][]int, error) {
	rows, err := b.AllToAll.Counted(ctx)
	return rows, errors.Join(err, map[string]error{"counted": errBroken}[b.at])
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

func (b broken) Finish(ctx context.Context) error {
	return errors.Join(b.AllToAll.Finish(ctx), map[string]error{"finish": errBroken}[b.at])
}

func TestExchangeThatFailsSaysWhere(t *testing.T) {
	d, m := pyramid(false)[0], newMachine(t, 1)
	w, x := m.workspace(9, d), m.tensor(random(rand.New(rand.NewPCG(1, 1)), 9, 12, 1))
	for at, says := range map[string]string{"counts": "counts", "counted": "counts", "dispatch": "dispatch", "finish": "dispatch", "combine": "combine"} {
		w.Begin(0)
		l := m.layer(d, &moe.Exchange{Ranks: 1, Rows: broken{comm.NewFlat(mpi.Alone()), at}})
		err := l.Forward(t.Context(), m.stream, x, x, w)
		if !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "moe: ") || !strings.Contains(err.Error(), says) {
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
	for left := range 7 {
		device.left = 0
		if left > 0 { // what an earlier step has made stays
			device.left = 1
		}
		w.Begin(0)
		err := l.Forward(t.Context(), m.stream, x, x, w)
		if !errors.Is(err, errFull) || !(strings.Contains(err.Error(), "arriving rows") || strings.Contains(err.Error(), "residual branch")) {
			t.Fatalf("tensor %d: %v", left, err)
		}
	}
	device.left = 1
	w.Begin(0)
	if err := l.Forward(t.Context(), m.stream, x, x, w); err != nil {
		t.Error(err)
	}
}
