package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/shard"
)

// placeExperts reads the file of --expert-placement and holds it against model and layout: the experts of each MoE layer,
// those of the first rank of an ep group first. It moves work from rank to rank, and changes no bit.
func (e *Engine) placeExperts() error {
	if e.job.ExpertPlacement == "" {
		return nil
	}
	p, err := shard.ReadPlacement(e.job.ExpertPlacement)
	if err != nil {
		return refusePlacement(err)
	}
	e.placement = map[int][]int{}
	for layer, m := range e.shape.MoE {
		experts := m.Gate.Experts
		i := slices.IndexFunc(e.layout.Experts, func(x comm.ExpertRanks) bool { return x.Experts == experts })
		if i < 0 {
			continue // a dense layer
		}
		ranks, err := p.Layer(layer, experts, e.layout.Experts[i].EP)
		if err != nil {
			return refusePlacement(fmt.Errorf("%s: %w", e.job.ExpertPlacement, err))
		}
		placed := slices.Concat(ranks...)
		if len(placed) != experts {
			return fmt.Errorf("%w: %s: layer %d holds %d copies of %d experts; replicas are not run yet: make it with dsbatch plan --placement, without --replicas",
				ErrRefused, e.job.ExpertPlacement, layer, len(placed), experts)
		}
		e.placement[layer] = placed
	}
	return nil
}

// refusePlacement marks a placement that cannot be used; a file that cannot be read stays what it is.
func refusePlacement(err error) error {
	if errors.Is(err, shard.ErrPlacement) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
