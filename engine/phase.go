package engine

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// The phases of a rank, as its watcher, its phase file and onlookers are told of them. Inside a step the rank is in
// prefill or decode, and in dispatch and combine where rows travel to experts and back; reading and committing go on
// beside the steps.
const (
	phasePrepare  = "prepare"  // device, checkpoint, data set and output are opened
	phaseLoad     = "load"     // weights are read and packed
	phaseCompile  = "compile"  // kernels, where a device compiles them at their first use
	phaseStep     = "step"     // between steps, or in one without rows of its own
	phasePrefill  = "prefill"  // a step with prompt tokens
	phaseDecode   = "decode"   // a step without
	phaseDispatch = "dispatch" // rows go to their experts
	phaseCombine  = "combine"  // and come back
	phaseRead     = "read"     // a chunk's rows
	phaseCommit   = "commit"   // a chunk's part; at the end: all that are left
	phaseFinish   = "finish"   // bad rows, _SUCCESS
)

// stage is a phase that onlookers and the phase file are told of at once.
func (r *run) stage(name string) {
	if name != "" {
		r.enter(name)
	}
	if name == phasePrepare || name == phaseLoad || name == phaseFinish {
		r.watcher.Main().Follow(effort())
	}
	r.staged = name
	r.show(name)
}

// show tells onlookers and the phase file what the rank is at.
func (r *run) show(stage string) {
	if r.options.Stage != nil && r.world.Rank() == 0 {
		r.options.Stage(stage)
	}
	r.diary.Load().turn()
}

// compiling is told that a file of kernels is compiled, in the middle of whatever needs it, and returns what its end is
// told to. Each file is progress, and within one what the compiler uses of the processor.
func (r *run) compiling(file string) (done func()) {
	main := r.watcher.Main()
	r.compiled++
	back := main.Within(phaseCompile, file+", kernel file", r.compiled, 0)
	main.Follow(effort())
	r.show(phaseCompile + " " + file)
	r.entered(phaseCompile)
	return func() {
		back()
		r.show(r.staged)
	}
}

// enter is called where the rank's main line of work enters a phase.
func (r *run) enter(phase string) {
	main := r.watcher.Main()
	if r.layer > 0 {
		main.Enter(phase, "layer", r.layer, r.engine.shape.Layers)
	} else {
		main.Phase(phase)
	}
	r.entered(phase)
}

func (r *run) entered(phase string) {
	if r.options.Phase != nil {
		r.options.Phase(r.world.Rank(), phase)
	}
}

// loaded is told how far the load is.
func (r *run) loaded(layers, of int) { r.watcher.Main().At("layer", layers, of) }

// beginStep names the step that comes.
func (r *run) beginStep(b *batch) {
	r.kind, r.layer = phaseStep, 0
	switch {
	case b.prompts:
		r.kind = phasePrefill
	case b.tokens() > 0:
		r.kind = phaseDecode
	}
	r.enter(r.kind)
}

// section is told of each section of a step. On a CPU, whose steps may be long, each is progress.
func (r *run) section(name string) {
	phase := r.kind
	switch name {
	case "": // the step is over
		r.layer, phase = 0, phaseStep
	case model.Attention:
		first, _ := r.engine.model.Layers()
		r.layer = max(r.layer, first) + 1
	case moe.Dispatch:
		phase = phaseDispatch
	case moe.Combine:
		phase = phaseCombine
	}
	r.enter(phase)
}

// beside runs work beside the steps, on a chunk, as a task of its own; a panic becomes its error.
type beside func(phase string, chunk int, work func(*comm.Task) error) error

func (r *run) beside(phase string, chunk int, work func(*comm.Task) error) error {
	task := r.watcher.Begin(phase)
	defer task.Done()
	if phase == phaseCommit {
		defer r.watcher.Main().Progress() // which may wait for it
	}
	task.At("chunk", chunk, 0)
	return r.guard(task.State, func() error {
		r.entered(phase)
		return work(task)
	})
}

// panicError is a panic of this rank, made an error so that the rank can name itself before it ends.
type panicError struct {
	rank  int
	host  string
	where string
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("%s\n%s", e.short(), e.stack) }

// short is all but the stack.
func (e *panicError) short() string {
	return fmt.Sprintf("rank %d (%s) broke %s: panic: %v", e.rank, e.host, e.where, e.value)
}

// guard makes an error of a panic in work, which is at where then.
func (r *run) guard(where func() comm.TaskState, work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			stack := debug.Stack()
			if other, ok := p.(*kernels.Panic); ok {
				p, stack = other.Value, append(append(other.Stack, "\nwhich worked for "...), stack...)
			}
			err = &panicError{r.world.Rank(), r.world.Host(), activity(where()).String(), p, stack}
		}
	}()
	return work()
}

// panicked returns the panic of this rank that err is about; nil where there is none, or it was another's.
func panicked(err error) *panicError {
	var p *panicError
	if errors.Is(err, mpi.ErrEnded) || !errors.As(err, &p) {
		return nil
	}
	return p
}
