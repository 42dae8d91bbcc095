package comm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

// WatchOptions of Watch.
type WatchOptions struct {
	// Timeout is how long a rank may be silent, or work on one thing, before the job is ended; 0: a minute.
	Timeout time.Duration
	// Abort ends the job; nil: the world's Abort with code 1. The reason names rank, host and phase.
	Abort func(code int, reason string)
}

// Watcher knows what this rank does, tells its successor of it, and listens to its predecessor. It ends the job when
//
//   - the predecessor isn't heard of: its process was stopped, or its host can't be reached;
//   - this rank itself works without Progress: it is stuck in a read, a write or a loop;
//   - all ranks wait for each other: they don't agree about what comes next.
//
// A rank that waits for others in a call of World isn't stuck. A rank that dies ends the job without a watcher: under MPI
// through the launcher, in-process through mpi.Run.
type Watcher struct {
	world   *watchedWorld
	line    mpi.World // for beats, around the ring
	options WatchOptions
	before  string // the predecessor and its host
	quit    chan struct{}
	done    sync.WaitGroup

	mu       sync.Mutex
	phase    string
	progress time.Time // of the last Phase, Progress or return from a wait
	waits    int       // calls of World under way
	waitsFor string
	busy     time.Time // when any rank was last known to work
	ending   bool      // this rank or one before it has closed its watcher, so that busy isn't known any more
	closed   bool
}

// beat is what a rank tells its successor.
type beat struct {
	bye     bool // the last one
	ending  bool
	waiting bool
	silent  time.Duration // since the last progress
	idle    time.Duration // since any rank was last known to work
	phase   string
}

// beatBytes is the size of a message, and of a host's name.
const beatBytes = 96

// Watch starts to watch. All ranks of w call it, with the same options; from then on each uses World instead of w.
func Watch(ctx context.Context, w mpi.World, o WatchOptions) (*Watcher, error) {
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.Abort == nil {
		o.Abort = w.Abort
	}
	line, err := w.Split(ctx, 0, w.Rank())
	if err != nil {
		return nil, err
	}
	host, hosts := make([]byte, beatBytes), make([]byte, beatBytes*w.Size())
	copy(host, w.Host())
	if err := line.AllGather(ctx, host, hosts); err != nil {
		return nil, err
	}
	now := time.Now()
	x := &Watcher{line: line, options: o, quit: make(chan struct{}), phase: "start", progress: now, busy: now}
	last := (w.Rank() + w.Size() - 1) % w.Size()
	x.before = fmt.Sprintf("rank %d (%s)", last, bytes.TrimRight(hosts[last*beatBytes:(last+1)*beatBytes], "\x00"))
	x.world = &watchedWorld{World: w, watcher: x}
	x.done.Go(x.watchMyself)
	if w.Size() > 1 {
		x.done.Go(x.speak)
		x.done.Go(x.listen)
	}
	return x, nil
}

// World returns the watched world: it and its splits tell the watcher when this rank waits for others. Its Close closes
// the watcher too.
func (x *Watcher) World() mpi.World { return x.world }

// Phase says what this rank does from now on, in a word or two: "load", "prefill", "commit".
func (x *Watcher) Phase(name string) {
	x.mu.Lock()
	x.phase, x.progress = name, time.Now()
	x.mu.Unlock()
}

// Progress says that this rank has got on with its phase. Phases that may outlast the timeout (loading, compiling) call
// it.
func (x *Watcher) Progress() {
	x.mu.Lock()
	x.progress = time.Now()
	x.mu.Unlock()
}

// Close ends the watch of this rank, when all its work is done. A rank that has failed calls Abort as well: the others
// don't end the job for it any more.
func (x *Watcher) Close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.closed {
		x.closed, x.ending = true, true
		close(x.quit)
	}
}

// Leave ends the watch where all ranks end their work together: it waits for the predecessor's last beat, which the
// world must be alive for, so that the world can be closed afterwards.
func (x *Watcher) Leave() error {
	x.Close()
	x.done.Wait()
	return x.line.Close()
}

func (x *Watcher) enter(op string) {
	x.mu.Lock()
	x.waits++
	x.waitsFor = op
	x.mu.Unlock()
}

func (x *Watcher) leave() {
	x.mu.Lock()
	x.waits--
	x.progress = time.Now()
	x.mu.Unlock()
}

// period is the time from one beat to the next.
func (x *Watcher) period() time.Duration { return min(x.options.Timeout/5, 2*time.Second) }

// now returns this rank's beat and what it waits for.
func (x *Watcher) now() (b beat, waitsFor string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := time.Now()
	if x.waits == 0 {
		x.busy = t
	}
	return beat{bye: x.closed, ending: x.ending, waiting: x.waits > 0, silent: t.Sub(x.progress), idle: t.Sub(x.busy), phase: x.phase}, x.waitsFor
}

// watchMyself ends the job when this rank is stuck, or when all wait.
func (x *Watcher) watchMyself() {
	tick := time.NewTicker(x.period())
	defer tick.Stop()
	// how long news of a busy rank may take around the ring
	lag := time.Duration(x.world.Size()) * 2 * x.period()
	for {
		select {
		case <-x.quit:
			return
		case <-tick.C:
		}
		b, waitsFor := x.now()
		switch {
		case !b.waiting && b.silent > x.options.Timeout:
			x.options.Abort(1, fmt.Sprintf("rank %d (%s) has made no progress in phase %q for %v",
				x.world.Rank(), x.world.Host(), b.phase, b.silent.Round(time.Millisecond)))
			return
		case b.waiting && !b.ending && b.idle > 2*x.options.Timeout+lag:
			x.options.Abort(1, fmt.Sprintf("rank %d (%s) waits in %s, phase %q, and all other ranks wait too, for %v: they disagree about what comes next",
				x.world.Rank(), x.world.Host(), waitsFor, b.phase, b.idle.Round(time.Millisecond)))
			return
		}
	}
}

// speak sends beats to the successor until the watch ends, and then the last one.
func (x *Watcher) speak() {
	next := (x.line.Rank() + 1) % x.line.Size()
	tick := time.NewTicker(x.period())
	defer tick.Stop()
	for {
		b, _ := x.now()
		if err := x.line.Send(context.Background(), next, 0, b.encode()); err != nil || b.bye {
			return // the world has ended, which its other calls tell
		}
		select {
		case <-x.quit:
		case <-tick.C:
		}
	}
}

// listen hears the predecessor's beats until its last.
func (x *Watcher) listen() {
	last := (x.line.Rank() + x.line.Size() - 1) % x.line.Size()
	heard, known := time.Now(), beat{phase: "start"}
	buffer := make([]byte, beatBytes)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), x.options.Timeout)
		err := x.line.Recv(ctx, last, 0, buffer)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, mpi.ErrEnded) {
			x.options.Abort(1, fmt.Sprintf("%s, last heard in phase %q, has been silent for %v: it was stopped, or its host cannot be reached",
				x.before, known.phase, time.Since(heard).Round(time.Millisecond)))
			return
		}
		if err != nil {
			return
		}
		heard = time.Now()
		known = decodeBeat(buffer)
		x.mu.Lock()
		x.ending = x.ending || known.ending
		if busy := heard.Add(-known.idle); busy.After(x.busy) {
			x.busy = busy
		}
		x.mu.Unlock()
		if known.bye {
			return
		}
	}
}

func (b beat) encode() []byte {
	out := make([]byte, beatBytes)
	if b.bye {
		out[0] |= 1
	}
	if b.ending {
		out[0] |= 2
	}
	if b.waiting {
		out[0] |= 4
	}
	binary.LittleEndian.PutUint64(out[8:], uint64(b.silent))
	binary.LittleEndian.PutUint64(out[16:], uint64(b.idle))
	out[1] = byte(copy(out[24:], b.phase))
	return out
}

func decodeBeat(in []byte) beat {
	return beat{
		bye: in[0]&1 != 0, ending: in[0]&2 != 0, waiting: in[0]&4 != 0,
		silent: time.Duration(binary.LittleEndian.Uint64(in[8:])),
		idle:   time.Duration(binary.LittleEndian.Uint64(in[16:])),
		phase:  string(in[24 : 24+min(int(in[1]), beatBytes-24)]),
	}
}

// watchedWorld tells the watcher of each call in which this rank waits for others.
type watchedWorld struct {
	mpi.World
	watcher *Watcher
}

func (w *watchedWorld) waits(op string, call func() error) error {
	w.watcher.enter(op)
	defer w.watcher.leave()
	return call()
}

func (w *watchedWorld) Barrier(ctx context.Context) error {
	return w.waits("barrier", func() error { return w.World.Barrier(ctx) })
}

func (w *watchedWorld) Bcast(ctx context.Context, root int, b []byte) error {
	return w.waits("broadcast", func() error { return w.World.Bcast(ctx, root, b) })
}

func (w *watchedWorld) AllGather(ctx context.Context, send, recv []byte) error {
	return w.waits("all-gather", func() error { return w.World.AllGather(ctx, send, recv) })
}

func (w *watchedWorld) AllGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	return w.waits("all-gather", func() error { return w.World.AllGatherV(ctx, send, recv, recvCounts) })
}

func (w *watchedWorld) AllReduceInt64(ctx context.Context, op mpi.Op, v []int64) error {
	return w.waits("all-reduce", func() error { return w.World.AllReduceInt64(ctx, op, v) })
}

func (w *watchedWorld) AllToAll(ctx context.Context, send, recv []byte) error {
	return w.waits("all-to-all", func() error { return w.World.AllToAll(ctx, send, recv) })
}

func (w *watchedWorld) AllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
	return w.waits("all-to-all", func() error { return w.World.AllToAllV(ctx, send, sendCounts, recv, recvCounts) })
}

func (w *watchedWorld) Send(ctx context.Context, to, tag int, b []byte) error {
	return w.waits("send", func() error { return w.World.Send(ctx, to, tag, b) })
}

func (w *watchedWorld) Recv(ctx context.Context, from, tag int, b []byte) error {
	return w.waits("receive", func() error { return w.World.Recv(ctx, from, tag, b) })
}

func (w *watchedWorld) Split(ctx context.Context, color, key int) (mpi.World, error) {
	return w.born("split", func() (mpi.World, error) { return w.World.Split(ctx, color, key) })
}

func (w *watchedWorld) Node(ctx context.Context) (mpi.World, error) {
	return w.born("split by node", func() (mpi.World, error) { return w.World.Node(ctx) })
}

func (w *watchedWorld) born(op string, call func() (mpi.World, error)) (child mpi.World, err error) {
	err = w.waits(op, func() (err error) { child, err = call(); return err })
	if err != nil || child == nil {
		return nil, err
	}
	return &watchedWorld{World: child, watcher: w.watcher}, nil
}

// Close of the first world waits for the predecessor's last beat, which the library must be alive for.
func (w *watchedWorld) Close() error {
	return w.waits("close", func() error {
		if w != w.watcher.world {
			return w.World.Close()
		}
		return errors.Join(w.watcher.Leave(), w.World.Close())
	})
}
