// Package engine turns rows into results: it loads a model over a world of ranks, keeps many rows in flight over a
// paged KV cache, and runs generation and scoring, for callers in Go (InitInference) and for whole data sets (Run).
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
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/mpi"
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
	traffic    []comm.AllToAll
	device     kernels.Device
	wrap       func(kernels.Device) kernels.Device // tests only
	model      *model.Model
	tokenizer  *tokenizer.Tokenizer // nil: ids in, ids out
	eos        []int32
	window     int // most tokens of a row, output included
	minOut     int
	sharers    int // ranks that share the memory of this one's device
	checkpoint *ckpt.Checkpoint
	policy     model.Policy
	shape      model.Config
	dtype      kernels.DType
	identity   identity

	steps     *stepper
	scheduler *scheduler
	observer  Observer
}

// identity is what a job's fingerprint says of the model and where it runs.
type identity struct {
	model, tokenizer string // digests
	dtype, arch      string
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

// Open is prepare, which refuses what cannot work, and then load, which reads the weights.
func (e *Engine) open(ctx context.Context) error {
	if err := e.prepare(ctx); err != nil {
		return err
	}
	return e.load(ctx)
}

func (e *Engine) load(ctx context.Context) error {
	size, err := e.loadWeights(ctx)
	if err != nil {
		return err
	}
	if e.steps, err = newStepper(e.model, size); err != nil {
		return err
	}
	e.scheduler = newScheduler(size.blocks, size.tokens, size.seqs)
	return nil
}

// openDevice is this rank's device: the GPU of its place among the ranks of its host, or its share of the host's
// cores. Without --device it is a GPU where one is found.
func (e *Engine) openDevice(ctx context.Context) (kernels.Device, error) {
	node, err := e.world.Node(ctx)
	if err != nil {
		return nil, err
	}
	rank := node.Rank()
	ranks := node.Size()
	cores, err := coreShare(ctx, node)
	if err := errors.Join(err, node.Close()); err != nil {
		return nil, err
	}
	gpus, err := cuda.Count()
	if e.job.Device == "cuda" || e.job.Device == "auto" && err == nil && gpus > 0 {
		e.sharers = max(1, ranks/max(gpus, 1))
		return e.openGPU(rank, gpus, err)
	}
	e.sharers = ranks
	threads := e.job.Threads
	if threads == 0 {
		threads = cores
	}
	options := cpu.Options{Threads: threads}
	if e.job.Reference || !e.job.Inference.Fused() {
		options.Level = "reference"
	}
	return cpu.New(options)
}

// openGPU takes the rank's own GPU of those that this process sees.
func (e *Engine) openGPU(rank, gpus int, err error) (kernels.Device, error) {
	if err == nil && gpus == 0 {
		err = errors.New("no GPU is visible; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: --device cuda: %w; use --device cpu, or see dsbatch doctor", ErrRefused, err)
	}
	if e.job.Reference || !e.job.Inference.Fused() {
		return nil, fmt.Errorf("%w: plain operations run on the CPU only; use --device cpu with --reference or kernel_inject false", ErrRefused)
	}
	graphs := e.job.Inference.CUDAGraph
	return cuda.New(cuda.Options{Ordinal: rank % gpus, NoGraphs: graphs != nil && !*graphs})
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

// Close gives everything back that the engine holds.
func (e *Engine) Close() error {
	var errs []error
	if e.steps != nil {
		e.steps.close()
	}
	if e.model != nil {
		e.model.Close()
	}
	if e.groups != nil {
		errs = append(errs, e.groups.Close())
	}
	if e.device != nil {
		errs = append(errs, e.device.Close())
	}
	if e.checkpoint != nil {
		errs = append(errs, e.checkpoint.Close())
	}
	e.steps, e.model, e.groups, e.device, e.checkpoint = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
