// Package ringtest has a device with rings where there is no GPU: one whose weights never move, and which tells of every op
// that uses them while they would not be there, and of every round out of order. What a model or an engine does with
// layers in the host's memory is tested through it.
package ringtest

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// Device is another one, with rings.
type Device struct {
	kernels.Device
	// Name of the hardware that it says to be, as Arch; "": the other's.
	Pretend string
	// Memory that it says to have free; 0: the other's.
	Free int64
	// Refuse, where not nil, is what Hold fails with.
	Refuse error
	rings  []*ring
}

var _ kernels.RingDevice = (*Device)(nil)

// Arch is the pretended one.
func (d *Device) Arch() string {
	if d.Pretend != "" {
		return d.Pretend
	}
	return d.Device.Arch()
}

// Memory is the given one.
func (d *Device) Memory() (free, total int64) {
	if d.Free > 0 {
		return d.Free, d.Free
	}
	return d.Device.Memory()
}

// Open is how many rings are not closed.
func (d *Device) Open() (n int) {
	for _, r := range d.rings {
		if !r.closed {
			n++
		}
	}
	return n
}

// NewStream makes a queue whose Sync tells what was wrong.
func (d *Device) NewStream() (kernels.Stream, error) {
	s, err := d.Device.NewStream()
	return &stream{Stream: s, device: d}, err
}

// NewRing implements kernels.RingDevice.
func (d *Device) NewRing(buffers int) (kernels.Ring, error) {
	if buffers < kernels.LeastBuffers {
		return nil, fmt.Errorf("a ring of %d buffers", buffers)
	}
	r := &ring{device: d, buffers: buffers, current: -1, group: map[kernels.Weights]int{}}
	d.rings = append(d.rings, r)
	return r, nil
}

type stream struct {
	kernels.Stream
	device *Device
	err    error
}

func (s *stream) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

func (s *stream) Sync() error {
	if err := s.Stream.Sync(); err != nil {
		return err
	}
	return s.err
}

// use notes weights that are not there.
func (s *stream) use(w kernels.Weights) {
	for _, r := range s.device.rings {
		if g, held := r.group[w]; held && g != r.current {
			s.fail("weights of group %d, while their ring is in group %d", g, r.current)
		}
	}
}

func (s *stream) Linear(y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) {
	s.use(w)
	s.Stream.Linear(y, x, w, e)
}

func (s *stream) Grouped(y, x kernels.Tensor, w kernels.Weights, offsets, index kernels.Tensor, div int, e kernels.Epilogue) {
	s.use(w)
	s.Stream.Grouped(y, x, w, offsets, index, div, e)
}

type ring struct {
	device  *Device
	buffers int
	group   map[kernels.Weights]int
	bytes   []int64
	filled  bool
	closed  bool
	current int
	next    int
	brought int64
}

func (r *ring) Hold(what string, group []kernels.Weights) error {
	if r.device.Refuse != nil {
		return fmt.Errorf("%s: %w", what, r.device.Refuse)
	}
	var bytes int64
	for _, w := range group {
		if _, twice := r.group[w]; w == nil || twice || r.filled {
			return fmt.Errorf("%s: weights %v in a ring of %d groups, filled: %t", what, w, len(r.bytes), r.filled)
		}
		r.group[w] = len(r.bytes)
		bytes += w.Bytes()
	}
	r.bytes = append(r.bytes, bytes)
	return nil
}

func (r *ring) Fill() error {
	if r.filled {
		return fmt.Errorf("a ring was filled twice")
	}
	r.filled = true
	return nil
}

func (r *ring) Enter(s kernels.Stream, group int) {
	switch {
	case !r.filled || group < 0 || group >= len(r.bytes) || group != 0 && group != r.next:
		s.(*stream).fail("group %d of %d is entered where %d is next; filled: %t", group, len(r.bytes), r.next, r.filled)
	default:
		r.current, r.brought = group, r.brought+r.bytes[group]
	}
}

func (r *ring) Leave(s kernels.Stream, group int) {
	if group != r.current {
		s.(*stream).fail("group %d is left, and %d was entered", group, r.current)
	}
	r.current, r.next = -1, group+1
}

func (r *ring) Traffic() kernels.RingTraffic { return kernels.RingTraffic{Bytes: r.brought, Rate: 1e9} }

func (r *ring) Close() error {
	if r.closed {
		return fmt.Errorf("a ring was closed twice")
	}
	r.closed = true
	return nil
}
