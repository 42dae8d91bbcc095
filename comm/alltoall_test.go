package comm

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// ways lists what must give equal bytes: algorithms, over ranks that live together, apart, and in uneven and interleaved
// nodes.
var ways = map[string]func(mpi.World) (AllToAll, error){
	"flat":                     func(w mpi.World) (AllToAll, error) { return NewFlat(w), nil },
	"devices":                  newOverTensors,
	"hierarchical, 1 node":     onNodes(func(int) int { return 0 }),
	"hierarchical, all apart":  onNodes(func(r int) int { return r }),
	"hierarchical, pairs":      onNodes(func(r int) int { return r / 2 }),
	"hierarchical, threes":     onNodes(func(r int) int { return r / 3 }),
	"hierarchical, in turn":    onNodes(func(r int) int { return r % 2 }),
	"hierarchical, one alone":  onNodes(func(r int) int { return min(r, 1) }),
	"hierarchical, scattered":  onNodes(func(r int) int { return r * r % 5 }),
	"hierarchical, last alone": onNodes(func(r int) int { return r / 5 }),
}

// onNodes makes hierarchical all-to-alls, also where newAllToAll would see that flat does the same.
func onNodes(node func(rank int) int) func(mpi.World) (AllToAll, error) {
	return func(w mpi.World) (AllToAll, error) {
		names := ascending(0, w.Size())
		for i, r := range names {
			names[i] = node(r)
		}
		return newHierarchical(w, nodesOf(names)), nil
	}
}

// row is what the n-th row of one rank for one expert holds.
func row(source, expert, n, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(uint32(source*7919+expert*104729+n*1299709+i*31) * 2654435761 >> 24)
	}
	return b
}

// routing draws how many rows each rank has for each expert [ranks][experts], alike on all ranks.
func routing(r *rand.Rand, ranks, experts int) [][]int {
	shape, hot := r.IntN(5), r.IntN(experts)
	idle := r.IntN(ranks)
	rows := make([][]int, ranks)
	for s := range rows {
		rows[s] = make([]int, experts)
		for e := range rows[s] {
			switch {
			case shape == 0: // nobody has a row
			case shape == 1 && e != hot: // one expert takes all
			case shape == 2 && s == idle: // a rank without work
			case shape == 3 && r.IntN(3) > 0: // most experts get nothing
			default:
				rows[s][e] = r.IntN(9)
			}
		}
	}
	return rows
}

// move begins to move rows and finishes.
func move(ctx context.Context, x AllToAll, begin func(context.Context, []byte, []byte, int) error, recv, send []byte, rowBytes int) error {
	if err := begin(ctx, recv, send, rowBytes); err != nil {
		return err
	}
	return x.Finish(ctx)
}

// counted tells the counts and waits for those of the others.
func counted(ctx context.Context, x AllToAll, sendRows []int) ([][]int, error) {
	if err := x.Count(ctx, sendRows); err != nil {
		return nil, err
	}
	return x.Counted(ctx)
}

// exchange runs one layer's two exchanges on one rank and compares every byte with what the routing says. The expert's
// work is a row of another size that tells who computed it.
func exchange(ctx context.Context, group mpi.World, x AllToAll, r *rand.Rand) error {
	const poison = 0xA5
	p, me := group.Size(), group.Rank()
	local := 1 + r.IntN(4)
	rows, size, back := routing(r, p, local*p), 1+r.IntN(40), 1+r.IntN(40)

	var send, wantBack []byte
	for e, n := range rows[me] {
		for i := range n {
			send = append(send, row(me, e, i, size)...)
			wantBack = append(wantBack, row(me, e, 1000+i, back)...)
		}
	}
	var want, results []byte
	for s := range p {
		for e := me * local; e < (me+1)*local; e++ {
			for i := range rows[s][e] {
				want = append(want, row(s, e, i, size)...)
				results = append(results, row(s, e, 1000+i, back)...)
			}
		}
	}
	got, err := counted(ctx, x, rows[me])
	if err != nil {
		return err
	}
	for s := range p {
		for l := range local {
			if got[s][l] != rows[s][me*local+l] {
				return fmt.Errorf("%d rows of rank %d for local expert %d, want %d", got[s][l], s, l, rows[s][me*local+l])
			}
		}
	}
	recv := bytes.Repeat([]byte{poison}, len(want))
	if err := move(ctx, x, x.Dispatch, recv, send, size); err != nil {
		return err
	}
	if !bytes.Equal(recv, want) {
		return fmt.Errorf("dispatch: wrong bytes; routing %v", rows)
	}
	home := bytes.Repeat([]byte{poison}, len(wantBack))
	if err := move(ctx, x, x.Combine, home, results, back); err != nil {
		return err
	}
	if !bytes.Equal(home, wantBack) {
		return fmt.Errorf("combine: wrong bytes; routing %v", rows)
	}
	return nil
}

// exchanges runs many layers over one AllToAll, whose buffers must not remember the last.
func exchanges(ctx context.Context, group mpi.World, make func(mpi.World) (AllToAll, error), seed uint64) error {
	x, err := make(group)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for layer := range 40 {
		if err := exchange(ctx, group, x, r); err != nil {
			return fmt.Errorf("seed %d, layer %d, rank %d of %d: %w", seed, layer, group.Rank(), group.Size(), err)
		}
	}
	return nil
}

func TestAllToAll(t *testing.T) {
	for name, way := range ways {
		for p := 1; p <= 8; p++ {
			t.Run(fmt.Sprintf("%s/%d ranks", name, p), func(t *testing.T) {
				for seed := range uint64(3) {
					mpitest.Run(t, p, func(w mpi.World) error { return exchanges(t.Context(), w, way, seed) })
				}
			})
		}
	}
}

// TestAllToAllInGroups runs both ep groups of a layout at once.
func TestAllToAllInGroups(t *testing.T) {
	formed(t, Sizes{World: 8, TP: 2, EP: 4, Experts: []int{4, 8}}, func(_ mpi.World, g *Groups) error {
		return exchanges(t.Context(), g.Expert(4).EP, ways["flat"], uint64(g.TP.Rank()))
	})
}

func TestAllToAllRefuses(t *testing.T) {
	mpitest.Run(t, 2, func(w mpi.World) error {
		ctx, x := t.Context(), NewFlat(w)
		wrong := func(what, say string, err error) {
			if err == nil || !strings.Contains(err.Error(), say) {
				t.Errorf("%s: %v, want something about %q", what, err, say)
			}
		}
		err := x.Count(ctx, []int{1, 2, 3})
		wrong("3 experts, 2 ranks", "3 experts cannot be spread", err)
		err = x.Count(ctx, []int{1, -2})
		wrong("negative rows", "-2 rows", err)
		wrong("no count", "before they are counted", x.Dispatch(ctx, nil, nil, 4))
		if _, err = counted(ctx, x, []int{2, 1}); err != nil { // rank 0 gets 4 rows, rank 1 2
			return err
		}
		in := 4 - 2*w.Rank()
		wrong("send too short", "to send", x.Dispatch(ctx, make([]byte, 8*in), make([]byte, 16), 8))
		wrong("recv too long", "to receive", x.Dispatch(ctx, make([]byte, 8*in+8), make([]byte, 24), 8))
		wrong("empty rows", "rows of 0 bytes", x.Dispatch(ctx, nil, nil, 0))
		if err := move(ctx, x, x.Dispatch, make([]byte, 8*in), make([]byte, 24), 8); err != nil {
			return err
		}
		away := []int64{1, 2}[w.Rank()] // rows for the other rank
		if got, want := x.Traffic(), (Traffic{Rows: away, Bytes: 8 * away, Sent: 8*away + 4, Messages: 2}); got != want {
			t.Errorf("rank %d: traffic %+v, want %+v", w.Rank(), got, want)
		}
		return nil
	})
}

// TestHops counts messages and bytes of 64 ranks on 8 nodes, each of which has a row for each expert.
func TestHops(t *testing.T) {
	const p, rowBytes, local = 64, 24, 2
	nodes, err := FakeNodes(p, 8)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		how           Algorithm
		counted, each Traffic // of Count and of Dispatch, or Combine
	}{
		{Flat, Traffic{Messages: 63, Sent: 63 * 4 * local},
			Traffic{Rows: 63 * local, Bytes: 63 * local * rowBytes, Sent: 63 * local * rowBytes, Messages: 63}},
		{Hierarchical, Traffic{Messages: 14, Sent: (7*8 + 7*8) * 4 * local}, // G + p/G = 16
			Traffic{Rows: 63 * local, Bytes: 63 * local * rowBytes, Sent: (7*8 + 7*8) * local * rowBytes, Messages: 14}},
	} {
		mpitest.Run(t, p, func(w mpi.World) error {
			ctx := t.Context()
			x, err := newAllToAll(&Group{World: w, Ranks: ascending(0, p)}, AllToAllOptions{Algorithm: c.how, Nodes: nodes})
			if err != nil {
				return err
			}
			if _, err := counted(ctx, x, slices.Repeat([]int{1}, p*local)); err != nil {
				return err
			}
			if got := x.Traffic(); got != c.counted {
				return fmt.Errorf("%v: counting is %+v, want %+v", c.how, got, c.counted)
			}
			send, recv := make([]byte, p*local*rowBytes), make([]byte, p*local*rowBytes)
			for n, begin := range []func(context.Context, []byte, []byte, int) error{x.Dispatch, x.Combine} {
				if err := move(ctx, x, begin, recv, send, rowBytes); err != nil {
					return err
				}
				k := int64(n + 1)
				want := Traffic{k * c.each.Rows, k * c.each.Bytes, c.counted.Sent + k*c.each.Sent, c.counted.Messages + k*c.each.Messages}
				if got := x.Traffic(); got != want {
					return fmt.Errorf("%v: after exchange %d %+v, want %+v", c.how, k, got, want)
				}
			}
			return nil
		})
	}
}

// TestHierarchicalIsFlat where there is nothing to gain: to the last message.
func TestHierarchicalIsFlat(t *testing.T) {
	for _, nodes := range []int{1, 4} {
		n, err := FakeNodes(4, nodes)
		if err != nil {
			t.Fatal(err)
		}
		mpitest.Run(t, 4, func(w mpi.World) error {
			x, err := newAllToAll(&Group{World: w, Ranks: ascending(0, 4)}, AllToAllOptions{Algorithm: Hierarchical, Nodes: n})
			if _, ok := x.(*flat); err == nil && !ok {
				err = fmt.Errorf("%v: %T", n, x)
			}
			return err
		})
	}
}

func TestAllToAllUnderMPI(t *testing.T) {
	for _, n := range []int{2, 3, 4} {
		out, status := mpitest.Mpirun(t, n, "TestRankExchanges", 2*time.Minute)
		if status != 0 || strings.Count(out, "--- PASS: TestRankExchanges") != n {
			t.Errorf("%d ranks: status %d\n%s", n, status, out)
		}
	}
}
