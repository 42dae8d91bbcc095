package comm

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/dsbatch/dsbatch/mpi"
)

// hierarchical carries rows in two hops, so that a rank exchanges messages with the G-1 others of its node and with one
// rank of each other node: G-1 + p/G-1 messages of p ranks, where flat has p-1. What crosses nodes is sent twice.
//
//	inside    to the rank of this node that has the destination's place in it, which carries for that destination
//	between   from there to the destination, the rows of all ranks of the node in one message
//
// Combine goes the same way back. Nodes may have different numbers of ranks: the i-th of G ranks of a node carries for
// the i-th, (G+i)-th, … rank of a larger one. Source: arXiv 2201.05596 §5.2, where all nodes and all messages are equal.
type hierarchical struct {
	tally
	mates   []int   // the ranks of this node, ascending
	wards   [][]int // for each mate, the ranks that it carries for, ascending; of its own node itself alone
	self    int     // this rank among mates
	relays  []relay // of the other nodes, by rank
	nodes   Nodes
	carried [][]int // [mate][ward of this rank] rows
	path    path    // of the rows counted last
	table   path    // of the counts themselves, a row from every rank to every rank
}

// relay is the rank of another node that carries for this one.
type relay struct {
	rank  int
	mates []int // the ranks of its node
}

// newHierarchical returns the all-to-all in two hops of host memory; nodes are those of the group's ranks.
func newHierarchical(group mpi.World, nodes Nodes) *hierarchical {
	p, me := group.Size(), group.Rank()
	h := &hierarchical{tally: newTally(group), nodes: nodes, mates: nodes.ranks[nodes.of[me]]}
	h.self = slices.Index(h.mates, me)
	h.wards = make([][]int, len(h.mates))
	for d := range p {
		place := slices.Index(nodes.ranks[nodes.of[d]], d) % len(h.mates)
		h.wards[place] = append(h.wards[place], d)
	}
	for n, mates := range nodes.ranks {
		if n != nodes.of[me] {
			h.relays = append(h.relays, relay{rank: mates[h.self%len(mates)], mates: mates})
		}
	}
	slices.SortFunc(h.relays, func(a, b relay) int { return a.rank - b.rank })
	h.carried = make([][]int, len(h.mates))
	for i := range h.carried {
		h.carried[i] = slices.Repeat([]int{1}, len(h.wards[h.self]))
	}
	h.table.plan(h, h.ones, h.ones)
	return h
}

func (h *hierarchical) Count(ctx context.Context, sendRows []int) error {
	if err := h.open(sendRows); err != nil {
		return err
	}
	return h.table.begin(ctx, h, h.in, h.out, 4*h.local, true)
}

func (h *hierarchical) Counted(ctx context.Context) ([][]int, error) {
	if err := h.table.finish(ctx, h); err != nil {
		return nil, err
	}
	h.settle()
	passing := h.table.buffers[came] // the counts that mates sent for this rank and for its wards, which it keeps
	for i := range h.mates {
		for k, d := range h.wards[h.self] {
			if i == h.self {
				h.carried[i][k] = h.to[d]
				continue
			}
			h.carried[i][k] = 0
			for range h.local {
				h.carried[i][k] += int(binary.LittleEndian.Uint32(passing))
				passing = passing[4:]
			}
		}
	}
	h.path.plan(h, h.to, h.from)
	return h.rows, nil
}

func (h *hierarchical) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := h.check(recv, send, rowBytes, true); err != nil {
		return err
	}
	return h.path.begin(ctx, h, recv, send, rowBytes, true)
}

func (h *hierarchical) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	if err := h.check(recv, send, rowBytes, false); err != nil {
		return err
	}
	return h.path.begin(ctx, h, send, recv, rowBytes, false)
}

func (h *hierarchical) Finish(ctx context.Context) error { return h.path.finish(ctx, h) }

func (h *hierarchical) String() string { return "hierarchical over " + h.nodes.String() }

// The buffers through which rows pass to other ranks, and back.
const (
	home    = iota // the sender's, by destination
	inside         // messages to this node, by mate, then by destination
	came           // messages from this node, by mate, then by destination
	between        // messages to other nodes, by destination, then by mate
	arrived        // messages from other nodes, by relay, then by mate
	away           // the receiver's, by source
)

// path is how the rows of one exchange travel: copies between buffers, a hop, copies, a hop, copies.
type path struct {
	copies   [3][]run
	hops     [2]hop
	buffers  [away + 1][]byte // home and away: of the rows under way
	rowBytes int
	forth    bool // from home to away
}

// run is rows that lie together in two buffers.
type run struct {
	from, to int // buffers
	at, into int // where the rows begin
	rows     int
}

// hop is the rows to and from each rank.
type hop struct{ sends, recvs []int }

// plan computes the path of to[d] rows to each rank d, from[s] from each rank s, and carried ones of this node.
func (p *path) plan(h *hierarchical, to, from []int) {
	for i := range p.hops {
		p.hops[i] = hop{make([]int, len(to)), make([]int, len(to))}
	}
	for i := range p.copies {
		p.copies[i] = p.copies[i][:0]
	}
	var filled [away]int
	fill := func(group int, r run) {
		r.into = filled[r.to]
		filled[r.to] += r.rows
		p.copy(group, r)
	}
	atHome, atAway := starts(to), starts(from)
	for i, mate := range h.mates {
		if i == h.self {
			continue
		}
		for _, d := range h.wards[i] {
			fill(0, run{from: home, at: atHome[d], to: inside, rows: to[d]})
			p.hops[0].sends[mate] += to[d]
		}
		for _, n := range h.carried[i] {
			p.hops[0].recvs[mate] += n
		}
	}
	waiting := starts(p.hops[0].recvs) // where a mate's next rows lie
	for k, d := range h.wards[h.self] {
		for i, mate := range h.mates {
			r := run{from: came, at: waiting[mate], to: between, rows: h.carried[i][k]}
			waiting[mate] += r.rows
			if i == h.self {
				r.from, r.at = home, atHome[d]
			}
			if d == h.mates[h.self] {
				r.to, r.into = away, atAway[mate]
				p.copy(1, r)
				continue
			}
			fill(1, r)
			p.hops[1].sends[d] += r.rows
		}
	}
	at := 0
	for _, relay := range h.relays {
		for _, s := range relay.mates {
			p.copy(2, run{from: arrived, at: at, to: away, into: atAway[s], rows: from[s]})
			p.hops[1].recvs[relay.rank] += from[s]
			at += from[s]
		}
	}
}

func (p *path) copy(group int, r run) {
	if r.rows > 0 {
		p.copies[group] = append(p.copies[group], r)
	}
}

// begin sets out to move rows from send to recv, or the way back, from recv to send: up to the first hop.
func (p *path) begin(ctx context.Context, h *hierarchical, recv, send []byte, rowBytes int, forth bool) error {
	for i, rows := range [...][]int{inside: p.hops[0].sends, came: p.hops[0].recvs, between: p.hops[1].sends, arrived: p.hops[1].recvs} {
		p.buffers[i] = room(p.buffers[i], sum(rows)*rowBytes)
	}
	p.buffers[home], p.buffers[away], p.rowBytes, p.forth = send, recv, rowBytes, forth
	return p.leg(ctx, h, 0)
}

// finish goes the rest of the way.
func (p *path) finish(ctx context.Context, h *hierarchical) error {
	for n := range p.hops {
		if err := h.tally.Finish(ctx); err != nil {
			return err
		}
		if err := p.leg(ctx, h, n+1); err != nil {
			return err
		}
	}
	p.buffers[home], p.buffers[away] = nil, nil
	return nil
}

// leg does the copies before the n-th hop, and begins it; after the last hop there are copies alone.
func (p *path) leg(ctx context.Context, h *hierarchical, n int) error {
	if !p.forth {
		n = len(p.hops) - n
	}
	for _, r := range p.copies[n] {
		there, here := p.buffers[r.to][r.into*p.rowBytes:(r.into+r.rows)*p.rowBytes], p.buffers[r.from][r.at*p.rowBytes:(r.at+r.rows)*p.rowBytes]
		if p.forth {
			copy(there, here)
		} else {
			copy(here, there)
		}
	}
	switch {
	case p.forth && n < len(p.hops):
		return h.hop(ctx, p.buffers[2+2*n], p.hops[n].recvs, p.buffers[1+2*n], p.hops[n].sends, p.rowBytes)
	case !p.forth && n > 0:
		return h.hop(ctx, p.buffers[2*n-1], p.hops[n-1].sends, p.buffers[2*n], p.hops[n-1].recvs, p.rowBytes)
	}
	return nil
}

// starts sums up the rows before each rank's.
func starts(rows []int) []int {
	at := make([]int, len(rows)+1)
	for r, n := range rows {
		at[r+1] = at[r] + n
	}
	return at
}

// room returns n bytes, b's where it has as many.
func room(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
