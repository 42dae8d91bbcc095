package mpi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// room is one in-process communicator. A collective call is two meetings: at the first, each rank brings its buffers and
// sees everybody's; then each copies out of the others' what it is to receive; the second tells that the buffers may
// be used again. A rank that fails between begin and end is missing at the second, which the end of the world then is.
type room struct {
	fate  *fate
	first []int // each member's rank in the first world
	left  []bool
	posts []post // what each member has brought to the present call
	here  []bool // members that have come to the present meeting
	come  int    // how many those are
	open  chan struct{}
	// copying is the members that copy out of the others' buffers: none begins to once the world has ended.
	copying sync.WaitGroup
	born    map[int]*birth
	mail    map[address]*box
}

// post is a rank's part in a collective call.
type post struct {
	op     string
	root   int
	send   []byte
	counts []int64 // bytes of send for each rank, where unequal
	number []int64 // of allReduce; color and key of split
}

type birth struct {
	room  *room
	takes int // members that haven't fetched it yet
}

func newRoom(f *fate, n int) *room {
	return &room{
		fate: f, first: make([]int, n), left: make([]bool, n), here: make([]bool, n), posts: make([]post, n),
		open: make(chan struct{}),
		born: map[int]*birth{}, mail: map[address]*box{},
	}
}

// come brings p to the present meeting and returns what is closed when every rank of the room has come.
func (s *seat) come(p post) (open <-chan struct{}, err error) {
	r := s.room
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	if err := s.mayMeet(p.op); err != nil {
		return nil, err
	}
	r.posts[s.rank] = p
	return r.comeLocked(s.rank), nil
}

// meet waits until every rank of the room has come, unless ctx or the world ends before. It leaves with the copies begun.
func (s *seat) meet(ctx context.Context, open <-chan struct{}) error {
	r := s.room
	var err error
	select {
	case <-open:
	case <-r.fate.dead:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	if r.fate.err != nil {
		return r.fate.endedLocked()
	}
	select {
	case <-open: // complete after all, where ctx has ended: the others count on this rank
		r.copying.Add(1)
		return nil
	default:
	}
	err = fmt.Errorf("rank %d has not come: %w", r.first[slices.Index(r.here, false)], err)
	r.fate.failLocked(&Error{Op: s.op(), Rank: r.first[s.rank], Host: r.fate.host, Peer: -1, Err: err})
	return err
}

// part waits until every rank of the room has done its copies: where the world ends before, those that have begun.
func (s *seat) part() error {
	r := s.room
	r.copying.Done()
	r.fate.mu.Lock()
	open := r.comeLocked(s.rank)
	r.fate.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-r.fate.dead:
	}
	r.copying.Wait()
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	select {
	case <-open: // at the same moment
		return nil
	default:
		return r.fate.endedLocked()
	}
}

// comeLocked notes that a member is at the present meeting and returns what is closed when all have come.
func (r *room) comeLocked(rank int) <-chan struct{} {
	open := r.open
	r.here[rank] = true
	r.come++
	if r.come == len(r.posts) {
		clear(r.here)
		r.come = 0
		r.open = make(chan struct{})
		close(open)
	}
	return open
}

func (s *seat) op() string { return s.room.posts[s.rank].op }

// mayMeet tells, under the lock, whether the world is alive and nobody has left it.
func (s *seat) mayMeet(op string) error {
	r := s.room
	if r.fate.err == nil {
		if gone := slices.Index(r.left, true); gone >= 0 {
			r.fate.failLocked(&Error{Op: "close", Rank: r.first[gone], Host: r.fate.host, Peer: -1,
				Err: fmt.Errorf("it has left, and rank %d waits for it in %s", r.first[s.rank], op)})
		}
	}
	if r.fate.err != nil {
		return r.fate.endedLocked()
	}
	return nil
}

// together runs one collective call: copies is called with what every rank has brought. An error of it ends the world,
// since the ranks don't agree on what they are doing.
func (s *seat) together(ctx context.Context, p post, copies func(posts []post) error) error {
	end, err := s.begin(p, copies)
	if err != nil {
		return err
	}
	return end(ctx)
}

// begin is the part of together that waits for nobody; end is the rest.
func (s *seat) begin(p post, copies func(posts []post) error) (end func(context.Context) error, err error) {
	open, err := s.come(p)
	if err != nil {
		return nil, err
	}
	s.open = open
	return func(ctx context.Context) error { return s.finish(ctx, open, copies) }, nil
}

func (s *seat) finish(ctx context.Context, open <-chan struct{}, copies func(posts []post) error) error {
	if err := s.meet(ctx, open); err != nil {
		return err
	}
	r := s.room
	err := s.sameCall(r.posts)
	if err == nil && copies != nil {
		err = copies(r.posts)
	}
	if err != nil {
		r.fate.fail(&Error{Op: s.op(), Rank: r.first[s.rank], Host: r.fate.host, Peer: -1, Err: err})
	}
	if ended := s.part(); err == nil {
		err = ended
	}
	return err
}

func (s *seat) sameCall(posts []post) error {
	mine := posts[s.rank]
	for i, p := range posts {
		if p.op != mine.op || p.root != mine.root {
			return fmt.Errorf("rank %d calls %s (root %d), rank %d calls %s (root %d)",
				s.room.first[s.rank], mine.op, mine.root, s.room.first[i], p.op, p.root)
		}
	}
	return nil
}

// differ is the error of two ranks that disagree about a size.
func (s *seat) differ(other int, theirs, mine int64) error {
	return fmt.Errorf("rank %d brings %d bytes, rank %d expects %d", s.room.first[other], theirs, s.room.first[s.rank], mine)
}

// birth returns the one room that the members of a color share.
func (r *room) birth(color int, members []int) *room {
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	b := r.born[color]
	if b == nil {
		b = &birth{room: newRoom(r.fate, len(members)), takes: len(members)}
		for i, m := range members {
			b.room.first[i] = r.first[m]
		}
		r.born[color] = b
	}
	if b.takes--; b.takes == 0 {
		delete(r.born, color)
	}
	return b.room
}

func (s *seat) abort(_ int, err *Error) { s.room.fate.fail(err) }

func (s *seat) close(int) error {
	r := s.room
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	r.left[s.rank] = true
	if r.come > 0 && r.fate.err == nil {
		r.fate.failLocked(&Error{Op: "close", Rank: r.first[s.rank], Host: r.fate.host, Peer: -1,
			Err: errors.New("it has left, and other ranks wait for it")})
	}
	return nil
}
