package cuda

import (
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

// Stream is a queue of ops on a Device. It implements kernels.Stream: ops are checked and recorded, and go to the GPU
// when they are submitted or somebody waits for them. What a Write brings is kept in pinned memory until then, what a Read asks for comes
// to pinned memory and is handed out by Sync.
type Stream struct {
	dev    *Device
	handle handle
	err    error // the first one
	queue  []byte
	cuts   []cut // where it is interrupted, in order

	stage staging
	reads []pendingRead

	seed    maphash.Seed
	replays map[uint64]*replay
	flushes int
	frees   int            // the pool's, when the replays were good
	peers   *peers         // with which exchanges are under way, or nil
	shares  map[handle]int // offsets of rows that came through a window, and of how many ranks

	partials *memory // of attention over long contexts; nil until one comes
	sums     *memory // of latent attention's earlier pieces; nil until it has any
	tasks    *memory // counters for kernels whose blocks share out what is to be done; nil until one comes
	room     *memory // of cuBLASLt's products; nil until one comes
}

var _ kernels.Stream = (*Stream)(nil)

// NewStream makes a queue.
func (d *Device) NewStream() (kernels.Stream, error) { return d.newStream() }

func (d *Device) newStream() (*Stream, error) {
	h, err := streamNew(d.ctx)
	if err != nil {
		return nil, err
	}
	return &Stream{dev: d, handle: h, seed: maphash.MakeSeed(), replays: map[uint64]*replay{}, shares: map[handle]int{}, stage: staging{ctx: d.ctx}}, nil
}

// Submit hands the recorded ops to the GPU.
func (s *Stream) Submit() { s.flush() }

// Sync hands the recorded ops to the GPU and waits for all of them.
func (s *Stream) Sync() error {
	s.flush()
	if err := streamWait(s.dev.ctx, s.handle); err != nil && s.err == nil {
		s.err = err
	}
	if s.peers != nil {
		if err := s.peers.settled(); err != nil && s.err == nil {
			s.err = err
		}
		s.peers = nil
	}
	if err := s.dev.fault.take(); err != nil && s.err == nil {
		s.err = err
	}
	if s.err == nil {
		for _, r := range s.reads {
			copy(r.dst, r.src)
		}
	}
	s.reads = s.reads[:0]
	clear(s.shares)
	s.stage.reset()
	return s.err
}

// Close frees the stream's own memory once its work is done.
func (s *Stream) Close() error {
	if s.handle == 0 {
		return nil
	}
	errs := []error{streamWait(s.dev.ctx, s.handle)}
	for _, r := range s.replays {
		if r.graph != 0 {
			errs = append(errs, graphFree(s.dev.ctx, r.graph))
		}
	}
	for _, m := range []*memory{s.partials, s.sums, s.tasks, s.room} {
		if m != nil {
			m.Free()
		}
	}
	errs = append(errs, s.stage.close(), streamFree(s.dev.ctx, s.handle))
	s.handle, s.replays = 0, nil
	return errors.Join(errs...)
}

// takeTasks makes the counters of tasks, once: how many are taken, and how many blocks have found none left, the last of
// which leaves both as they were, at zero. The kernels of a stream run one after the other, and share them.
func (s *Stream) takeTasks(op opNumber) handle {
	if s.tasks == nil {
		const size = 8
		m, err := s.dev.memory.allocate("the counters of tasks", size)
		if err == nil {
			s.tasks = m
			err = zero(s.dev.ctx, m.address, size)
		}
		if err != nil {
			s.fail("%s: %w", op, err)
			return 0
		}
	}
	return s.tasks.address
}

// note keeps the first error.
func (s *Stream) note(err error) {
	if s.err == nil {
		s.err = err
	}
}

// fail is note of an error that is made here.
func (s *Stream) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// rules are what this back end asks of operands: activations of one float type, in memory that was not freed.
var rules = operands.Rules{AnyFloat: true, Extent: func(m kernels.Memory) (bytes int64, ok bool) {
	ours, ok := m.(*memory)
	if !ok || ours.address == 0 {
		return 0, ok
	}
	return ours.Size(), true
}}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
