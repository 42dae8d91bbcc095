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
}

// Request asks for the stop; the first reason is kept. It may be called from any goroutine.
func (s *Stop) Request(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason = reason
	}
}

// At asks for the stop at a time, such as shortly before an allocation ends.
func (s *Stop) At(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = t
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
