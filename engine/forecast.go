package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
)

// Forecast is what a job would be on so many ranks.
type Forecast struct {
	Layout *comm.Layout
	Config model.Config
	DType  kernels.DType
	Window int
	Block  []string // what was understood of a block that no policy is for, a line each; nil: the family is known
	Ranks  []RankForecast
}

// RankForecast is the memory of one rank, in bytes, and the size of its steps.
type RankForecast struct {
	Weights, Workspace, Exchange, KV int64
	Room                             int64 // that the rank may take in all
	TokenKV                          int64 // of one token, in KV
	Tokens, Seqs                     int   // most of a step
}

// Foresee lays a job out over ranks with so much memory each, without reading a weight, by the code that Run would go
// through: what Run would refuse is refused. A GPU need not be there: gpu has the memory planned as on one.
func Foresee(ctx context.Context, job *config.Job, ranks int, memory int64, gpu bool) (*Forecast, error) {
	asked := *job
	asked.Device, asked.Output = "cpu", "" // what is at the output does not matter
	f := &Forecast{Ranks: make([]RankForecast, ranks)}
	wrap := func(d kernels.Device) kernels.Device {
		return planned{Device: d, memory: memory * int64(ranks), gpu: gpu} // all ranks of this process share it
	}
	var first *Engine
	inspect := sync.OnceValue(func() error { return first.inspect() })
	var mu sync.Mutex
	err := mpi.Run(ranks, func(w mpi.World) error {
		mu.Lock()
		if first == nil {
			first = &Engine{job: &asked, world: w, wrap: wrap}
		}
		mu.Unlock()
		if err := inspect(); err != nil {
			return err
		}
		e := *first // the checkpoint is looked at once, for all
		e.world = w
		defer func() {
			e.checkpoint = nil // first's to close
			_ = e.Close()
		}()
		if err := e.lay(ctx, e.unmeasured); err != nil {
			return err
		}
		if w.Rank() == 0 {
			f.Layout, f.Config, f.DType, f.Window = e.layout, e.shape, e.dtype, e.window
			if e.injected != nil {
				f.Block = e.injected.Understood
			}
		}
		var err error
		f.Ranks[w.Rank()], err = e.forecast()
		return err
	})
	if refused := inspect(); refused != nil { // by every rank alike
		err = refused
	}
	if err = errors.Join(err, first.Close()); err != nil {
		return nil, err
	}
	return f, nil
}

// unmeasured is the way of rows where no GPUs meet and nothing is measured: one node, of which nothing is known.
func (e *Engine) unmeasured(context.Context) (o comm.AllToAllOptions, err error) {
	if o.Algorithm, err = comm.ParseAlgorithm(e.job.AllToAll); err != nil {
		return o, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	o.Nodes, err = comm.FakeNodes(e.world.Size(), 1)
	return o, err
}

// forecast is what survey has found.
func (e *Engine) forecast() (RankForecast, error) {
	z, err := e.plan()
	if err != nil {
		return RankForecast{}, err
	}
	arriving := 0
	if !e.place.first() {
		arriving = e.shape.Hidden * e.device.Activations(e.dtype).Size()
	}
	return RankForecast{
		Weights: e.model.Bytes(), Workspace: e.model.WorkspaceBytes(z.tokens) + z.bytes(&e.shape, arriving), Exchange: e.exchangeBytes(z.tokens),
		KV: e.model.CacheSpec(z.blocks, blockTokens).Bytes(), TokenKV: e.model.CacheSpec(1, 1).Bytes(), Room: e.room, Tokens: z.tokens, Seqs: z.seqs,
	}, nil
}

// planned is a device whose memory is another's.
type planned struct {
	kernels.Device
	memory int64
	gpu    bool
}

func (d planned) Memory() (free, total int64) { return d.memory, d.memory }

func (d planned) Name() string { return "a planned " + d.Arch() }

func (d planned) Arch() string {
	if d.gpu {
		return "cuda/planned"
	}
	return d.Device.Arch()
}

// Activations on a GPU are of the weights' own type, and of 16 bits for int8.
func (d planned) Activations(w kernels.DType) kernels.DType {
	switch {
	case !d.gpu:
		return d.Device.Activations(w)
	case w == kernels.I8:
		return kernels.BF16
	}
	return w
}
