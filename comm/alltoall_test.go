package comm

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// algorithms lists what must give equal bytes.
var algorithms = map[string]func(mpi.World) AllToAll{"flat": NewFlat}

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
	got, err := x.Count(ctx, rows[me])
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
	if err := x.Dispatch(ctx, recv, send, size); err != nil {
		return err
	}
	if !bytes.Equal(recv, want) {
		return fmt.Errorf("dispatch: wrong bytes; routing %v", rows)
	}
	home := bytes.Repeat([]byte{poison}, len(wantBack))
	if err := x.Combine(ctx, home, results, back); err != nil {
		return err
	}
	if !bytes.Equal(home, wantBack) {
		return fmt.Errorf("combine: wrong bytes; routing %v", rows)
	}
	return nil
}

// exchanges runs many layers over one AllToAll, whose buffers must not remember the last.
func exchanges(ctx context.Context, group mpi.World, make func(mpi.World) AllToAll, seed uint64) error {
	x, r := make(group), rand.New(rand.NewPCG(seed, 0))
	for layer := range 40 {
		if err := exchange(ctx, group, x, r); err != nil {
			return fmt.Errorf("seed %d, layer %d, rank %d of %d: %w", seed, layer, group.Rank(), group.Size(), err)
		}
	}
	return nil
}

func TestAllToAll(t *testing.T) {
	for name, algorithm := range algorithms {
		for p := 1; p <= 8; p++ {
			for seed := range uint64(5) {
				t.Run(fmt.Sprintf("%s/%d ranks/%d", name, p, seed), func(t *testing.T) {
					mpitest.Run(t, p, func(w mpi.World) error { return exchanges(t.Context(), w, algorithm, seed) })
				})
			}
		}
	}
}

// TestAllToAllInGroups runs both ep groups of a layout at once.
func TestAllToAllInGroups(t *testing.T) {
	l, err := Ranks(Sizes{World: 8, TP: 2, EP: 4, Experts: []int{4, 8}})
	if err != nil {
		t.Fatal(err)
	}
	mpitest.Run(t, 8, func(w mpi.World) error {
		g, err := Form(t.Context(), w, l)
		if err != nil {
			return err
		}
		if err := exchanges(t.Context(), g.Expert(4).EP, NewFlat, uint64(g.TP.Rank())); err != nil {
			return err
		}
		return g.Close()
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
		_, err := x.Count(ctx, []int{1, 2, 3})
		wrong("3 experts, 2 ranks", "3 experts cannot be spread", err)
		_, err = x.Count(ctx, []int{1, -2})
		wrong("negative rows", "-2 rows", err)
		wrong("no count", "before they are counted", x.Dispatch(ctx, nil, nil, 4))
		if _, err = x.Count(ctx, []int{2, 1}); err != nil { // rank 0 gets 4 rows, rank 1 2
			return err
		}
		in := 4 - 2*w.Rank()
		wrong("send too short", "to send", x.Dispatch(ctx, make([]byte, 8*in), make([]byte, 16), 8))
		wrong("recv too long", "to receive", x.Dispatch(ctx, make([]byte, 8*in+8), make([]byte, 24), 8))
		wrong("empty rows", "rows of 0 bytes", x.Dispatch(ctx, nil, nil, 0))
		if err := x.Dispatch(ctx, make([]byte, 8*in), make([]byte, 24), 8); err != nil {
			return err
		}
		away := []int64{1, 2}[w.Rank()] // rows for the other rank
		if got, want := x.Traffic(), (Traffic{Rows: away, Bytes: 8 * away, Sent: 8*away + 4, Messages: 2}); got != want {
			t.Errorf("rank %d: traffic %+v, want %+v", w.Rank(), got, want)
		}
		return nil
	})
}

func TestAllToAllUnderMPI(t *testing.T) {
	for _, n := range []int{2, 3, 4} {
		out, status := mpitest.Mpirun(t, n, "TestRankExchanges", 2*time.Minute)
		if status != 0 || strings.Count(out, "--- PASS: TestRankExchanges") != n {
			t.Errorf("%d ranks: status %d\n%s", n, status, out)
		}
	}
}
