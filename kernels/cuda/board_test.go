package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// slicesCase is ops of ranks that hold slices: sums of rows × cols, columns and rows of uneven numbers put together, rows given out.
type slicesCase struct {
	ranks, rows, cols int
	room              int // of a board
	act               kernels.DType
}

// from is where columns, or rows, of a rank begin of so many; those of neighbours overlap by a quarter of a rank's where they may.
func (c slicesCase) from(r, n int) int { return r * n / c.ranks }
func (c slicesCase) to(r, n int, overlap bool) int {
	to := (r + 1) * n / c.ranks
	if overlap {
		to = min(n, to+n/c.ranks/4)
	}
	return to
}

// given is how many rows a scatter has for a rank: none for the first of several.
func (c slicesCase) given(r int) int {
	if c.ranks > 1 && r == 0 {
		return 0
	}
	return (c.rows + r) % 7
}

// values are the same on all ranks for a round and a rank.
func (c slicesCase) values(round, rank, n int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(round), uint64(rank)))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Float32frombits(math.Float32bits(float32(rng.NormFloat64()*math.Exp2(float64(rng.IntN(12)-6)))) &^ 0xffff)) // of any type
	}
	return x
}

func floatBytes(d kernels.DType, x []float32) (b []byte) {
	for _, v := range x {
		if bits := math.Float32bits(v); d == kernels.F32 {
			b = binary.LittleEndian.AppendUint32(b, bits)
		} else { // bf16, rounded to even
			b = binary.LittleEndian.AppendUint16(b, uint16((bits+0x7fff+bits>>16&1)>>16))
		}
	}
	return b
}

// neighbours adds in rounds, each of neighbours, an odd one out waiting for the next: the tree by definition.
func neighbours(x []float32) float32 {
	for len(x) > 1 {
		var next []float32
		for i := 0; i < len(x); i += 2 {
			v := x[i]
			if i+1 < len(x) {
				v += x[i+1]
			}
			next = append(next, v)
		}
		x = next
	}
	return x[0]
}

// slicesRank is one rank of a test, and what it computes with.
type slicesRank struct {
	team                                           kernels.Team
	stream                                         *Stream
	rank                                           int
	own, room, y, part, whole, shares, given, recv kernels.Tensor
}

func newSlicesRank(t testing.TB, d *Device, team kernels.Team, c slicesCase, rank int) *slicesRank {
	t.Helper()
	q := &slicesRank{team: team, rank: rank}
	var err error
	if q.stream, err = d.newStream(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}{{&q.own, kernels.F32, c.rows, c.cols}, {&q.room, kernels.F32, c.ranks * c.rows, c.cols}, {&q.y, c.act, c.rows, c.cols}, {&q.part, kernels.F32, c.rows, c.cols},
		{&q.whole, kernels.F32, c.rows, c.cols}, {&q.shares, c.act, c.rows, c.cols}, {&q.given, c.act, 7 * c.ranks, c.cols}, {&q.recv, c.act, 7 * c.ranks, c.cols}} {
		if *m.to, err = d.Alloc("test", m.dtype, m.rows, m.cols); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

// round does each op once, and tells what is not as it should be.
func (q *slicesRank) round(c slicesCase, round int) error {
	s, n, me := q.stream, c.rows*c.cols, q.rank
	poison := func(t kernels.Tensor) { s.Write(t, bytes.Repeat([]byte{0xff}, int(t.Bytes()))) }
	own := make([][]float32, c.ranks)
	for r := range own {
		own[r] = c.values(round, r, n)
	}
	old, all := c.values(round, 100, n), c.values(round, 101, n)
	given := func(r int) []byte { return floatBytes(c.act, c.values(round, 200+r, 7*c.ranks*c.cols)) }
	// Sums.
	s.Write(q.own, floatBytes(kernels.F32, own[me]))
	s.Write(q.y, floatBytes(c.act, old))
	poison(q.room)
	q.team.Sum(s, q.y, q.own, q.room, round%2 == 0)
	// Columns.
	from, to := c.from(me, c.cols), c.to(me, c.cols, true)
	poison(q.whole)
	s.Write(q.part, floatBytes(kernels.F32, all))
	parts := make([]kernels.Tensor, c.ranks)
	for r := range parts {
		parts[r] = q.whole.ColRange(c.from(r, c.cols), c.to(r, c.cols, true))
	}
	q.team.Gather(s, parts, q.part.ColRange(from, to))
	// Shares of rows, in place.
	poison(q.shares)
	for r := range parts {
		parts[r] = q.shares.RowRange(c.from(r, c.rows), c.to(r, c.rows, false))
	}
	line := c.cols * c.act.Size()
	if mine := parts[me]; mine.Rows > 0 {
		s.Write(mine, floatBytes(c.act, all)[c.from(me, c.rows)*line:][:mine.Bytes()])
	}
	q.team.Gather(s, parts, parts[me])
	// Rows given out.
	counts, sum := make([]int, c.ranks), 0
	for r := range counts {
		counts[r] = c.given(r)
		sum += counts[r]
	}
	send, recv := q.given.RowRange(0, sum), q.recv.RowRange(0, c.ranks*counts[me])
	s.Write(send, given(me)[:send.Bytes()])
	poison(recv)
	q.team.Scatter(s, recv, send, counts)
	got := make([][]byte, 4)
	for i, t := range []kernels.Tensor{q.y, q.whole, q.shares, recv} {
		got[i] = make([]byte, t.Bytes())
		s.Read(got[i], t)
	}
	if err := s.Sync(); err != nil {
		return err
	}
	want := make([][]byte, 4)
	y := make([]float32, n)
	for i := range y {
		x := make([]float32, c.ranks)
		for r := range x {
			x[r] = own[r][i]
		}
		if y[i] = neighbours(x); round%2 == 0 {
			y[i] = old[i] + y[i]
		}
	}
	want[0], want[1], want[2] = floatBytes(c.act, y), floatBytes(kernels.F32, all), floatBytes(c.act, all)
	before := 0
	for _, n := range counts[:me] {
		before += n
	}
	for r := range c.ranks {
		want[3] = append(want[3], given(r)[before*line:(before+counts[me])*line]...)
	}
	for i, name := range []string{"sum", "columns", "shares of rows", "rows given out"} {
		if !bytes.Equal(got[i], want[i]) {
			at := 0
			for got[i][at] == want[i][at] {
				at++
			}
			return fmt.Errorf("round %d, %s: byte %d of %d is another than it should be", round, name, at, len(want[i]))
		}
	}
	return nil
}

var slicesCases = []slicesCase{
	{ranks: 1, rows: 5, cols: 24, room: 4096, act: kernels.BF16},
	{ranks: 2, rows: 1, cols: 2048, room: 1 << 20, act: kernels.BF16},
	{ranks: 2, rows: 64, cols: 2048, room: 1 << 20, act: kernels.BF16},
	{ranks: 2, rows: 100, cols: 4096, room: 1 << 20, act: kernels.BF16}, // in pieces
	{ranks: 2, rows: 9, cols: 4099, room: 17 << 10, act: kernels.F32},   // odd, a row at a time
	{ranks: 3, rows: 17, cols: 130, room: 1 << 16, act: kernels.F32},
	{ranks: 4, rows: 2, cols: 33, room: 1 << 16, act: kernels.BF16},
	{ranks: 8, rows: 70, cols: 512, room: 1 << 16, act: kernels.BF16},
}

// openBoards opens a rank on a GPU each: ranks that share one would wait for each other in its queues. DSBATCH_SHARED_GPU has them
// share all the same, while working on boards.
func openBoards(t testing.TB, c slicesCase, o Options, patience time.Duration) []*slicesRank {
	t.Helper()
	gpus, err := Count()
	if err != nil {
		t.Skipf("NO SLICES WERE PUT TOGETHER ON BOARDS: %v", err)
	}
	if gpus < c.ranks && os.Getenv("DSBATCH_SHARED_GPU") == "" {
		t.Skipf("NO SLICES WERE PUT TOGETHER ON BOARDS: %d ranks want a GPU each, and there are %d", c.ranks, gpus)
	}
	devices := map[int]*Device{}
	all, tickets := make([]*slicesRank, c.ranks), make([][]byte, c.ranks)
	for r := range all {
		d := devices[r%gpus]
		if d == nil {
			o.Ordinal = r % gpus
			d = open(t, o)
			devices[r%gpus] = d
		}
		spec := kernels.BoardSpec{Rank: r, Ranks: c.ranks, Room: c.room, DType: c.act, Patience: patience}
		for other := range c.ranks {
			spec.Names = append(spec.Names, fmt.Sprint("rank ", other))
		}
		b, err := d.NewBoard(spec)
		if err != nil {
			t.Fatal(err)
		}
		all[r], tickets[r] = newSlicesRank(t, d, b, c, r), b.Ticket()
	}
	for _, q := range all {
		if err := q.team.(kernels.Board).Join(tickets); err != nil {
			t.Fatal(err)
		}
		b := q.team.(*board)
		messages := kernels.Tensor{Mem: b.own, Offset: int64(b.spec.HeaderBytes()), DType: kernels.I32, Rows: 1, Cols: 2 * c.ranks * c.room / 4, Stride: 2 * c.ranks * c.room / 4}
		q.stream.Write(messages, bytes.Repeat([]byte{0xff}, int(messages.Bytes())))
		if err := q.stream.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func closeSlices(t testing.TB, all []*slicesRank) {
	t.Helper()
	for _, q := range all {
		if err := q.stream.Close(); err != nil {
			t.Error(err)
		}
		if err := q.team.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBoards has ranks add up and put together, round after round, each call by itself and as a graph that is replayed.
func TestBoards(t *testing.T) {
	for _, c := range slicesCases {
		for _, o := range []Options{{NoGraphs: true}, {}} {
			t.Run(fmt.Sprintf("%d ranks, %d × %d, room %d, %v, graphs %t", c.ranks, c.rows, c.cols, c.room, c.act, !o.NoGraphs), func(t *testing.T) {
				all := openBoards(t, c, o, 5*time.Second)
				onEach(t, c.ranks, func(r int) error {
					for round := range 20 {
						if err := all[r].round(c, round); err != nil {
							return err
						}
					}
					return nil
				})
				for _, q := range all {
					replayed := slices.ContainsFunc(slices.Collect(maps.Values(q.stream.replays)), func(r *replay) bool { return r.graph != 0 })
					if replayed == o.NoGraphs {
						t.Errorf("rank %d: replayed %t", q.rank, replayed)
					}
				}
				closeSlices(t, all)
			})
		}
	}
}

// TestTeamOfPeers is TestBoards by NCCL, of as many ranks as there are GPUs.
func TestTeamOfPeers(t *testing.T) {
	devices, all := meetAll(t)
	for _, c := range slicesCases {
		c.ranks = len(devices)
		onEach(t, c.ranks, func(r int) error {
			q := newSlicesRank(t, devices[r], all[r], c, r)
			for round := range 4 {
				if err := q.round(c, round); err != nil {
					return fmt.Errorf("%+v: %w", c, err)
				}
			}
			return q.stream.Close()
		})
	}
	onEach(t, len(devices), func(me int) error { return all[me].Close() })
}

// TestLostOnBoard: a rank that does not come is named, the ops after that wait for nobody, and the GPU is free again.
func TestLostOnBoard(t *testing.T) {
	c := slicesCase{ranks: 2, rows: 3, cols: 40, room: 1 << 12, act: kernels.BF16}
	all := openBoards(t, c, Options{}, time.Second)
	q := all[1]
	if err := q.round(c, 0); err == nil || !strings.Contains(err.Error(), "rank 0 took no part in putting slices together for 1s") {
		t.Errorf("%v", err)
	}
	s, err := q.stream.dev.newStream() // errors stick to a stream
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 5 {
		q.team.Sum(s, q.y, q.own, q.room, false)
	}
	if err := s.Sync(); err != nil || time.Since(begin) > time.Second {
		t.Errorf("later ops: %v, after %v", err, time.Since(begin))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	closeSlices(t, all)
}

// BenchmarkBoards is what a sum of partial results of two ranks takes, in a graph, and how fast they leave a rank; by NCCL beside it.
func BenchmarkBoards(b *testing.B) {
	for _, c := range []slicesCase{{rows: 1, cols: 2048}, {rows: 64, cols: 2048}, {rows: 256, cols: 2048}, {rows: 64, cols: 8192}, {rows: 2048, cols: 2048}, {rows: 8192, cols: 2048}} {
		c.ranks, c.room, c.act = 2, 8<<20, kernels.BF16
		run := func(name string, all func(b *testing.B) []*slicesRank) {
			b.Run(fmt.Sprintf("%s %d×%d", name, c.rows, c.cols), func(b *testing.B) {
				ranks := all(b)
				const times = 50
				each := func() {
					var both sync.WaitGroup
					for _, q := range ranks {
						both.Go(func() {
							for range times {
								q.team.Sum(q.stream, q.y, q.own, q.room, false)
							}
							if err := q.stream.Sync(); err != nil {
								b.Error(err)
							}
						})
					}
					both.Wait()
				}
				for range 3 {
					each()
				}
				begin := time.Now()
				for b.Loop() {
					each()
				}
				one := time.Since(begin).Seconds() / float64(b.N*times)
				b.ReportMetric(1e6*one, "µs/sum")
				b.ReportMetric(float64(4*c.rows*c.cols)/one/1e9, "GB/s")
				closeSlices(b, ranks)
			})
		}
		run("boards", func(b *testing.B) []*slicesRank { return openBoards(b, c, Options{}, 5*time.Second) })
		run("NCCL", func(b *testing.B) []*slicesRank {
			devices := []*Device{}
			for r := range c.ranks {
				if n, err := Count(); err != nil || n < c.ranks {
					b.Skipf("NO SLICES WERE PUT TOGETHER BY NCCL: %d GPUs, %v", n, err)
				}
				devices = append(devices, open(b, Options{Ordinal: r}))
			}
			key, err := devices[0].PeerKey()
			if err != nil {
				b.Skipf("NO SLICES WERE PUT TOGETHER BY NCCL: %v", err)
			}
			all := make([]*slicesRank, c.ranks)
			var both sync.WaitGroup
			for r := range all {
				both.Go(func() {
					p, err := devices[r].Meet(key, r, c.ranks)
					if err != nil {
						b.Error(err)
						return
					}
					all[r] = newSlicesRank(b, devices[r], p, c, r)
				})
			}
			both.Wait()
			return all
		})
	}
}
