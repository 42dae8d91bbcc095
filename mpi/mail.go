package mpi

import (
	"context"
	"fmt"
	"slices"
)

// address is where messages of one tag from one rank to another meet their receiver, in one room.
type address struct{ from, to, tag int }

// box holds the calls that wait for their counterpart: senders or receivers, never both, the oldest first.
type box struct {
	senders, receivers []*letter
}

// letter is one waiting call.
type letter struct {
	b     []byte
	taken bool          // by the counterpart, which copies and then closes done
	err   error         // of the exchange, set before done is closed
	done  chan struct{} //
}

func (s *seat) send(ctx context.Context, to, tag int, b []byte) error {
	return s.exchange(ctx, address{from: s.rank, to: to, tag: tag}, b, true)
}

func (s *seat) recv(ctx context.Context, from, tag int, b []byte) error {
	return s.exchange(ctx, address{from: from, to: s.rank, tag: tag}, b, false)
}

// exchange is both ends of a message: the second to come copies, the first waits.
func (s *seat) exchange(ctx context.Context, at address, b []byte, sends bool) error {
	r := s.room
	r.fate.mu.Lock()
	if r.fate.err != nil {
		defer r.fate.mu.Unlock()
		return r.fate.endedLocked()
	}
	x := r.mail[at]
	if x == nil {
		x = &box{}
		r.mail[at] = x
	}
	mine, theirs := &x.receivers, &x.senders
	if sends {
		mine, theirs = theirs, mine
	}
	if len(*theirs) > 0 {
		other := (*theirs)[0]
		*theirs = (*theirs)[1:]
		other.taken = true
		r.fate.mu.Unlock()
		src, dst := b, other.b
		if !sends {
			src, dst = dst, src
		}
		if len(src) != len(dst) {
			other.err = fmt.Errorf("rank %d sends %d bytes, rank %d expects %d (tag %d)",
				r.first[at.from], len(src), r.first[at.to], len(dst), at.tag)
		} else {
			copy(dst, src)
		}
		close(other.done)
		return other.err
	}
	l := &letter{b: b, done: make(chan struct{})}
	*mine = append(*mine, l)
	r.fate.mu.Unlock()

	var err error
	select {
	case <-l.done:
		return l.err
	case <-r.fate.dead:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.fate.mu.Lock()
	if l.taken { // the counterpart uses b at this moment
		r.fate.mu.Unlock()
		<-l.done
		return l.err
	}
	defer r.fate.mu.Unlock()
	*mine = slices.DeleteFunc(*mine, func(x *letter) bool { return x == l })
	if err == nil {
		err = r.fate.endedLocked()
	}
	return err
}
