package comm

import (
	"errors"
	"fmt"
	"strings"
)

// What can be wrong with a rank, as a RankError wraps it.
var (
	// ErrSilent: nothing is heard of the rank any more.
	ErrSilent = errors.New("was killed or stopped, or its host cannot be reached")
	// ErrStuck: the rank lives, and gets on with nothing.
	ErrStuck = errors.New("is stuck")
	// ErrWaiting: all ranks wait, for different things.
	ErrWaiting = errors.New("waits, and so do all other ranks: they disagree about what comes next")
	// ErrFailed: the rank has failed, which it tells itself.
	ErrFailed = errors.New("failed")
)

// advice is what to do where that isn't plain.
var advice = map[error]string{
	ErrStuck:  "look at that host, and at the disks that it reads and writes",
	ErrFailed: "its own message tells why",
}

// RankError says of one rank what is wrong with it, where it runs and what it was doing.
type RankError struct {
	Rank  int
	Host  string // "" where that isn't known
	Phase string // what it was doing, "" where that isn't known
	Place string // how far in it: "layer 12 of 48"
	Waits string // the call in which it waits for other ranks; "": it waits for none
	Why   string // the particulars: "for 24s"; may be empty
	Err   error  // what is wrong: ErrSilent, ErrStuck, ErrWaiting or ErrFailed
}

// Error is "rank 3 (node7) is stuck: no progress for 24s, in phase load, layer 12 of 48; look at that host, …".
func (e *RankError) Error() string {
	var more []string
	add := func(before, s string) {
		if s != "" {
			more = append(more, before+s)
		}
	}
	add("", e.Why)
	if errors.Is(e.Err, ErrSilent) {
		add("last in phase ", e.Phase)
	} else {
		add("in phase ", e.Phase)
	}
	add("", e.Place)
	add("waiting in ", e.Waits)
	text := fmt.Sprintf("rank %d (%s) %v", e.Rank, e.Host, e.Err)
	if e.Host == "" {
		text = fmt.Sprintf("rank %d %v", e.Rank, e.Err)
	}
	if len(more) > 0 {
		text += ": " + strings.Join(more, ", ")
	}
	if do := advice[e.Err]; do != "" {
		text += "; " + do
	}
	return text
}

// Unwrap returns what is wrong.
func (e *RankError) Unwrap() error { return e.Err }
