package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/shard"
)

// wayOfRows is how rows of experts travel: as the job says, over the nodes that are there, by what they were measured to
// cost, from GPU to GPU where these can meet. All ranks call it.
func (e *Engine) wayOfRows(ctx context.Context) (o comm.AllToAllOptions, err error) {
	if o.Algorithm, err = comm.ParseAlgorithm(e.job.AllToAll); err != nil {
		return o, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if e.job.FakeNodes > 0 {
		if o.Nodes, err = comm.FakeNodes(e.world.Size(), e.job.FakeNodes); err != nil {
			return o, fmt.Errorf("%w: --fake-nodes: %w", ErrRefused, err)
		}
	} else if o.Nodes, err = comm.FindNodes(ctx, e.world); err != nil {
		return o, err
	}
	if o.Algorithm == comm.Auto && len(e.layout.Experts) > 0 {
		if o.Network, err = comm.Measure(ctx, e.world, o.Nodes); err != nil {
			return o, err
		}
	}
	if err := e.openTeams(ctx); err != nil {
		return o, err
	}
	return o, e.meet(ctx, o.Algorithm)
}

// meet brings the GPUs of the ranks that share experts together, so that rows go from one to the other: by their kernels, else
// by NCCL. Where they cannot meet, or the job asks for another all-to-all than the flat one, rows go through the host.
func (e *Engine) meet(ctx context.Context, how comm.Algorithm) error {
	if !e.onGPU() || how != comm.Auto && how != comm.Flat {
		return nil
	}
	if err := e.reach(ctx); err != nil {
		return err
	}
	return e.meetByNCCL(ctx)
}

// meetByNCCL is for the groups whose rows do not go through windows.
func (e *Engine) meetByNCCL(ctx context.Context) error {
	e.peers = map[*comm.Group]kernels.Peers{}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		if _, met := e.peers[x.EP]; met || x.EP.Size() == 1 || e.windowed(x) {
			continue
		}
		p, why, err := comm.Meet(ctx, x.EP, e.device)
		if err != nil {
			return err
		}
		if p == nil && x.EP.Rank() == 0 {
			slog.Info("rows of experts go through the host", "because", why)
		}
		e.peers[x.EP] = p
	}
	return nil
}

// connect makes the exchanges of the layers whose experts are spread over ranks or sliced, or whose tokens tp peers can
// divide among each other.
func (e *Engine) connect(o comm.AllToAllOptions) error {
	e.exchanges = map[int]*moe.Exchange{}
	e.places = map[int][]shard.Place{}
	for i := range e.groups.Experts {
		g := &e.groups.Experts[i]
		o.Bytes = typicalTokens * e.shape.Hidden * e.device.Activations(e.dtype).Size()
		way, p := o, e.peers[g.EP]
		if p != nil && !e.suitsDevices(g) {
			p = nil
		}
		onDevices := p != nil || e.windowed(g)
		if onDevices {
			way.Algorithm = comm.Flat
		}
		rows, split, err := g.AllToAll(way)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if onDevices && e.groups.TP.Size() > 1 && o.Algorithm == comm.Auto {
			split = e.groups.TP // each of the tp peers sends its share of the tokens, wherever their experts are
		}
		if p != nil {
			rows = comm.NewDeviceAllToAll(g.EP, p)
		}
		e.divideCopies(i, rows, o.Nodes)
		if g.EP.Size() > 1 || g.ES.Size() > 1 || split != nil {
			e.exchanges[g.Experts] = &moe.Exchange{Rank: g.EP.Rank(), Ranks: g.EP.Size(), Rows: rows, Slice: g.ES, Split: split}
			if !e.onGPU() && !comm.Together(rows) {
				e.exchanges[g.Experts].Apart = apartRows
			}
		}
	}
	return nil
}

// suitsDevices tells whether rows of a group's experts can go from GPU to GPU. Where tp peers are in the group each sends its share
// of their tokens, so none where who is dropped depends on all tokens.
func (e *Engine) suitsDevices(x *comm.ExpertGroups) bool {
	return x.EP.Size() > 1 && (x.Gather.Size() == 1 || !e.job.DropTokens)
}

// apartRows is how many own rows an expert has at least where a CPU computes them apart from those of other ranks: with
// fewer, reading its weights again takes longer than what is waited for less.
const apartRows = 16

// typicalTokens is how many choices a rank's tokens make in the step by which --all-to-all auto is chosen.
const typicalTokens = 256

// exchange is how the experts of the layers with so many are spread over the ranks; nil: all are here.
func (e *Engine) exchange(experts int) (*moe.Exchange, error) { return e.exchanges[experts], nil }
