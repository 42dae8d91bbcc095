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

// TestMeetingIsHeldOrNot calls off a rank that already waits at the moment when the last one comes. The meeting was held:
// the other rank counts on this one, so it must not leave.
func TestMeetingIsHeldOrNot(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a select takes either
		first := InProcess(2)[0].(*communicator).transport.(*seat)
		last := &seat{room: first.room, rank: 1}
		ctx := lateContext{over, func() {
			if err := last.meet(t.Context()); err != nil {
				t.Error(err)
			}
		}}
		if err := first.meet(ctx); err != nil {
			t.Fatalf("left a meeting that was held: %v", err)
		}
	}
	alone := InProcess(2)[0].(*communicator).transport.(*seat)
	if err := alone.meet(over); err == nil {
		t.Error("stayed in a meeting that was called off")
	}
}
