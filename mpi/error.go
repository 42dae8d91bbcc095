package mpi

import (
	"errors"
	"fmt"
)

// ErrEnded is wrapped by every error of a call that failed because another rank has failed, aborted or left.
var ErrEnded = errors.New("a rank of this world has ended")

// Error is a call that failed on one rank.
type Error struct {
	Op   string // what was called, in words: "all-to-all"
	Rank int    // that called, counted in the first world, not in a split of it
	Host string // of that rank
	Peer int    // the rank at fault, counted likewise; -1 where that isn't known or is this one
	Err  error  // why
}

func (e *Error) Error() string {
	return fmt.Sprintf("rank %d (%s): %s: %v", e.Rank, e.Host, e.Op, e.Err)
}

// Unwrap returns why the call failed.
func (e *Error) Unwrap() error { return e.Err }

// ended is what the calls of the other ranks return once a rank has failed.
type ended struct {
	rank int
	host string
	err  error
}

func (e *ended) Error() string {
	return fmt.Sprintf("rank %d (%s) has ended: %v", e.rank, e.host, e.err)
}

func (e *ended) Unwrap() []error { return []error{ErrEnded, e.err} }
