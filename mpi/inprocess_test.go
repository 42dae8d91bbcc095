package mpi

import (
	"context"
	"testing"
)

// lateContext is over at the moment when it is asked, and lets something happen just before.
type lateContext struct {
	context.Context
	before func()
}

func (c lateContext) Done() <-chan struct{} {
	c.before()
	return c.Context.Done()
}

func comeAndMeet(ctx context.Context, s *seat) error {
	open, err := s.come(post{op: "barrier"})
	if err != nil {
		return err
	}
	return s.meet(ctx, open)
}

// TestMeetingIsHeldOrNot calls off a rank that already waits at the moment when the last one comes. The meeting was held:
// the other rank counts on this one, so it must not leave.
func TestMeetingIsHeldOrNot(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a select takes either
		first := InProcess(2)[0].(*communicator).transport.(*seat)
		last := &seat{room: first.room, rank: 1}
		ctx := lateContext{over, func() {
			if err := comeAndMeet(t.Context(), last); err != nil {
				t.Error(err)
			}
		}}
		if err := comeAndMeet(ctx, first); err != nil {
			t.Fatalf("left a meeting that was held: %v", err)
		}
	}
	alone := InProcess(2)[0].(*communicator).transport.(*seat)
	if err := comeAndMeet(over, alone); err == nil {
		t.Error("stayed in a meeting that was called off")
	}
}
