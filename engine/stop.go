package engine

import (
	"sync"
	"time"
)

// Stop asks a running job to end early: the step under way is finished, whole chunks are committed, finished rows of
// open chunks are saved. The zero Stop is ready; all in-process ranks share one.
type Stop struct {
	mu     sync.Mutex
	reason string
	at     time.Time
	begun  time.Time // when Before was first called
}

// Request asks for the stop; the first reason is kept. It may be called from any goroutine.
func (s *Stop) Request(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason = reason
	}
}

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
	return s.at
}

// Reason is why the job has to stop, "" while it may go on.
func (s *Stop) Reason() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" && !s.at.IsZero() && !time.Now().Before(s.at) {
		s.reason = "the time limit is near"
	}
	return s.reason
}
