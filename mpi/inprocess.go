package mpi

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// InProcess returns a world of n ranks, 1 or more, in this process: one for each of n goroutines. Bytes are copied once,
// from the sender's buffer to the receiver's. Run is the usual way to start the goroutines.
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

// room is one in-process communicator. A collective call is two meetings: at the first, each rank brings its buffers and
// sees everybody's; then each copies out of the others' what it is to receive; the second tells that the buffers may
// be used again. Between the two a rank runs only code of this file, so nobody can be missing at the second.
type room struct {
	fate   *fate
	first  []int // each member's rank in the first world
	left   []bool
	posts  []post // what each member has brought to the present call
	come   int    // members that have come to the present meeting
	open   chan struct{}
	rounds int // meetings held
	born   map[int]*birth
	mail   map[address]*box
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
		fate: f, first: make([]int, n), left: make([]bool, n), posts: make([]post, n), open: make(chan struct{}),
		born: map[int]*birth{}, mail: map[address]*box{},
	}
}

// seat is a rank's place in a room.
type seat struct {
	room *room
	rank int
}

// meet waits until every rank of the room has come, unless ctx or the world ends before.
func (s *seat) meet(ctx context.Context) error {
	r := s.room
	r.fate.mu.Lock()
	if err := s.mayMeet(); err != nil {
		r.fate.mu.Unlock()
		return err
	}
	round, open := r.rounds, r.comeLocked()
	r.fate.mu.Unlock()
	var err error
	select {
	case <-open:
		return nil
	case <-r.fate.dead:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.fate.mu.Lock()
	defer r.fate.mu.Unlock()
	if r.rounds != round { // complete after all: the others count on this rank
		return nil
	}
	if err == nil {
		return r.fate.endedLocked()
	}
	r.fate.failLocked(&Error{Op: s.op(), Rank: r.first[s.rank], Host: r.fate.host, Peer: -1, Err: err})
	return err
}

// part waits until every rank of the room has done its copies. It can't be left.
func (s *seat) part() {
	s.room.fate.mu.Lock()
	open := s.room.comeLocked()
	s.room.fate.mu.Unlock()
	<-open
}

// comeLocked counts one more member at the present meeting and returns what is closed when all have come.
func (r *room) comeLocked() <-chan struct{} {
	open := r.open
	r.come++
	if r.come == len(r.posts) {
		r.come = 0
		r.rounds++
		r.open = make(chan struct{})
		close(open)
	}
	return open
}

func (s *seat) op() string { return s.room.posts[s.rank].op }

// mayMeet tells, under the lock, whether the world is alive and nobody has left it.
func (s *seat) mayMeet() error {
	r := s.room
	if r.fate.err == nil {
		if gone := slices.Index(r.left, true); gone >= 0 {
			r.fate.failLocked(&Error{Op: "close", Rank: r.first[gone], Host: r.fate.host, Peer: -1,
				Err: fmt.Errorf("it has left, and rank %d waits for it in %s", r.first[s.rank], s.op())})
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
	r := s.room
	r.posts[s.rank] = p
	if err := s.meet(ctx); err != nil {
		return err
	}
	err := s.sameCall(r.posts)
	if err == nil && copies != nil {
		err = copies(r.posts)
	}
	if err != nil {
		r.fate.fail(&Error{Op: p.op, Rank: r.first[s.rank], Host: r.fate.host, Peer: -1, Err: err})
	}
	s.part()
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

func (s *seat) barrier(ctx context.Context) error {
	return s.together(ctx, post{op: "barrier"}, nil)
}

func (s *seat) bcast(ctx context.Context, root int, b []byte) error {
	return s.together(ctx, post{op: "broadcast", root: root, send: b}, func(posts []post) error {
		from := posts[root].send
		if len(from) != len(b) {
			return s.differ(root, int64(len(from)), int64(len(b)))
		}
		if s.rank != root {
			copy(b, from)
		}
		return nil
	})
}

func (s *seat) allGather(ctx context.Context, send, recv []byte) error {
	return s.together(ctx, post{op: "all-gather", send: send}, func(posts []post) error {
		for i, p := range posts {
			if len(p.send) != len(send) {
				return s.differ(i, int64(len(p.send)), int64(len(send)))
			}
			copy(recv[i*len(send):], p.send)
		}
		return nil
	})
}

func (s *seat) allGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	return s.together(ctx, post{op: "all-gather of unequal lengths", send: send}, func(posts []post) error {
		for i, p := range posts {
			if int64(len(p.send)) != recvCounts[i] {
				return s.differ(i, int64(len(p.send)), recvCounts[i])
			}
			recv = recv[copy(recv, p.send):]
		}
		return nil
	})
}

func (s *seat) allReduce(ctx context.Context, op Op, v []int64) error {
	var result []int64
	err := s.together(ctx, post{op: "all-reduce", root: int(op), number: v}, func(posts []post) error {
		result = make([]int64, len(v))
		for i, p := range posts {
			if len(p.number) != len(v) {
				return s.differ(i, 8*int64(len(p.number)), 8*int64(len(v)))
			}
			if i == 0 {
				copy(result, p.number)
				continue
			}
			for j, x := range p.number {
				switch op {
				case Sum:
					result[j] += x
				case Max:
					result[j] = max(result[j], x)
				case Min:
					result[j] = min(result[j], x)
				}
			}
		}
		return nil
	})
	if err == nil {
		copy(v, result) // nobody reads v any more
	}
	return err
}

func (s *seat) allToAll(ctx context.Context, send, recv []byte) error {
	return s.together(ctx, post{op: "all-to-all", send: send}, func(posts []post) error {
		piece := len(send) / len(posts)
		for i, p := range posts {
			if len(p.send) != len(send) {
				return s.differ(i, int64(len(p.send)), int64(len(send)))
			}
			copy(recv[i*piece:], p.send[s.rank*piece:(s.rank+1)*piece])
		}
		return nil
	})
}

func (s *seat) allToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
	p := post{op: "all-to-all of unequal lengths", send: send, counts: sendCounts}
	return s.together(ctx, p, func(posts []post) error {
		for i, p := range posts {
			if p.counts[s.rank] != recvCounts[i] {
				return s.differ(i, p.counts[s.rank], recvCounts[i])
			}
			var before int64
			for _, n := range p.counts[:s.rank] {
				before += n
			}
			recv = recv[copy(recv, p.send[before:before+recvCounts[i]]):]
		}
		return nil
	})
}

func (s *seat) split(ctx context.Context, color, key int) (child transport, rank, size int, err error) {
	r := s.room
	p := post{op: "split", number: []int64{int64(color), int64(key)}}
	err = s.together(ctx, p, func(posts []post) error {
		if color < 0 {
			return nil
		}
		var members []int
		for i, p := range posts {
			if p.number[0] == int64(color) {
				members = append(members, i)
			}
		}
		slices.SortStableFunc(members, func(a, b int) int { return int(posts[a].number[1] - posts[b].number[1]) })
		size, rank = len(members), slices.Index(members, s.rank)
		child = &seat{room: r.birth(color, members), rank: rank}
		return nil
	})
	return child, rank, size, err
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

func (s *seat) node(ctx context.Context) (child transport, rank, size int, err error) {
	return s.split(ctx, 0, s.rank)
}

func (s *seat) abort(_ int, err *Error) { s.room.fate.fail(err) }

func (s *seat) close() error {
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
