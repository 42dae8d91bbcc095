package comm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

// WatchOptions of Watch.
type WatchOptions struct {
	// Timeout bounds how long a job outlives a rank that has fallen silent or is stuck; 0: a minute. A rank counts as
	// such after 3/4 of it, which leaves time to end the job.
	Timeout time.Duration
	// Cores are those of its host that this rank may run on, nil: not known. Where more than crowd ranks share a core, each
	// gets its turn so late that the Timeout grows in proportion.
	Cores []int
	// Advice ends the reason with what to do next; "": nothing is added.
	Advice string
	// Abort ends the job; nil: the world's Abort with code 1. The reason names rank, host and phase.
	Abort func(code int, reason string)
}

// arrivals is the least time that ranks have to come to the start of the watch: they read the job beforehand.
const arrivals = 20 * time.Second

// Watcher knows what this rank does, tells its successor of it, and listens to its predecessor. It ends the job when
//
//   - the predecessor isn't heard of: its process was stopped, or its host can't be reached;
//   - a task of this rank makes no progress: it is stuck in a read, a write or a loop;
//   - all ranks wait for each other: they don't agree about what comes next.
//
// A rank that waits for others in a call of World isn't stuck. A rank that dies ends the job without a watcher: under MPI
// through the launcher, in-process through mpi.Run.
type Watcher struct {
	world   *watchedWorld
	line    mpi.World // for beats, around the ring
	options WatchOptions
	hosts   []string // of the ranks
	sharers float64  // ranks that share a core, on the host where they are most
	quit    chan struct{}
	done    sync.WaitGroup

	mu     sync.Mutex
	main   Task               // what the rank does; a return from a wait is progress
	beside map[*Task]struct{} // what goes on beside it
	waits  int                // calls of World under way
	op     string             // the last of them
	heard  TaskState          // the main task of the predecessor, as its last beat told
	busy   time.Time          // when any rank was last known to work
	looked time.Time          // at the clock, at least once a period
	woke   time.Time          // when a look came far too late; zero: never
	ending bool               // this rank or one before it has closed its watcher, so that busy isn't known any more
	closed bool
}

// Watch starts to watch. All ranks of w call it, with the same options and about at the same time; from then on each
// uses World instead of w.
func Watch(ctx context.Context, w mpi.World, o WatchOptions) (*Watcher, error) {
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.Abort == nil {
		o.Abort = w.Abort
	}
	arrive := max(o.Timeout, arrivals)
	late := time.AfterFunc(arrive, func() { // nobody is watched yet
		reason := fmt.Sprintf("rank %d (%s) has waited %v for the other ranks at the start: one is stuck, was stopped, or its host "+
			"cannot be reached", w.Rank(), w.Host(), arrive)
		if o.Advice != "" {
			reason += "; " + o.Advice
		}
		o.Abort(1, reason)
	})
	defer late.Stop()
	line, err := w.Split(ctx, 0, w.Rank())
	if err != nil {
		return nil, err
	}
	mine, all := seat(w.Host(), o.Cores), make([]byte, seatBytes*w.Size())
	if err := line.AllGather(ctx, mine, all); err != nil {
		return nil, err
	}
	sharers := sharers(all)
	o.Timeout = time.Duration(float64(o.Timeout) * max(1, sharers/crowd))
	now := time.Now()
	x := &Watcher{line: line, options: o, sharers: sharers, quit: make(chan struct{}), busy: now, looked: now, beside: map[*Task]struct{}{}}
	x.main = Task{watcher: x, state: TaskState{Phase: "start", Begun: now, Moved: now}}
	for seat := range slices.Chunk(all, seatBytes) {
		x.hosts = append(x.hosts, string(bytes.TrimRight(seat[:nameBytes], "\x00")))
	}
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

// Main is what this rank does.
func (x *Watcher) Main() *Task { return &x.main }

// Begin begins a task beside the main one, which goes on until it is Done.
func (x *Watcher) Begin(phase string) *Task {
	now := time.Now()
	t := &Task{watcher: x, state: TaskState{Phase: phase, Begun: now, Moved: now}}
	x.mu.Lock()
	x.beside[t] = struct{}{}
	x.mu.Unlock()
	return t
}

// Status is what a rank is at.
type Status struct {
	Main   TaskState
	Waits  string      // the call in which Main waits for other ranks; "": it waits for none
	Beside []TaskState // the other tasks, by the time of their begin
}

// Status tells what this rank is at.
func (x *Watcher) Status() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := Status{Main: x.main.state}
	if x.waits > 0 {
		s.Waits = x.op
	}
	for t := range x.beside {
		s.Beside = append(s.Beside, t.state)
	}
	slices.SortFunc(s.Beside, func(a, b TaskState) int { return a.Begun.Compare(b.Begun) })
	return s
}

// Failed is what a rank of w returns when another has said that it failed. In a watched world it names that rank's host
// and the phase in which both are.
func Failed(w mpi.World, rank int) *RankError {
	e := &RankError{Rank: rank, Err: ErrFailed}
	if x, ok := w.(*watchedWorld); ok && x == x.watcher.world {
		e.Host, e.Phase = x.watcher.hosts[rank], x.watcher.main.State().Phase
	}
	return e
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
	x.op = op
	x.mu.Unlock()
}

func (x *Watcher) leave() {
	x.mu.Lock()
	x.waits--
	now := time.Now()
	x.main.state.Moved, x.busy = now, now // ranks that do little but exchange may be in a call whenever a beat looks
	x.mu.Unlock()
}

// limit is how long a rank may be silent or stuck.
func (x *Watcher) limit() time.Duration { return x.options.Timeout / 4 * 3 }

// period is the time from one beat to the next.
func (x *Watcher) period() time.Duration {
	return min(max(x.options.Timeout/20, time.Millisecond), time.Second)
}

// abort ends the job for what is wrong with a rank.
func (x *Watcher) abort(rank int, task TaskState, waits string, err error, why string, since time.Duration) {
	reason := (&RankError{
		Rank: rank, Host: x.hosts[rank], Phase: task.Phase, Place: task.Place(), Waits: waits, Err: err,
		Why: strings.TrimSpace(fmt.Sprintf("%s for %v", why, since.Round(time.Millisecond))),
	}).Error()
	if x.options.Advice != "" {
		reason += "; " + x.options.Advice
	}
	x.options.Abort(1, reason)
}

// watchMyself ends the job when this rank is stuck, or when all wait.
func (x *Watcher) watchMyself() {
	tick := time.NewTicker(x.period())
	defer tick.Stop()
	// how long news of a busy rank may take around the ring
	lag := time.Duration(x.world.Size()) * 2 * x.period()
	var forgiven time.Time
	for {
		select {
		case <-x.quit:
			return
		case <-tick.C:
		}
		if w := x.woken(); w.After(forgiven) { // whatever was at work slept too
			forgiven = w
			x.forgive()
		}
		x.followMain()
		s, b := x.Status(), x.beat()
		if s.Waits == "" {
			s.Beside = append(s.Beside, s.Main)
		}
		for _, t := range s.Beside {
			if still := time.Since(t.Moved); still > x.limit() {
				x.abort(x.world.Rank(), t, "", ErrStuck, "no progress", still)
				return
			}
		}
		if s.Waits != "" && !b.ending && b.idle > 2*x.limit()+lag {
			x.abort(x.world.Rank(), s.Main, s.Waits, ErrWaiting, "", b.idle)
			return
		}
	}
}

// woken is when this process was last woken after it had been stopped, as far as its looks at the clock tell; zero: never.
// Such a rank must not take others for silent, or itself for stuck: it is its own watch that stood still.
func (x *Watcher) woken() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if now.Sub(x.looked) > x.limit()/2 {
		x.woke = now
	}
	x.looked = now
	return x.woke
}

// forgive gives all tasks their time anew.
func (x *Watcher) forgive() {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	x.main.state.Moved, x.busy = now, now
	for t := range x.beside {
		t.state.Moved = now
	}
}

func (x *Watcher) followMain() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := &x.main; t.follow != nil {
		if count := t.follow(); count != t.count {
			t.count, t.state.Moved = count, time.Now()
		}
	}
}

// speak sends beats to the successor until the watch ends, and then the last one.
func (x *Watcher) speak() {
	next := (x.line.Rank() + 1) % x.line.Size()
	tick := time.NewTicker(x.period())
	defer tick.Stop()
	for {
		b := x.beat()
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
	heard, known := time.Now(), beat{task: TaskState{Phase: "start"}}
	buffer := make([]byte, beatBytes)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), x.limit())
		err := x.line.Recv(ctx, last, 0, buffer)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, mpi.ErrEnded) {
			if x.woken().After(heard) {
				heard = time.Now()
				continue
			}
			x.abort(last, known.task, "", ErrSilent, "silent", time.Since(heard))
			return
		}
		if err != nil {
			return
		}
		heard = time.Now()
		known = decodeBeat(buffer)
		x.mu.Lock()
		x.heard = known.task
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
