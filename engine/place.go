package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
)

// place is a rank's place in its replica: the tp × pp ranks that compute the same rows together, each its slices of its
// stage of the layers. The lead, tp rank 0 of the first stage, alone reads, schedules and commits; the others follow it.
type place struct {
	rank, ranks   int       // of the tp group
	stage, stages int       // of the pipeline
	lead          int       // its rank in the world
	replica       mpi.World // all ranks of the replica, the lead first; nil: there is one
	ring          mpi.World // the stages of this tp rank; nil: there is one
}

// newPlace finds this rank's place. All ranks of the world call it; a foreseen one is alone, and has no replica to talk to.
func newPlace(ctx context.Context, w mpi.World, g *comm.Groups, foreseen bool) (*place, error) {
	p := &place{rank: g.TP.Rank(), ranks: g.TP.Size(), stage: g.PP.Rank(), stages: g.PP.Size()}
	peer := g.PP.Ranks[0] // of the first stage
	i := slices.IndexFunc(g.Layout.TPGroups, func(group []int) bool { return slices.Contains(group, peer) })
	if i < 0 {
		return nil, errors.New("the layout has no tp group for every rank")
	}
	p.lead = g.Layout.TPGroups[i][0]
	if p.stages > 1 {
		p.ring = g.PP.World
	}
	if p.ranks*p.stages == 1 || foreseen {
		return p, nil
	}
	var err error
	p.replica, err = w.Split(ctx, p.lead, p.stage*p.ranks+p.rank)
	return p, err
}

func (p *place) first() bool { return p.stage == 0 }
func (p *place) last() bool  { return p.stage == p.stages-1 }

// leads tells whether this rank is the lead.
func (p *place) leads() bool { return p.first() && p.rank == 0 }

// draws tells whether this rank scores and draws for its replica.
func (p *place) draws() bool { return p.last() && p.rank == 0 }

func (p *place) close() error {
	if p == nil || p.replica == nil {
		return nil
	}
	return p.replica.Close()
}
