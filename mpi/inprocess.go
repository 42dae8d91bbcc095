package mpi

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// InProcess returns a world of n ranks, 1 or more, in this process: one for each of n goroutines. Bytes are copied once,
// from the sender's buffer to the receiver's. Run starts the goroutines.
func InProcess(n int) []World {
	if n < 1 {
		n = 1
	}
	host := hostname()
	r := newRoom(&fate{dead: make(chan struct{}), host: host}, n)
	worlds := make([]World, n)
	for i := range worlds {
		r.first[i] = i
		worlds[i] = &communicator{transport: &seat{room: r, rank: i}, rank: i, size: n, first: i, host: host}
	}
	return worlds
}

// patience is how long Run waits for the other ranks after one has failed.
const patience = 5 * time.Second

// Run calls f on n in-process ranks, a goroutine each, closes their worlds and returns when all have ended. The first
// rank that panics, aborts or returns an error ends the world: the calls of the others fail and name it, and Run returns
// its error, an *Error with the panic's value and stack, or f's own with its rank. A rank that is stuck outside the world
// when another has failed is left behind after 5 s: the process is then good for nothing but to exit.
func Run(n int, f func(World) error) error {
	var wg sync.WaitGroup
	worlds := InProcess(n)
	for _, w := range worlds {
		wg.Go(func() { runRank(w.(*communicator), f) })
	}
	all := make(chan struct{})
	go func() {
		wg.Wait()
		close(all)
	}()
	end := worlds[0].(*communicator).transport.(*seat).room.fate
	select {
	case <-all:
	case <-end.dead:
		select {
		case <-all:
		case <-time.After(patience):
		}
	}
	return end.cause()
}

func runRank(c *communicator, f func(World) error) {
	end := c.transport.(*seat).room.fate
	fail := func(op string, err error) {
		end.fail(&Error{Op: op, Rank: c.first, Host: c.host, Peer: -1, Err: err})
	}
	returned := false
	defer func() {
		if p := recover(); p != nil {
			fail("run", fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		} else if !returned {
			fail("run", errors.New("its goroutine has exited"))
		}
		if err := c.Close(); err != nil {
			fail("close", err)
		}
	}()
	err := f(c)
	returned = true
	var known *Error
	switch {
	case err == nil:
	case errors.As(err, &known) && known == err: //nolint:errorlint // the error itself names its rank, one inside it may not
		end.fail(known)
	default:
		fail("run", err)
	}
}

// fate is what all communicators of an in-process world share: whether it lives, and the lock of their state.
type fate struct {
	mu   sync.Mutex
	err  *Error        // the first failure
	dead chan struct{} // closed with it
	host string
}

func (f *fate) fail(err *Error) {
	f.mu.Lock()
	f.failLocked(err)
	f.mu.Unlock()
}

func (f *fate) failLocked(err *Error) {
	if f.err == nil {
		f.err = err
		close(f.dead)
	}
}

// cause returns the first failure as an error that is nil where there was none.
func (f *fate) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return nil
	}
	return f.err
}

// endedLocked is what a call returns after the world has failed.
func (f *fate) endedLocked() error {
	return &ended{rank: f.err.Rank, host: f.err.Host, err: fmt.Errorf("%s: %w", f.err.Op, f.err.Err)}
}
