package cpu

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/dsbatch/dsbatch/kernels"
)

// pool shares out the tasks of one run after another among a fixed number of threads, the caller among them.
//
// A run is opened by a new epoch. Workers that are awake join it, those asleep are woken; a worker that comes after
// the last task was taken finds the run closed, so that nobody waits for a slow waker. Nothing is allocated a run.
type pool struct {
	threads int
	workers []*poolWorker

	mu    sync.Mutex // held for a run: runs of several goroutines queue up
	f     func(task int)
	n     int64
	next  atomic.Int64  // first task that nobody took
	state atomic.Uint64 // epoch<<32 | runOpen | runAwaited | workers inside the run
	done  chan struct{} // the last worker leaves an awaited run
	stop  atomic.Bool

	broken atomic.Pointer[kernels.Panic] // the run's first
}

type poolWorker struct {
	asleep atomic.Bool
	wake   chan struct{}
}

const (
	runOpen    = 1 << 31
	runAwaited = 1 << 30
	runInside  = runAwaited - 1
	runEpoch   = 32

	// A worker looks for the next run this many times before it sleeps, some 100 µs: longer than what one thread does
	// alone between two shared ops of a step, and than it takes to be woken. It yields to other goroutines in between.
	spinRounds = 250
	spinLooks  = 256
)

// newPool makes a pool of threads, of which all but one are goroutines of its own; 0: as many as Go may use. Close it.
func newPool(threads int) *pool {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	p := &pool{threads: threads, done: make(chan struct{}, 1)}
	for range p.threads - 1 {
		w := &poolWorker{wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		go p.work(w)
	}
	return p
}

// run calls f(0) … f(n-1), each once, in any order and on any thread, and returns when all have returned. Tasks are
// taken in ascending order, so a task may wait for one below it. f must not call run. A panic of f, on whatever thread,
// becomes the caller's, a *kernels.Panic, when no task runs any more; tasks that nobody has begun are then left out.
func (p *pool) run(n int, f func(task int)) {
	if n <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n == 1 || len(p.workers) == 0 {
		for i := range n {
			f(i)
		}
		return
	}
	p.f, p.n = f, int64(n)
	p.next.Store(0)
	p.state.Store((p.state.Load()>>runEpoch+1)<<runEpoch | runOpen)
	for _, w := range p.workers[:min(n-1, len(p.workers))] {
		if w.asleep.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	p.take()
	p.await()
	p.f = nil
	if broken := p.broken.Swap(nil); broken != nil {
		panic(broken)
	}
}

// take runs tasks until none is left, or one has panicked.
func (p *pool) take() {
	defer func() {
		if v := recover(); v != nil {
			p.broken.CompareAndSwap(nil, &kernels.Panic{Value: v, Stack: debug.Stack()})
			p.next.Store(p.n)
		}
	}()
	for i := p.next.Add(1) - 1; i < p.n; i = p.next.Add(1) - 1 {
		p.f(int(i))
	}
}

// await closes the run and waits for the workers inside it.
func (p *pool) await() {
	for s := p.state.And(^uint64(runOpen)); s&runInside != 0; s = p.state.Load() {
		for range spinRounds {
			for range spinLooks {
				if p.state.Load()&runInside == 0 {
					return
				}
			}
			runtime.Gosched()
		}
		s = p.state.Load()
		if s&runInside != 0 && p.state.CompareAndSwap(s, s|runAwaited) {
			<-p.done
			return
		}
	}
}

func (p *pool) work(w *poolWorker) {
	var seen uint64
	for {
		s := p.awaitRun(w, seen)
		if p.stop.Load() {
			return
		}
		if !p.state.CompareAndSwap(s, s+1) {
			continue
		}
		seen = s >> runEpoch
		p.take()
		if p.state.Add(^uint64(0))&(runOpen|runAwaited|runInside) == runAwaited {
			p.done <- struct{}{}
		}
	}
}

// awaitRun returns the state of an open run other than seen, or anything when the pool stops.
func (p *pool) awaitRun(w *poolWorker, seen uint64) uint64 {
	for {
		for range spinRounds {
			for range spinLooks {
				if s := p.state.Load(); s&runOpen != 0 && s>>runEpoch != seen {
					return s
				}
			}
			if p.stop.Load() {
				return 0
			}
			runtime.Gosched()
		}
		w.asleep.Store(true)
		if s := p.state.Load(); (p.stop.Load() || s&runOpen != 0 && s>>runEpoch != seen) && w.asleep.CompareAndSwap(true, false) {
			continue
		}
		<-w.wake
	}
}

// close ends the workers; no run may be under way.
func (p *pool) close() {
	p.stop.Store(true)
	for _, w := range p.workers {
		if w.asleep.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
}
