package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// windowRank is one of the ranks of a test, with a GPU of its own.
type windowRank struct {
	*window
	stream                                            *Stream
	x, expert, offsets, choices, place, index, y, out kernels.Tensor
	arrived                                           kernels.Tensor // offsets
}

// windowCase is exchanges of so many tokens of each rank.
type windowCase struct {
	tokens  []int
	k       int
	local   int // experts of a rank
	cols    int
	dtype   kernels.DType
	routing string // "spread", "one" rank takes all, "dropped" ones among them
}

func (c windowCase) experts() int { return c.local * len(c.tokens) }
func (c windowCase) rows() int    { return slices.Max(c.tokens) * c.k }
func (c windowCase) most() (rows int) {
	for _, n := range c.tokens {
		rows += n * c.k
	}
	return rows
}

// chosen is the expert of a choice, -1: dropped.
func (c windowCase) chosen(round, rank, choice int) int {
	r := rand.New(rand.NewPCG(uint64(round*64+rank), uint64(choice)))
	e := r.IntN(c.experts())
	switch {
	case c.routing == "one":
		return e%c.local + round%len(c.tokens)*c.local
	case c.routing == "dropped" && r.IntN(3) == 0:
		return -1
	}
	return e
}

// value is an element of a token, a small integer, so that every type holds it and its double.
func (c windowCase) value(round, rank, token, col int) float32 {
	return float32((round*7+rank*31+token*5+col*3)%61 - 30)
}

func (c windowCase) row(round, rank, token int, times float32) (b []byte) {
	for col := range c.cols {
		bits := math.Float32bits(times * c.value(round, rank, token, col))
		if c.dtype == kernels.F32 {
			b = binary.LittleEndian.AppendUint32(b, bits)
		} else {
			b = binary.LittleEndian.AppendUint16(b, uint16(bits>>16)) // bf16
		}
	}
	return b
}

// slots is the choices of a rank that are kept, by expert, and how many come before each expert.
func (c windowCase) slots(round, rank int) (choices []int, offsets []int) {
	of := make([][]int, c.experts())
	for i := range c.tokens[rank] * c.k {
		if e := c.chosen(round, rank, i); e >= 0 {
			of[e] = append(of[e], i)
		}
	}
	for e := range of {
		offsets = append(offsets, len(choices))
		choices = append(choices, of[e]...)
	}
	return choices, append(offsets, len(choices))
}

// openWindows opens a rank for each number of tokens, on a GPU each: ranks that share one would wait for each other in its queues.
func openWindows(t testing.TB, c windowCase, o Options, patience time.Duration) []*windowRank {
	t.Helper()
	first := open(t, o)
	gpus, err := Count()
	if err != nil {
		t.Fatal(err)
	}
	if gpus < len(c.tokens) {
		t.Skipf("NO ROWS WENT THROUGH WINDOWS: %d ranks want a GPU each, and there are %d", len(c.tokens), gpus)
	}
	ranks, tickets := make([]*windowRank, len(c.tokens)), make([][]byte, len(c.tokens))
	for r := range c.tokens {
		d := first
		if r > 0 {
			o.Ordinal = r
			d = open(t, o)
		}
		spec := kernels.WindowSpec{Rank: r, Ranks: len(c.tokens), Experts: c.local, Rows: c.rows(), Cols: c.cols, DType: c.dtype, Patience: patience}
		for other := range c.tokens {
			spec.Names = append(spec.Names, fmt.Sprint("rank ", other))
		}
		w, err := d.NewWindow(spec)
		if err != nil {
			t.Fatal(err)
		}
		a := &windowRank{window: w.(*window)}
		if a.stream, err = d.newStream(); err != nil {
			t.Fatal(err)
		}
		tokens, most := max(c.tokens[r], 1), max(c.most(), 1)
		for _, m := range []struct {
			to         *kernels.Tensor
			dtype      kernels.DType
			rows, cols int
		}{{&a.x, c.dtype, tokens, c.cols}, {&a.expert, kernels.I32, tokens, c.k}, {&a.offsets, kernels.I32, 1, c.experts() + 1},
			{&a.choices, kernels.I32, 1, tokens * c.k}, {&a.place, kernels.I32, 1, tokens * c.k}, {&a.index, kernels.I32, 1, most},
			{&a.y, c.dtype, most, c.cols}, {&a.out, c.dtype, tokens * c.k, c.cols}, {&a.arrived, kernels.I32, 1, c.local + 1}} {
			if *m.to, err = d.Alloc("test", m.dtype, m.rows, m.cols); err != nil {
				t.Fatal(err)
			}
		}
		ranks[r], tickets[r] = a, w.Ticket()
	}
	for _, a := range ranks {
		if err := a.Join(tickets); err != nil {
			t.Fatal(err)
		}
		if _, err := a.stream.stage.take(16 << 20); err != nil { // for all that follows
			t.Fatal(err)
		}
		a.stream.stage.reset()
		// Poison, and kernels that are loaded while another rank waits on the same GPU would wait for it.
		rows := a.part(a.args().rows, (a.spec.Ranks+1)*a.spec.Rows)
		rows.Cols = rows.Stride
		if rows.Bytes() < 64<<20 {
			a.stream.Write(rows, bytes.Repeat([]byte{0xff}, int(rows.Bytes())))
		}
		a.stream.Write(a.expert, bytes.Repeat([]byte{0xff}, int(a.expert.Bytes())))
		a.stream.Table(a.routing(c, a.expert.Rows))
		a.stream.Write(a.index, bytes.Repeat([]byte{0xff}, int(a.index.Bytes())))
		a.stream.Select(a.y, a.x, a.index, 1)
		a.stream.Add(a.y, a.y)
		a.stream.Copy(a.out, a.out)
		if err := a.stream.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return ranks
}

func (a *windowRank) close(t testing.TB) {
	t.Helper()
	if err := a.stream.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func (a *windowRank) routing(c windowCase, tokens int) kernels.Routing {
	return kernels.Routing{K: c.k, Experts: c.experts(), Expert: a.expert.RowRange(0, tokens), Offsets: a.offsets,
		Choices: a.choices.ColRange(0, tokens*c.k), Place: a.place.ColRange(0, tokens*c.k)}
}

// exchange sends a round's rows, doubles what arrives and sends it back; the error tells what is not as it should be.
func (a *windowRank) exchange(c windowCase, round int) error {
	me, s := a.spec.Rank, a.stream
	tokens := c.tokens[me]
	var x, chosen []byte
	for i := range tokens {
		x = append(x, c.row(round, me, i, 1)...)
	}
	for i := range tokens * c.k {
		chosen = binary.LittleEndian.AppendUint32(chosen, uint32(int32(c.chosen(round, me, i))))
	}
	most := c.most()
	y, index := a.y.RowRange(0, most), a.index.ColRange(0, most)
	none := bytes.Repeat([]byte{0xff}, 4*most)
	s.Write(a.x.RowRange(0, tokens), x)
	s.Write(a.expert.RowRange(0, tokens), chosen)
	s.Write(index, none)
	s.Write(y, make([]byte, y.Bytes()))
	r := a.routing(c, tokens)
	s.Table(r)
	a.Send(s, a.x.RowRange(0, tokens), r)
	arriving := a.Arrive(s, a.arrived, index, most)
	s.Select(y, arriving, index, 1)
	s.Add(y, y)
	a.Return(s, y, a.arrived, index)
	back := a.Collect(s)
	choices, _ := c.slots(round, me)
	out := a.out.RowRange(0, len(choices))
	s.Copy(out, back.RowRange(0, len(choices)))
	got, results, offsets := make([]byte, y.Bytes()), make([]byte, out.Bytes()), make([]byte, 4*(c.local+1))
	s.Read(got, y)
	s.Read(results, out)
	s.Read(offsets, a.arrived)
	if err := s.Sync(); err != nil {
		return err
	}
	var want, wantResults, wantOffsets []byte
	n, sent, first := 0, make([][]int, len(c.tokens)), make([][]int, len(c.tokens))
	for from := range c.tokens {
		sent[from], first[from] = c.slots(round, from)
	}
	for e := range c.local {
		wantOffsets = binary.LittleEndian.AppendUint32(wantOffsets, uint32(n))
		for from := range c.tokens {
			for _, choice := range sent[from][first[from][me*c.local+e]:first[from][me*c.local+e+1]] {
				want = append(want, c.row(round, from, choice/c.k, 2)...)
				n++
			}
		}
	}
	wantOffsets = binary.LittleEndian.AppendUint32(wantOffsets, uint32(n))
	want = append(want, make([]byte, len(got)-len(want))...)
	for _, choice := range choices {
		wantResults = append(wantResults, c.row(round, me, choice/c.k, 2)...)
	}
	switch {
	case !bytes.Equal(offsets, wantOffsets):
		return fmt.Errorf("round %d: offsets %v, want %v", round, offsets, wantOffsets)
	case !bytes.Equal(got, want):
		return fmt.Errorf("round %d: other rows came than were sent", round)
	case !bytes.Equal(results, wantResults):
		return fmt.Errorf("round %d: other results came back", round)
	}
	return nil
}

// TestWindows exchanges rows of uneven ranks, round after round: odd widths, ranks with none, one that takes all; each call by
// itself, and as a graph that is replayed.
func TestWindows(t *testing.T) {
	for _, c := range []windowCase{
		{tokens: []int{9}, k: 2, local: 3, cols: 24, dtype: kernels.BF16},
		{tokens: []int{40, 33}, k: 8, local: 16, cols: 2048, dtype: kernels.BF16},
		{tokens: []int{5, 0}, k: 1, local: 1, cols: 33, dtype: kernels.F32},
		{tokens: []int{700, 300}, k: 2, local: 4, cols: 64, dtype: kernels.BF16, routing: "one"},
		{tokens: []int{17, 2, 0, 31}, k: 3, local: 5, cols: 7, dtype: kernels.BF16, routing: "dropped"},
		{tokens: []int{12, 50, 1}, k: 2, local: 400, cols: 130, dtype: kernels.F32, routing: "dropped"},
		{tokens: []int{0, 0}, k: 2, local: 2, cols: 16, dtype: kernels.BF16},
	} {
		for _, o := range []Options{{NoGraphs: true}, {}} {
			t.Run(fmt.Sprintf("%v %d of %d, %d %v %s, graphs %t", c.tokens, c.k, c.experts(), c.cols, c.dtype, c.routing, !o.NoGraphs), func(t *testing.T) {
				ranks := openWindows(t, c, o, 5*time.Second)
				rounds := 100
				if o.NoGraphs || c.most() > 500 {
					rounds = 12
				}
				onEach(t, len(ranks), func(r int) error {
					for round := range rounds {
						if err := ranks[r].exchange(c, round); err != nil {
							return err
						}
					}
					return nil
				})
				for _, a := range ranks {
					replayed := false
					for _, r := range a.stream.replays {
						replayed = replayed || r.graph != 0
					}
					if replayed == o.NoGraphs && c.most() > 0 { // without a row there is too little for a graph
						t.Errorf("%s: replayed %t", a.spec.Names[a.spec.Rank], replayed)
					}
					a.close(t)
				}
			})
		}
	}
}

// TestLostWindow: a rank that does not come is named, the exchanges after that wait for nobody, and the GPU is free again.
func TestLostWindow(t *testing.T) {
	c := windowCase{tokens: []int{9, 4, 6}, k: 2, local: 3, cols: 24, dtype: kernels.BF16}
	ranks := openWindows(t, c, Options{}, time.Second)
	var both sync.WaitGroup
	for _, a := range []*windowRank{ranks[0], ranks[2]} {
		both.Go(func() {
			for round := range 2 {
				if err := a.exchange(c, round); err == nil || round == 0 && !strings.Contains(err.Error(), "rank 1 took no part in an exchange of rows for 1s") {
					t.Errorf("%s, round %d: %v", a.spec.Names[a.spec.Rank], round, err)
				}
			}
			s, err := a.dev.newStream() // errors stick to a stream
			if err != nil {
				t.Error(err)
				return
			}
			begin := time.Now()
			r := a.routing(c, c.tokens[a.spec.Rank])
			for range 5 {
				a.Send(s, a.x.RowRange(0, r.Expert.Rows), r)
				a.Arrive(s, a.arrived, a.index, a.index.Cols)
				a.Return(s, a.y, a.arrived, a.index)
				a.Collect(s)
			}
			if err := s.Sync(); err != nil || time.Since(begin) > time.Second {
				t.Errorf("later exchanges: %v, after %v", err, time.Since(begin))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	for _, a := range ranks {
		a.close(t)
	}
}

// TestTooManyArrive: more rows than the ranks have agreed on are an error, and nothing is written beyond its room.
func TestTooManyArrive(t *testing.T) {
	c := windowCase{tokens: []int{9}, k: 2, local: 3, cols: 24, dtype: kernels.BF16}
	a := openWindows(t, c, Options{}, time.Second)[0]
	defer a.close(t)
	s, r := a.stream, a.routing(c, 9)
	s.Write(a.expert, make([]byte, a.expert.Bytes()))
	s.Table(r)
	a.Send(s, a.x, r)
	a.Arrive(s, a.arrived, a.index, 17)
	if err := s.Sync(); err == nil || !strings.Contains(err.Error(), "arrive: index 18 at 17") {
		t.Errorf("%v", err)
	}
}

// BenchmarkWindows is what an exchange takes, there and back, of two ranks with a row for each of 8 experts of OLMoE's a token,
// and how fast the half that leaves a rank is sent.
func BenchmarkWindows(b *testing.B) {
	for _, tokens := range []int{1, 64, 512, 8192} {
		b.Run(fmt.Sprint(tokens), func(b *testing.B) {
			c := windowCase{tokens: []int{tokens, tokens}, k: 8, local: 32, cols: 2048, dtype: kernels.BF16}
			ranks := openWindows(b, c, Options{}, 5*time.Second)
			each := func(do func(a *windowRank) error) {
				var all sync.WaitGroup
				for _, a := range ranks {
					all.Go(func() {
						if err := do(a); err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
			}
			each(func(a *windowRank) error {
				var chosen []byte
				for i := range tokens * c.k {
					chosen = binary.LittleEndian.AppendUint32(chosen, uint32(i%c.experts()))
				}
				a.stream.Write(a.expert, chosen)
				a.stream.Table(a.routing(c, tokens))
				return a.stream.Sync()
			})
			const times = 20
			begin := time.Now()
			for b.Loop() {
				each(func(a *windowRank) error {
					r := a.routing(c, tokens)
					for range times {
						a.Send(a.stream, a.x, r)
						a.Arrive(a.stream, a.arrived, a.index, a.index.Cols)
						a.Return(a.stream, a.y, a.arrived, a.index)
						a.Collect(a.stream)
					}
					return a.stream.Sync()
				})
			}
			one := time.Since(begin).Seconds() / float64(b.N*times)
			b.ReportMetric(1e6*one, "µs/exchange")
			b.ReportMetric(float64(2*tokens*c.k*c.cols*2/2)/one/1e9, "GB/s")
			for _, a := range ranks {
				a.close(b)
			}
		})
	}
}
