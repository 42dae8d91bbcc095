package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
)

// Stop asks a running job to end early: the step under way is finished, whole chunks are committed, finished rows of
// open chunks are saved. The zero Stop is ready; all in-process ranks share one.
type Stop struct {
	mu     sync.Mutex
	reason string
	at     time.Time
	begun  time.Time // when Before was first called
	timer  *time.Timer
	waits  map[*context.CancelCauseFunc]struct{} // of work that until interrupts
}

// Request asks for the stop; the first reason is kept. It may be called from any goroutine.
func (s *Stop) Request(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request(reason)
}

func (s *Stop) request(reason string) {
	if s.reason != "" {
		return
	}
	s.reason = reason
	for cancel := range s.waits {
		(*cancel)(stopped(reason))
	}
}

// stopped is what a job ends with that was asked to.
func stopped(reason string) error { return fmt.Errorf("%w: %s", ErrStopped, reason) }

// leastShare is the part of an allocation's time that a job uses, whatever margin it is to keep: one that is stopped
// before it has done anything would be started again for ever.
const leastShare = 0.1

// Before asks for the stop a margin before the end of the allocation, but not before a tenth of its time, counted from
// the first call, has been used. It may be called again when the end has moved. It returns the time of the stop.
func (s *Stop) Before(end time.Time, margin time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() {
		s.begun = time.Now()
	}
	least := s.begun.Add(time.Duration(leastShare * float64(end.Sub(s.begun))))
	if s.at = end.Add(-margin); s.at.Before(least) {
		s.at = least
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(time.Until(s.at), func() { s.Reason() })
	return s.at
}

// Reason is why the job has to stop, "" while it may go on.
func (s *Stop) Reason() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && !time.Now().Before(s.at) {
		s.request(timeIsUp)
	}
	return s.reason
}

const timeIsUp = "the time limit is near"

// left is how long the job may go on, as far as this rank knows.
func (s *Stop) left() time.Duration {
	if s == nil {
		return math.MaxInt64
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.reason != "":
		return 0
	case s.at.IsZero():
		return math.MaxInt64
	}
	return max(time.Until(s.at), 0)
}

// until is ctx until the stop is asked for, or the time that is left has passed; its cause then wraps ErrStopped. Call
// end.
func (s *Stop) until(ctx context.Context, left time.Duration) (until context.Context, end func()) {
	until, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(left, func() { cancel(stopped(timeIsUp)) })
	end = func() { timer.Stop(); cancel(nil) }
	if s == nil {
		return until, end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != "" {
		cancel(stopped(s.reason))
		return until, end
	}
	if s.waits == nil {
		s.waits = map[*context.CancelCauseFunc]struct{}{}
	}
	s.waits[&cancel] = struct{}{}
	return until, func() {
		timer.Stop()
		s.mu.Lock()
		delete(s.waits, &cancel)
		s.mu.Unlock()
		cancel(nil)
	}
}

// interruptible does work that is each rank's own and may take long; its context ends when the stop is asked for, of any
// rank whose time limit it is. All ranks call it. An error of one is an error of all, as of together, and one that stops
// stops all, with an error that wraps ErrStopped.
func interruptible(ctx context.Context, w mpi.World, s *Stop, work func(context.Context) error) error {
	left, err := comm.Agree(ctx, w, int64(s.left()))
	if err != nil {
		return err
	}
	until, end := s.until(ctx, time.Duration(left.Min(0)))
	err = work(until)
	ends := errors.Is(context.Cause(until), ErrStopped)
	end()
	stops := int64(0)
	if ends && err == nil || errors.Is(err, context.Canceled) && ctx.Err() == nil { // for this rank's stop or another's
		stops, err = 1, nil
	}
	if err := together(ctx, w, err); err != nil {
		return err
	}
	v, err := comm.Agree(ctx, w, stops)
	if err != nil || !v.Any(0) {
		return err
	}
	reason, err := firstReason(ctx, w, s.Reason())
	if err != nil {
		return err
	}
	return stopped(cmp.Or(reason, timeIsUp)) // the ranks' clocks do not run quite alike
}

// firstReason is the reason of the first rank that has one; all ranks learn it.
func firstReason(ctx context.Context, w mpi.World, mine string) (string, error) {
	all, err := comm.AllGather(ctx, w, []byte(mine))
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(reason []byte) bool { return len(reason) > 0 })
	return string(all[max(i, 0)]), nil
}
