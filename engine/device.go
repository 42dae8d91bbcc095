package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// processor is what a rank's CPU can do.
type processor struct {
	best cpu.Level   // what it computes with when it is alone
	can  []cpu.Level // what it could compute with
}

// ownProcessor is this rank's.
func (e *Engine) ownProcessor() (processor, error) {
	if e.job.Reference || !e.job.Inference.Fused() {
		return processor{cpu.Reference, []cpu.Level{cpu.Reference}}, nil
	}
	if e.processor != nil {
		return e.processor()
	}
	best, err := cpu.Best()
	if err != nil {
		return processor{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if os.Getenv("DSBATCH_CPU") != "" { // forced
		return processor{best, []cpu.Level{best}}, nil
	}
	return processor{best, cpu.Levels()}, nil
}

// What the ranks tell each other of their devices, by place.
const (
	deviceFailed = iota
	deviceGPU    // 1: it has one
	deviceBest   // the instruction set that its CPU would take alone
	deviceCan    // those that it could take, a bit each
	deviceKept   // rank 0's: the one that the output was begun with; 0: none
	deviceVotes
)

// openDevice opens this rank's device: the GPU of its place among the ranks of its host, or its share of the host's
// cores. Without --device it is a GPU where one is found. CPUs of several kinds compute with the instruction set
// of the weakest, and an output that was begun with another goes on with that one: bits differ from one to the next.
func (e *Engine) openDevice(ctx context.Context) error {
	defer since(&e.start.Device)()
	rank, ranks, cores, err := e.seat(ctx)
	if err != nil {
		return err
	}
	gpus, gpuErr := cuda.Count()
	own, ownErr := e.ownProcessor()
	kept, keptErr := e.keptLevel()
	v, err := e.agreeDevice(ctx, gpuErr == nil && gpus > 0, own, kept, errors.Join(ownErr, keptErr))
	if err != nil {
		return err
	}
	if e.job.Device == "auto" && v.Min(deviceGPU) != v.Max(deviceGPU) {
		return fmt.Errorf("%w: some ranks find a GPU and others none; see dsbatch doctor there, or give --device cpu", ErrRefused)
	}
	e.sharers = ranks
	if e.job.Device == "cuda" || e.job.Device == "auto" && v.Min(deviceGPU) > 0 {
		e.sharers = max(1, ranks/max(gpus, 1))
		e.device, err = e.openGPU(rank, gpus, gpuErr)
	} else {
		var level cpu.Level
		if level, err = e.agreedLevel(v); err == nil {
			threads := e.job.Threads
			if threads == 0 {
				threads = cores
			}
			e.device, err = newCPU(cpu.Options{Threads: threads, Level: level.String()})
		}
	}
	if err == nil {
		if e.wrap != nil {
			e.device = e.wrap(e.device)
		}
		if c, ok := e.device.(kernels.CompilingDevice); ok {
			c.OnCompile(e.compile)
			c.Prepare(e.shape.Made(e.dtype, storedType(e.checkpoint)))
		}
		free, _ := e.device.Memory()
		e.room = free / int64(e.sharers)
	}
	return together(ctx, e.world, err)
}

// seat is this rank's place among the ranks of its host, how many these are, and its share of the host's cores. Imagined
// ranks are alone: there may be thousands of them, and their threads compute nothing.
func (e *Engine) seat(ctx context.Context) (rank, ranks, cores int, err error) {
	if e.foreseen {
		return 0, e.world.Size(), 1, nil
	}
	node, err := e.world.Node(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	cores, err = coreShare(ctx, node)
	return node.Rank(), node.Size(), cores, errors.Join(err, node.Close())
}

// newCPU is cpu.New, whose nil is none of the interface's.
func newCPU(o cpu.Options) (kernels.Device, error) {
	d, err := cpu.New(o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// agreeDevice tells the other ranks of this one's device and learns of theirs.
func (e *Engine) agreeDevice(ctx context.Context, gpu bool, own processor, kept cpu.Level, failed error) (comm.Votes, error) {
	var mine [deviceVotes]int64
	if gpu {
		mine[deviceGPU] = 1
	}
	if failed != nil {
		mine[deviceFailed] = 1
	}
	mine[deviceBest], mine[deviceKept] = int64(own.best), int64(kept)
	for _, l := range own.can {
		mine[deviceCan] |= 1 << l
	}
	v, err := comm.Agree(ctx, e.world, mine[:]...)
	if failed != nil {
		return v, failed
	}
	for r := range e.world.Size() {
		if err == nil && v.Of(r, deviceFailed) != 0 {
			err = comm.Failed(e.world, r)
		}
	}
	return v, err
}

// agreedLevel is the instruction set that all ranks compute with: the one that the output was begun with, else the
// least of those that each would take alone.
func (e *Engine) agreedLevel(v comm.Votes) (cpu.Level, error) {
	level := cpu.Level(v.Of(0, deviceKept))
	if level == cpu.Auto {
		level = cpu.Level(v.Min(deviceBest))
	}
	for r := range e.world.Size() {
		if v.Of(r, deviceCan)&(1<<level) != 0 {
			continue
		}
		best := cpu.Level(v.Of(r, deviceBest))
		if v.Of(0, deviceKept) == 0 {
			return 0, fmt.Errorf("%w: the ranks' CPUs have no instruction set in common: rank %d has %v, not %v; set DSBATCH_CPU to one that all have", ErrRefused, r, best, level)
		}
		return 0, fmt.Errorf("%w: %s was begun with the instruction set %v, and rank %d has %v only; its rows would differ in the last bits: go on where the CPUs have %v, or give another --output",
			ErrRefused, e.job.Output, level, r, best, level)
	}
	return level, nil
}

// archPrefix is what the Arch of a CPU begins with, before its instruction set.
const archPrefix = "cpu/"

// keptLevel is the instruction set that the job's output was begun with; Auto: none was, or on another back end.
func (e *Engine) keptLevel() (cpu.Level, error) {
	if e.job.Output == "" || e.world.Rank() != 0 || e.foreseen {
		return cpu.Auto, nil
	}
	was, err := results.Peek(e.job.Output)
	if errors.Is(err, fs.ErrNotExist) {
		return cpu.Auto, nil
	} else if err != nil {
		return cpu.Auto, err
	}
	arch, _ := was.Fingerprint.Get(archSetting).(string)
	name, onCPU := strings.CutPrefix(arch, archPrefix)
	level, err := cpu.ParseLevel(name)
	if !onCPU || err != nil { // another back end, or another version's: the fingerprint tells
		return cpu.Auto, nil
	}
	return level, nil
}

// openGPU takes the rank's own GPU of those that this process sees.
func (e *Engine) openGPU(rank, gpus int, err error) (kernels.Device, error) {
	if err == nil && gpus == 0 {
		err = errors.New("no GPU is visible; look at nvidia-smi and CUDA_VISIBLE_DEVICES")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: --device cuda: %w; use --device cpu, or see dsbatch doctor", ErrRefused, err)
	}
	if err := e.fusedOnGPU(); err != nil {
		return nil, err
	}
	graphs := e.job.Inference.CUDAGraph
	d, err := cuda.New(cuda.Options{Ordinal: rank % gpus, NoGraphs: graphs != nil && !*graphs})
	if err != nil { // d, as a Device, is not nil
		return nil, err
	}
	return d, nil
}

// fusedOnGPU refuses plain operations there.
func (e *Engine) fusedOnGPU() error {
	if e.job.Reference || !e.job.Inference.Fused() {
		return fmt.Errorf("%w: plain operations run on the CPU only; use --device cpu with --reference or kernel_inject false", ErrRefused)
	}
	return nil
}
