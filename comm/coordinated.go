package comm

import (
	"context"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/mpi"
)

// coordinate computes the groups of coordinated communication. With L tp ranks, v of them in each ep group, rows travel
// among the peers of equal tp rank, p/L hops; those v gather from each other, v-1 hops, what the peers of each have
// computed; and where tp peers lie in several ep groups, each of which has all experts, they divide the tokens.
//
// Ep groups that a rank's peers can't serve, because tp ranks lie in them unevenly, are their own peers; tokens are then
// divided among all tp peers.
func (e *ExpertRanks) coordinate(l *Layout) {
	tp, team := places(l.TPGroups), map[int]int{} // a rank's place, and its tp group
	for i, g := range l.TPGroups {
		for _, r := range g {
			team[r] = i
		}
	}
	if !e.gather(l, tp, team) {
		e.PeerGroups, e.GatherGroups = e.EPGroups, runs(ascending(0, l.World), 1)
	}
	class := places(e.GatherGroups)
	e.ShareGroups = nil
	same := map[[2]int]int{} // tp group and class: the ranks that could carry the same rows
	for r := range l.World {
		key := [2]int{team[r], class[r]}
		at, known := same[key]
		if !known {
			at = len(e.ShareGroups)
			same[key], e.ShareGroups = at, append(e.ShareGroups, nil)
		}
		e.ShareGroups[at] = append(e.ShareGroups[at], r)
	}
}

// gather cuts the ep groups by tp rank and tells whether that can be: runs of equal length, and of each tp group one rank
// in each run.
func (e *ExpertRanks) gather(l *Layout, tp, team map[int]int) bool {
	e.PeerGroups, e.GatherGroups = nil, nil
	spans := 0 // tp ranks in an ep group
	for _, g := range e.EPGroups {
		var peers [][]int
		for i, r := range g {
			if i == 0 || tp[r] != tp[g[i-1]] {
				peers = append(peers, nil)
			}
			peers[len(peers)-1] = append(peers[len(peers)-1], r)
		}
		if spans == 0 {
			spans = len(peers)
		}
		if spans != len(peers) {
			return false
		}
		e.PeerGroups = append(e.PeerGroups, peers...)
		at := map[int]int{}
		for _, run := range peers {
			if len(run) != len(peers[0]) {
				return false
			}
			for _, r := range run {
				k, known := at[team[r]]
				if !known {
					k = len(e.GatherGroups)
					at[team[r]], e.GatherGroups = k, append(e.GatherGroups, nil)
				}
				e.GatherGroups[k] = append(e.GatherGroups[k], r)
			}
		}
		for _, k := range at {
			if len(e.GatherGroups[k]) != spans {
				return false
			}
		}
	}
	byFirst(e.PeerGroups)
	byFirst(e.GatherGroups)
	return true
}

// Together tells whether several ranks take part in an exchange with the same rows: their counts have to be alike.
func Together(rows AllToAll) bool {
	_, together := rows.(*coordinated)
	return together
}

// Senders returns who sends the same rows in an ep group over rows, as places in the group: each rank its own or, where
// that is coordinated, tp peers, each to its run of the ranks.
func (e *ExpertRanks) Senders(rows AllToAll, group []int) (senders [][]int) {
	if !Together(rows) {
		return runs(ascending(0, len(group)), 1)
	}
	for _, g := range e.GatherGroups {
		if !slices.Contains(group, g[0]) {
			continue
		}
		peers := make([]int, len(g))
		for i, r := range g {
			peers[i] = slices.Index(group, r)
		}
		senders = append(senders, peers)
	}
	return senders
}

// coordinated is the all-to-all of an ep group in which several tp ranks hold the same rows: each sends those whose
// experts are with its peers, and gathers the results of the others. It takes part in Count and Dispatch with the rows of
// all experts, alike on all tp peers of the group.
type coordinated struct {
	AllToAll           // among the peers
	gather   mpi.World // the tp peers in the group
	ranks    int       // of the ep group
	rows     [][]int   // [source of the group][local]
	none     []int     // of a source that isn't a peer
	starts   []int     // the rows before those of each tp peer's experts
	combines bool      // a Combine is under way
	home     []byte    // and its results are gathered here
	own      []byte
	counts   []int64
	traffic  Traffic // of gathering
}

func newCoordinated(x *ExpertGroups, peers AllToAll) *coordinated {
	return &coordinated{AllToAll: peers, gather: x.Gather, ranks: x.EP.Size(), rows: make([][]int, x.EP.Size()),
		starts: make([]int, x.Gather.Size()+1), counts: make([]int64, x.Gather.Size())}
}

func (c *coordinated) Count(ctx context.Context, sendRows []int) error {
	if len(sendRows)%c.ranks != 0 {
		return fmt.Errorf("all-to-all: %s cannot be spread evenly over %s", count(len(sendRows), "expert"), count(c.ranks, "rank"))
	}
	experts, me := len(sendRows)/c.gather.Size(), c.gather.Rank()
	for i := range c.gather.Size() {
		c.starts[i+1] = c.starts[i] + sum(sendRows[i*experts:(i+1)*experts])
	}
	c.none = make([]int, len(sendRows)/c.ranks)
	return c.AllToAll.Count(ctx, sendRows[me*experts:(me+1)*experts])
}

func (c *coordinated) Counted(ctx context.Context) ([][]int, error) {
	rows, err := c.AllToAll.Counted(ctx)
	if err != nil {
		return nil, err
	}
	for i := range c.rows {
		c.rows[i] = c.none
	}
	copy(c.rows[c.gather.Rank()*len(rows):], rows)
	return c.rows, nil
}

func (c *coordinated) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if n := c.starts[c.gather.Size()] * rowBytes; len(send) != n {
		return fmt.Errorf("dispatch: %d bytes to send, the counts say %d", len(send), n)
	}
	me := c.gather.Rank()
	return c.AllToAll.Dispatch(ctx, recv, send[c.starts[me]*rowBytes:c.starts[me+1]*rowBytes], rowBytes)
}

func (c *coordinated) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	if n := c.starts[c.gather.Size()] * rowBytes; len(recv) != n {
		return fmt.Errorf("combine: %d bytes to receive, the counts say %d", len(recv), n)
	}
	for i := range c.counts {
		c.counts[i] = int64(c.starts[i+1]-c.starts[i]) * int64(rowBytes)
	}
	c.own = room(c.own, int(c.counts[c.gather.Rank()]))
	c.home, c.combines = recv, true
	return c.AllToAll.Combine(ctx, c.own, send, rowBytes)
}

func (c *coordinated) Finish(ctx context.Context) error {
	home, combines := c.home, c.combines
	c.home, c.combines = nil, false
	if err := c.AllToAll.Finish(ctx); err != nil || !combines {
		return err
	}
	c.traffic.Gathered(len(c.counts), int64(len(c.own)))
	return c.gather.AllGatherV(ctx, c.own, home, c.counts)
}

func (c *coordinated) Traffic() Traffic { return c.traffic.Plus(c.AllToAll.Traffic()) }

func (c *coordinated) String() string {
	return fmt.Sprintf("coordinated: %v, gathered by %d", c.AllToAll, c.gather.Size())
}
