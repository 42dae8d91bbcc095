package comm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

// Group is the ranks that one rank works with for one purpose. Its World is a communicator of these alone: World.Rank is
// the place in the group.
type Group struct {
	mpi.World
	Ranks []int        // of the job's world, in the group's order
	Team  kernels.Team // of the ranks' devices, where these put slices together; nil: they go through the hosts
}

// Groups is one rank's place in a layout.
type Groups struct {
	Layout  *Layout
	World   *Group // all ranks
	TP      *Group // slices of the same tensors
	DP      *Group // the same slices for other rows
	PP      *Group // the stages of the same replica, in order
	Experts []ExpertGroups
	made    []*Group
}

// ExpertGroups is one rank's place among the ranks of the layers with one number of experts.
type ExpertGroups struct {
	Experts  int    // of such a layer
	EP       *Group // who holds the experts, a run of equal length each
	ES       *Group // the slices of this rank's experts
	Replicas *Group // the same slices of the same experts
	Peers    *Group // the ranks of EP with this rank's tp rank
	Gather   *Group // the tp peers in EP, whose peers hold the other experts
	Share    *Group // the tp peers among whom tokens can be divided
}

// Form makes the groups of a layout. All ranks of w call it, with the same layout, or an imagined one alone. w stays the
// caller's; Close closes the rest.
func Form(ctx context.Context, w mpi.World, l *Layout) (*Groups, error) {
	if w.Size() != l.World {
		return nil, fmt.Errorf("a layout of %s in a world of %s", count(l.World, "rank"), count(w.Size(), "rank"))
	}
	g := &Groups{Layout: l, World: &Group{World: w, Ranks: ascending(0, l.World)}}
	var tables [][][]int // of g.made
	shared := 0          // the first of those that serve a second purpose
	form := func(table [][]int) (*Group, error) {
		for i := shared; i < len(tables); i++ {
			if slices.EqualFunc(tables[i], table, slices.Equal[[]int]) {
				return g.made[i], nil
			}
		}
		made, err := formOne(ctx, w, table)
		if err == nil {
			tables, g.made = append(tables, table), append(g.made, made)
		}
		return made, err
	}
	var err error
	for _, one := range []struct {
		group **Group
		table [][]int
	}{{&g.TP, l.TPGroups}, {&g.DP, l.DPGroups}, {&g.PP, l.PPGroups}} {
		if *one.group, err = form(one.table); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	shared = len(g.made) // rows travel to experts while partial results are added up
	for _, e := range l.Experts {
		x := ExpertGroups{Experts: e.Experts}
		for _, one := range []struct {
			group **Group
			table [][]int
		}{{&x.EP, e.EPGroups}, {&x.ES, e.ESGroups}, {&x.Replicas, e.ReplicaGroups},
			{&x.Peers, e.PeerGroups}, {&x.Gather, e.GatherGroups}, {&x.Share, e.ShareGroups}} {
			if *one.group, err = form(one.table); err != nil {
				return nil, errors.Join(err, g.Close())
			}
		}
		g.Experts = append(g.Experts, x)
	}
	return g, nil
}

func formOne(ctx context.Context, w mpi.World, table [][]int) (*Group, error) {
	color := slices.IndexFunc(table, func(g []int) bool { return slices.Contains(g, w.Rank()) })
	if color < 0 {
		return nil, fmt.Errorf("rank %d is in no group of %v", w.Rank(), table)
	}
	place := slices.Index(table[color], w.Rank())
	if _, ok := w.(*imagined); ok {
		return &Group{World: Imagine(place, len(table[color])), Ranks: table[color]}, nil
	}
	world, err := w.Split(ctx, color, place)
	if err != nil {
		return nil, err
	}
	return &Group{World: world, Ranks: table[color]}, nil
}

// Expert returns the groups of the layers with that number of experts, or nil where the layout has none.
func (g *Groups) Expert(experts int) *ExpertGroups {
	for i := range g.Experts {
		if g.Experts[i].Experts == experts {
			return &g.Experts[i]
		}
	}
	return nil
}

// Close closes the communicators that Form has made. It is collective where Close of the world's is.
func (g *Groups) Close() error {
	var errs []error
	for _, m := range g.made {
		errs = append(errs, m.Close())
	}
	g.made = nil
	return errors.Join(errs...)
}
