// Package engine turns rows into results: it loads a model over a world of ranks, keeps many rows in flight over a
// paged KV cache, and runs generation, scoring and readouts of texts, for callers in Go (InitInference) and for whole data sets (Run).
//
// A row is one record of the input, a sequence one text of it in flight (a sample, a window of a document), a step
// one forward pass over pieces of sequences, a block the KV of 16 tokens. All ranks step together, since they share
// experts; what they have to agree on travels in one small exchange a step.
package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/tokenizer"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/policies"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
)

// Errors that a caller tells apart with errors.Is.
var (
	// ErrRefused marks settings that cannot work here: a layout, too little memory, an unsupported combination.
	ErrRefused = errors.New("refused")
	// ErrStopped marks a job that ended early on request, with what was finished committed.
	ErrStopped = errors.New("stopped before the end")
)

// Engine is a loaded model on one rank, ready for work. Close gives its memory back.
type Engine struct {
	job        *config.Job
	world      mpi.World
	groups     *comm.Groups
	peers      map[*comm.Group]kernels.Peers  // of GPUs that have met; nil: rows go through the host
	windows    map[*comm.Group]kernels.Window // through which the GPUs' kernels send rows; nil ones until load opens them
	opened     []*comm.Group                  // whose GPUs were asked to put slices together themselves
	layout     *comm.Layout
	exchanges  map[int]*moe.Exchange // by the number of experts of the layers
	placement  map[int][][]int       // by layer, the experts of each rank of an ep group; nil: in order
	places     map[int][]shard.Place // by layer, the same as this rank's tokens see it
	device     kernels.Device
	foreseen   bool                                // by Foresee: this is not the host that the job runs on
	wrap       func(kernels.Device) kernels.Device // tests only
	processor  func() (processor, error)           // tests only
	connected  func(*Engine)                       // tests only
	model      *model.Model                        // until load, one without weights, which knows what it will take
	tokenizer  *tokenizer.Tokenizer                // nil: ids in, ids out
	chats      *chats                              // nil: rows are no chats
	eos        []int32
	mask       int32 // task fill-mask: the token that is filled in
	window     int   // most tokens of a row, output included
	minOut     int
	room       int64                      // bytes of the device's memory that this rank may take in all
	sharers    int                        // ranks that share that memory
	offloaded  int                        // layers of the rank whose weights wait in the host's memory
	inMemory   bool                       // the weights are, where they belong
	host       func() (free, total int64) // tests only
	checkpoint *ckpt.Checkpoint
	policy     model.Policy
	injected   *policies.Injected // where the policy was made for a model of no known family
	shape      model.Config
	dtype      kernels.DType
	identity   identity
	saving     *saving // nil: the model's slices are not to be saved, or not known yet

	place     *place
	size      stepSize
	steps     *stepper
	pipeline  *pipeline
	scheduler *scheduler // of what the lead's replica computes; others leave it empty
	observer  Observer
	stop      *Stop                // asks the load to end early; nil: nobody does
	loaded    func(layers, of int) // told of each part of the model that was read; nil: nobody is
	entered   func(section string) // told of each section of a step, "" its end; nil: nobody is
	compiling func(string) func()  // told of each file of kernels that is waited for, and then of its end; nil: nobody is
	start     Start
}

// identity is what a job's fingerprint says of the model and where it runs.
type identity struct {
	model, tokenizer, chat string // digests; chat "" where rows are no chats
	dtype, arch            string
}

// Open loads the model that a job names, as one rank of world; all ranks call it together. The world stays the
// caller's.
func Open(ctx context.Context, world mpi.World, job *config.Job) (*Engine, error) {
	e := &Engine{job: job, world: world}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// OpenCheckpoint is Open of a checkpoint that is open already, such as one in memory; the engine closes it. What the job
// calls its model names it in messages.
func OpenCheckpoint(ctx context.Context, world mpi.World, job *config.Job, c *ckpt.Checkpoint) (*Engine, error) {
	e := &Engine{job: job, world: world, checkpoint: c}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Open is prepare, which refuses what cannot work, and then load, which reads the weights.
func (e *Engine) open(ctx context.Context) error {
	if err := comm.Same(ctx, e.world, settings(e.job), startAlike); err != nil {
		return err
	}
	if err := e.prepare(ctx); err != nil {
		return err
	}
	return e.load(ctx)
}

// load reads this rank's weights and takes the rest of the memory that was planned. All ranks call it; an error of one is
// an error of all, and so is a stop.
func (e *Engine) load(ctx context.Context) error {
	defer since(&e.start.Load)()
	if err := e.save(ctx); err != nil {
		return err
	}
	var size stepSize
	err := interruptible(ctx, e.world, e.stop, func(ctx context.Context) (err error) {
		size, err = e.loadWeights(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if e.place.replica != nil { // the lead names blocks that every rank of the replica has
		blocks := []int64{int64(size.blocks)}
		if err := e.place.replica.AllReduceInt64(ctx, mpi.Min, blocks); err != nil {
			return err
		}
		size.blocks = int(blocks[0])
	}
	if e.steps, err = newStepper(e.model, size, e.place, e.eos); err == nil {
		e.size = size
		e.begin()
	}
	if err := together(ctx, e.world, err); err != nil {
		return err
	}
	return together(ctx, e.world, e.openWindows(ctx))
}

// begin has nothing in flight, and nothing in the cache.
func (e *Engine) begin() {
	e.pipeline = newPipeline(e.place, e.steps)
	e.scheduler = newScheduler(e.size.blocks, e.size.tokens, e.size.seqs, e.place.stages)
	if _, slow := e.steps.cache.(kernels.Warmer); slow {
		e.scheduler.pool.keeps = thriftyBlocks
	}
}

// loadWeights reads this rank's weights and plans the rest of its memory again. The checkpoint stays mapped: on a CPU the
// embedding is used where it lies in the file.
func (e *Engine) loadWeights(ctx context.Context) (stepSize, error) {
	loaded, err := model.Load(ctx, e.checkpoint, e.policy, e.shape, e.device, e.loadOptions())
	if err != nil {
		return stepSize{}, fmt.Errorf("%s: %w", e.job.Model, err)
	}
	e.model, e.inMemory = loaded, true
	onDevice, _ := loaded.Offloaded(e.offloaded, e.job.Inference.Offload.Buffers)
	free, _ := e.device.Memory() // padding and what the driver took have come on top
	e.room = min(e.room, free/int64(e.sharers)+onDevice)
	return e.plan()
}

// Window is the most tokens of a row, prompt and output together.
func (e *Engine) Window() int { return e.window }

// Config is the model's.
func (e *Engine) Config() model.Config { return e.model.Config }

// Device is what the model runs on.
func (e *Engine) Device() kernels.Device { return e.device }

// DType is the type of the weights.
func (e *Engine) DType() kernels.DType { return e.dtype }

// Memory is the bytes of the weights and of the KV cache.
func (e *Engine) Memory() (weights, kv int64) { return e.model.Bytes(), e.steps.cache.Spec().Bytes() }

// Brought is what came to the device so far of weights that wait in the host's memory (--offload), and how fast it can.
func (e *Engine) Brought() kernels.RingTraffic { return e.model.Brought() }

// Close gives everything back that the engine holds.
func (e *Engine) Close() error {
	var errs []error
	if e.steps != nil {
		e.steps.close()
	}
	if e.model != nil {
		e.model.Close()
	}
	for _, w := range e.windows {
		if w != nil {
			errs = append(errs, w.Close())
		}
	}
	e.windows = nil
	for _, p := range e.peers {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	e.peers = nil
	errs = append(errs, e.closeTeams()...)
	errs = append(errs, e.place.close())
	if e.groups != nil {
		errs = append(errs, e.groups.Close())
	}
	if e.device != nil {
		errs = append(errs, e.device.Close())
	}
	if e.checkpoint != nil {
		errs = append(errs, e.checkpoint.Close())
	}
	e.steps, e.model, e.place, e.groups, e.device, e.checkpoint = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
