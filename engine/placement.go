package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/shard"
)

// placeExperts reads the file of --expert-placement and holds it against model and layout: the experts of each MoE layer,
// by the rank of an ep group. It moves work from rank to rank, and changes no bit.
func (e *Engine) placeExperts() error {
	if e.job.ExpertPlacement == "" {
		return nil
	}
	p, err := shard.ReadPlacement(e.job.ExpertPlacement)
	if err != nil {
		return refusePlacement(err)
	}
	for _, l := range p.Layers {
		if l.Layer >= len(e.shape.MoE) || e.shape.MoE[l.Layer].Gate.Experts == 0 {
			return refusePlacement(fmt.Errorf("%w: %s: layer %d of the model has no experts; was it made for another model?", shard.ErrPlacement, e.job.ExpertPlacement, l.Layer))
		}
	}
	e.placement = map[int][][]int{}
	for layer, m := range e.shape.MoE {
		experts := m.Gate.Experts
		i := slices.IndexFunc(e.layout.Experts, func(x comm.ExpertRanks) bool { return x.Experts == experts })
		if i < 0 {
			continue // a dense layer
		}
		if e.placement[layer], err = p.Layer(layer, experts, e.layout.Experts[i].EP); err != nil {
			return refusePlacement(fmt.Errorf("%s: %w", e.job.ExpertPlacement, err))
		}
	}
	return nil
}

// divideCopies settles, layer by layer, where this rank's tokens for each expert go, in the layers of one of the groups of
// experts: rows is its exchange, and nodes are those of the world.
func (e *Engine) divideCopies(group int, rows comm.AllToAll, nodes comm.Nodes) {
	g, table := &e.groups.Experts[group], &e.layout.Experts[group]
	s := shard.Sources{Senders: table.Senders(rows, g.EP.Ranks)}
	for _, r := range g.EP.Ranks {
		s.Nodes = append(s.Nodes, nodes.Of(r))
	}
	mine := slices.IndexFunc(s.Senders, func(ranks []int) bool { return slices.Contains(ranks, g.EP.Rank()) })
	for layer, held := range e.placement {
		if e.shape.MoE[layer].Gate.Experts == g.Experts {
			e.places[layer] = shard.Divide(held, g.Experts, s)[mine]
		}
	}
}

// held is how many experts of a layer each rank of an ep group of so many holds, copies included.
func (e *Engine) held(layer, ranks int) int {
	if places := e.places[layer]; places != nil {
		return len(places) / ranks
	}
	return e.shape.MoE[layer].Gate.Experts / ranks
}

// refusePlacement marks a placement that cannot be used; a file that cannot be read stays what it is.
func refusePlacement(err error) error {
	if errors.Is(err, shard.ErrPlacement) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
