package engine

import (
	"context"
	"log/slog"
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// boardRoom is how many bytes of partial results a GPU writes for another at a time.
const boardRoom = 8 << 20

// teams are the groups of ranks that hold slices of the same: of tensors, and of experts.
func (e *Engine) teams() (groups []*comm.Group) {
	groups = append(groups, e.groups.TP)
	for i := range e.groups.Experts {
		groups = append(groups, e.groups.Experts[i].Share, e.groups.Experts[i].ES)
	}
	return slices.DeleteFunc(groups, func(g *comm.Group) bool { return g.Size() == 1 })
}

// openTeams has the GPUs of ranks that hold slices of the same put these together among themselves. Where they cannot, slices go
// through the hosts. All ranks call it.
func (e *Engine) openTeams(ctx context.Context) error {
	if !e.onGPU() {
		return nil
	}
	known := map[*comm.Group]bool{}
	for _, g := range e.teams() {
		if known[g] {
			continue
		}
		known[g] = true
		if i := slices.IndexFunc(e.opened, func(o *comm.Group) bool { return slices.Equal(o.Ranks, g.Ranks) }); i >= 0 {
			g.Team = e.opened[i].Team // as far as a GPU knows they are one
			continue
		}
		spec := e.boardSpec(g)
		team, why, err := comm.OpenTeam(ctx, g, e.device, spec)
		if err != nil {
			return err
		}
		g.Team, e.opened = team, append(e.opened, g)
		if why == "" {
			e.room -= spec.Bytes()
		}
		if g.Rank() != 0 {
			continue
		}
		switch {
		case why == "":
			slog.Info("the GPUs' own kernels put slices together; no host waits for them", "ranks", g.Ranks)
		case team != nil:
			slog.Info("the GPUs' kernels cannot write each other's memory, so NCCL puts slices together, outside of graphs", "ranks", g.Ranks, "because", why)
		default:
			slog.Info("slices are put together through the hosts", "ranks", g.Ranks, "because", why)
		}
	}
	return nil
}

func (e *Engine) boardSpec(g *comm.Group) kernels.BoardSpec {
	return kernels.BoardSpec{Ranks: g.Size(), Room: boardRoom, DType: e.device.Activations(e.dtype), Patience: e.patience()}
}

// foreseeTeams takes the memory of boards off what a rank may take. Those of a node are taken to reach each other.
func (e *Engine) foreseeTeams(nodes comm.Nodes) {
	var of [][]int
	for _, g := range e.teams() {
		elsewhere := func(rank int) bool { return nodes.Of(rank) != nodes.Of(g.Ranks[0]) }
		known := slices.ContainsFunc(of, func(ranks []int) bool { return slices.Equal(ranks, g.Ranks) })
		if !known && !slices.ContainsFunc(g.Ranks, elsewhere) {
			of = append(of, g.Ranks)
			e.room -= e.boardSpec(g).Bytes()
		}
	}
}

// closeTeams gives the boards back.
func (e *Engine) closeTeams() (errs []error) {
	for _, g := range e.opened {
		if g.Team != nil {
			errs = append(errs, g.Team.Close())
		}
	}
	e.opened = nil
	return errs
}
