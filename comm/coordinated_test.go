package comm

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// tokensOf returns the expert of each token of a tp group, alike on its ranks.
func tokensOf(team, experts int, seed uint64) []int {
	r := rand.New(rand.NewPCG(seed, uint64(team)))
	tokens := make([]int, []int{0, 1, 7, 40}[r.IntN(4)])
	for i := range tokens {
		if tokens[i] = r.IntN(experts); seed%3 == 0 { // most to one expert
			tokens[i] = min(tokens[i], experts/2)
		}
	}
	return tokens
}

// layer is one exchange of a test.
type layer struct {
	results  []byte // [tokens][8]: which expert answered, and whom
	received int    // rows that this rank's experts got
	rows     AllToAll
	traffic  Traffic
}

// exchangeTokens sends each token of this rank's tp group to its expert and back. It fails where a token lands at a rank
// without its expert.
func exchangeTokens(ctx context.Context, x *ExpertGroups, team int, tokens []int, o AllToAllOptions) (l layer, err error) {
	const rowBytes = 8
	rows, split, err := x.AllToAll(o)
	if err != nil {
		return l, err
	}
	experts := x.Experts
	results := bytes.Repeat([]byte{0xA5}, rowBytes*len(tokens))
	from, to := 0, len(tokens)
	share := func(r int) int { return r * len(tokens) / split.Size() }
	if split != nil {
		from, to = share(split.Rank()), share(split.Rank()+1)
	}
	var slots []int // tokens of this rank's part, by expert
	counts := make([]int, experts)
	for t := from; t < to; t++ {
		slots = append(slots, t)
		counts[tokens[t]]++
	}
	slices.SortStableFunc(slots, func(a, b int) int { return tokens[a] - tokens[b] })
	var send []byte
	for _, t := range slots {
		send = binary.LittleEndian.AppendUint32(send, uint32(tokens[t]))
		send = binary.LittleEndian.AppendUint32(send, uint32(1000*team+t))
	}
	got, err := counted(ctx, rows, counts)
	if err != nil {
		return l, err
	}
	local := experts / x.EP.Size()
	for _, source := range got {
		l.received += sum(source)
	}
	recv := make([]byte, l.received*rowBytes)
	if err := move(ctx, rows, rows.Dispatch, recv, send, rowBytes); err != nil {
		return l, err
	}
	at := 0
	for s, source := range got {
		for k, n := range source {
			for range n {
				if e := int(binary.LittleEndian.Uint32(recv[at:])); e != x.EP.Rank()*local+k {
					return l, fmt.Errorf("a row of source %d for expert %d lands at expert %d", s, e, x.EP.Rank()*local+k)
				}
				recv[at] = ^recv[at]
				at += rowBytes
			}
		}
	}
	home := bytes.Repeat([]byte{0xA5}, len(send))
	if err := move(ctx, rows, rows.Combine, home, recv, rowBytes); err != nil {
		return l, err
	}
	for i, t := range slots {
		copy(results[t*rowBytes:], home[i*rowBytes:(i+1)*rowBytes])
	}
	l.results, l.rows, l.traffic = results, rows, rows.Traffic()
	if split != nil {
		counts := make([]int64, split.Size())
		for r := range counts {
			counts[r] = int64(rowBytes * (share(r+1) - share(r)))
		}
		own := slices.Clone(results[from*rowBytes : to*rowBytes])
		l.traffic.Gathered(split.Size(), int64(len(own)))
		err = split.AllGatherV(ctx, own, results, counts)
	}
	return l, err
}

// TestEveryAlgorithmInEveryLayout: each tp group gets back, on all its ranks, what the experts say, whatever the layout,
// the nodes and the algorithm, groups that a user gives included.
func TestEveryAlgorithmInEveryLayout(t *testing.T) {
	layouts := []Sizes{
		{World: 1}, {World: 2}, {World: 3}, {World: 4}, {World: 6}, {World: 8},
		{World: 2, TP: 2}, {World: 4, TP: 2}, {World: 4, TP: 4}, {World: 6, TP: 2}, {World: 8, TP: 2}, {World: 8, TP: 4},
		{World: 8, TP: 2, EP: 2}, {World: 8, TP: 4, EP: 4}, {World: 8, TP: 2, EP: 4, ES: 2}, {World: 8, TP: 4, EP: 2, ES: 2},
		{World: 8, TP: 4, EP: 1}, {World: 8, TP: 4, EP: 4, ES: 2}, {World: 8, TP: 2, PP: 2}, {World: 8, TP: 2, EP: 2, ES: AutoES},
		{World: 6, TP: 2, EP: 2}, // three teams, groups of two: unevenly many tp ranks in them
		{World: 8, TP: 2, EPGroups: table{{0, 1, 2, 3}, {4, 5, 6, 7}}},
		{World: 8, TPGroups: table{{0, 4}, {1, 5}, {2, 6}, {3, 7}}},
		{World: 8, TP: 2, EPGroups: table{{0, 2, 4, 6}, {1, 3, 5, 7}}, ESGroups: table{{0, 1}, {2, 3}, {4, 5}, {6, 7}}},
	}
	for _, s := range layouts {
		s.Experts = []int{24}
		l, err := Ranks(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, fake := range []int{1, 2, 3, s.World} {
			if fake > s.World {
				continue
			}
			nodes, err := FakeNodes(s.World, fake)
			if err != nil {
				t.Fatal(err)
			}
			for _, how := range []Algorithm{Flat, Hierarchical, Coordinated, Auto} {
				if how == Coordinated && l.TP == 1 {
					continue
				}
				t.Run(fmt.Sprintf("%+v/%v/%v", s, nodes, how), func(t *testing.T) {
					o := AllToAllOptions{Algorithm: how, Nodes: nodes, Network: Network{Inside: Link{1e-6, 1e12}, Between: Link{1, 1e12}}}
					mpitest.Run(t, s.World, func(w mpi.World) error { return everyToken(t.Context(), w, l, o) })
				})
			}
		}
	}
}

func everyToken(ctx context.Context, w mpi.World, l *Layout, o AllToAllOptions) error {
	g, err := Form(ctx, w, l)
	if err != nil {
		return err
	}
	x, team := g.Expert(24), g.TP.Ranks[0]
	for seed := range uint64(6) {
		tokens := tokensOf(team, 24, seed)
		got, err := exchangeTokens(ctx, x, team, tokens, o)
		if err != nil {
			return err
		}
		var want []byte
		for i, e := range tokens {
			want = append(want, ^byte(e), 0, 0, 0)
			want = binary.LittleEndian.AppendUint32(want, uint32(1000*team+i))
		}
		if !bytes.Equal(got.results, want) {
			return fmt.Errorf("%v: rank %d has %v, want %v", got.rows, w.Rank(), got.results, want)
		}
		work := []int64{int64(got.received), int64(len(tokens))}
		if err := w.AllReduceInt64(ctx, mpi.Sum, work); err != nil {
			return err
		}
		// what tp peers hold in common goes to one expert, or slice of it, whose ranks then gather the rows of all
		if once := work[1] / int64(l.TP); o.Algorithm == Coordinated && work[0] != once {
			return fmt.Errorf("%v: %d rows are computed, want %d", got.rows, work[0], once)
		}
	}
	return g.Close()
}

// TestCoordinatedHops counts what 64 ranks on 8 nodes send, gathering included: p/L + L at most in each exchange.
func TestCoordinatedHops(t *testing.T) {
	nodes, err := FakeNodes(64, 8)
	if err != nil {
		t.Fatal(err)
	}
	tokens := make([]int, 8*128) // so that every rank has rows for every other
	for i := range tokens {
		tokens[i] = i % 128
	}
	apart, together := Network{Link{1e-6, 1e12}, Link{1, 1e12}}, Network{Link{1, 1}, Link{1e-9, 1e12}} // hierarchical, flat
	for _, c := range []struct {
		tp, ep  int
		network Network
		want    int64 // counts, dispatch, combine and what is gathered
	}{
		{2, 64, together, 3*31 + 1}, {2, 64, apart, 3*(3+7) + 1}, // 4 peers on each node
		{2, 32, together, 3*31 + 1}, {2, 32, apart, 3*(3+7) + 1},
		{4, 64, together, 3*15 + 3}, {4, 32, together, 3*15 + 1 + 1}, {4, 16, together, 3*15 + 3},
		{8, 64, together, 3*7 + 7}, {8, 64, apart, 3*7 + 7}, {8, 8, together, 3*7 + 7},
	} {
		formed(t, Sizes{World: 64, TP: c.tp, EP: c.ep, Experts: []int{128}}, func(_ mpi.World, g *Groups) error {
			o := AllToAllOptions{Algorithm: Coordinated, Nodes: nodes, Network: c.network}
			got, err := exchangeTokens(t.Context(), g.Expert(128), g.TP.Ranks[0], tokens, o)
			if err != nil {
				return err
			}
			if most := int64(3*(64/c.tp) + c.tp); got.traffic.Messages != c.want || c.want > most {
				return fmt.Errorf("%+v, %v: %d messages, want %d, and %d at most", c, got.rows, got.traffic.Messages, c.want, most)
			}
			return nil
		})
	}
}

func TestCoordinatedTakesCommonTokens(t *testing.T) {
	formed(t, Sizes{World: 4, Experts: []int{8}}, func(_ mpi.World, g *Groups) error {
		if _, _, err := g.Expert(8).AllToAll(AllToAllOptions{Algorithm: Coordinated}); err == nil {
			t.Error("coordinated, and no two ranks hold the same tokens")
		}
		return nil
	})
}
