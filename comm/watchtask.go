package comm

import (
	"fmt"
	"time"
)

// Task is one thing that a rank does: its main line of work, or something beside it in a goroutine of its own, such as
// reading rows or committing a part. A task that makes no progress for the watcher's timeout ends the job. A nil Task
// does nothing.
type Task struct {
	watcher *Watcher
	state   TaskState    // guarded by watcher.mu, as what follows
	follow  func() int64 // nil: none
	count   int64        // that it gave last
}

// TaskState is how far a task is. The zero value tells nothing.
type TaskState struct {
	Phase string    // in a word: "load", "prefill", "commit"
	Unit  string    // of what it counts, "layer"; "": it counts nothing
	N, Of int       // the unit at work on, from 1; Of 0: how many there are isn't known
	Begun time.Time // the phase
	Moved time.Time // the last sign of progress
}

// Place is how far the task is in its phase: "layer 3 of 24"; "" where it counts nothing.
func (s TaskState) Place() string {
	switch {
	case s.Unit == "":
		return ""
	case s.Of == 0:
		return fmt.Sprintf("%s %d", s.Unit, s.N)
	}
	return fmt.Sprintf("%s %d of %d", s.Unit, s.N, s.Of)
}

// State is how far the task is.
func (t *Task) State() TaskState {
	t.watcher.mu.Lock()
	defer t.watcher.mu.Unlock()
	return t.state
}

// Phase says what the task does from now on.
func (t *Task) Phase(name string) { t.Enter(name, "", 0, 0) }

// Enter is Phase at a place: the n-th of the units that the phase counts.
func (t *Task) Enter(phase, unit string, n, of int) {
	if t == nil {
		return
	}
	now := time.Now()
	t.watcher.mu.Lock()
	t.state = TaskState{Phase: phase, Unit: unit, N: n, Of: of, Begun: now, Moved: now}
	t.follow = nil
	t.watcher.mu.Unlock()
}

// Within has the task in another phase, at a place, until back is called: for what comes in the middle of a phase. Both are
// progress.
func (t *Task) Within(phase, unit string, n, of int) (back func()) {
	if t == nil {
		return func() {}
	}
	t.watcher.mu.Lock()
	was, follow := t.state, t.follow
	t.watcher.mu.Unlock()
	t.Enter(phase, unit, n, of)
	return func() {
		t.watcher.mu.Lock()
		defer t.watcher.mu.Unlock()
		t.state, t.follow = was, follow
		t.state.Moved = time.Now()
	}
}

// Follow has a count asked for with every beat until the phase ends: where it changes, that is progress. It serves what
// has no place to call Progress from.
func (t *Task) Follow(count func() int64) {
	if t == nil {
		return
	}
	t.watcher.mu.Lock()
	t.follow, t.count = count, count()
	t.watcher.mu.Unlock()
}

// At says which unit, n of of, the task is at; of 0: nobody knows how many there are. It is progress.
func (t *Task) At(unit string, n, of int) {
	if t == nil {
		return
	}
	now := time.Now()
	t.watcher.mu.Lock()
	t.state.Unit, t.state.N, t.state.Of, t.state.Moved = unit, n, of, now
	t.watcher.mu.Unlock()
}

// Progress says that the task has got on. Phases that may outlast the timeout (loading, compiling) call it.
func (t *Task) Progress() {
	if t == nil {
		return
	}
	t.watcher.mu.Lock()
	t.state.Moved = time.Now()
	t.watcher.mu.Unlock()
}

// Done ends a task that Begin has begun.
func (t *Task) Done() {
	if t == nil {
		return
	}
	t.watcher.mu.Lock()
	delete(t.watcher.beside, t)
	t.watcher.mu.Unlock()
}
