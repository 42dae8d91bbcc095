package cuda

import (
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// ring keeps groups of packed weights in pinned memory of the host, and brings them into its buffers by a queue of its own.
// It implements kernels.Ring. A group's weights have one address for good, in the group's buffer, so that graphs and descriptions
// of rows hold. What a group is entered and left by stands between the parts of a stream's queue (Stream.cut): the copies are
// no part of a graph, and go on beside the host, too.
type ring struct {
	dev       *Device
	copies    *Stream
	order     *order
	groups    []heldGroup
	buffers   []ringBuffer
	size      int64  // of a buffer
	pinned    int64  // bytes of the host's memory
	computing handle // the stream of the cut under way
	current   int    // the group whose weights the ops that are recorded now may use; -1: none
	traffic   kernels.RingTraffic
}

// heldGroup is a group's memory on the host, and what of it goes where in a buffer.
type heldGroup struct {
	pinned  *pinned
	host    []byte // its bytes
	weights []*weights
	parts   []heldPart
}

// heldPart is one allocation of some weights, at an offset of its group.
type heldPart struct {
	memory *memory
	offset int64
}

// ringBuffer is a buffer, and the events that order its readers and copies.
type ringBuffer struct {
	memory      *memory
	there, left handle
	read        bool // left was recorded
}

// mostCopy bounds a copy: what a step writes takes its turn on the bus between two of them.
const mostCopy = 32 << 20

var _ kernels.RingDevice = (*Device)(nil)

// NewRing implements kernels.RingDevice.
func (d *Device) NewRing(buffers int) (kernels.Ring, error) {
	if buffers < kernels.LeastBuffers {
		return nil, fmt.Errorf("a ring of %d buffers; %d are the least, one to read and one to fill", buffers, kernels.LeastBuffers)
	}
	s, err := d.newStream()
	if err != nil {
		return nil, err
	}
	return &ring{dev: d, copies: s, buffers: make([]ringBuffer, buffers), current: -1}, nil
}

// Hold implements kernels.Ring.
func (r *ring) Hold(what string, group []kernels.Weights) error {
	if r.order != nil {
		return fmt.Errorf("%s: the ring is filled, and takes no more groups", what)
	}
	if err := r.dev.uploads.arrive(); err != nil {
		return err
	}
	var g heldGroup
	var size int64
	for _, w := range group {
		p, ok := w.(*weights)
		if !ok || p.data == nil || p.ring != nil {
			return fmt.Errorf("%s: weights %T are not of this device, freed, or held already", what, w)
		}
		g.weights = append(g.weights, p)
		for _, m := range []*memory{p.data, p.bias, p.scale} {
			if m != nil {
				g.parts = append(g.parts, heldPart{m, size})
				size += (m.size + smallest - 1) / smallest * smallest
			}
		}
	}
	memory, err := pin(r.dev.ctx, size)
	if err != nil {
		return fmt.Errorf("%s: %d bytes of pinned memory of the host, beside %d that the weights of other layers have there: %w; leave memory of the host free for them, use more hosts, or let fewer layers wait there (--offload-layers)",
			what, size, r.pinned, err)
	}
	host := memory.bytes
	g.pinned, g.host = memory, host
	r.groups = append(r.groups, g) // which Close gives back
	r.pinned += size
	r.size = max(r.size, size)
	for _, p := range g.parts {
		if p.memory.size > 0 {
			n := uint64(p.memory.size)
			r.copies.copyRows(opRing, copyRecord{dst: hostAddress(host[p.offset:]), dstHost: 1, src: uint64(p.memory.address), width: n, height: 1, dstPitch: n, srcPitch: n})
		}
	}
	if err := r.handOver(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := streamWait(r.dev.ctx, r.copies.handle); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, w := range g.weights {
		w.ring, w.held = r, len(r.groups)-1
	}
	for _, p := range g.parts {
		p.memory.lend()
	}
	return nil
}

// handOver begins what the copying queue was given.
func (r *ring) handOver() error {
	if r.copies.err != nil {
		return r.copies.err
	}
	_, err := runQueue(r.dev.ctx, r.copies.handle, r.copies.queue)
	r.copies.queue = r.copies.queue[:0]
	return err
}

// Fill implements kernels.Ring.
func (r *ring) Fill() error {
	r.buffers = r.buffers[:min(len(r.buffers), len(r.groups))]
	for i := range r.buffers {
		b := &r.buffers[i]
		m, err := r.dev.memory.allocate("a buffer for weights from the host's memory", r.size)
		if err != nil {
			return err
		}
		b.memory = m
		for _, e := range []*handle{&b.there, &b.left} {
			if *e, err = eventNew(r.dev.ctx); err != nil {
				return err
			}
		}
	}
	for i, g := range r.groups {
		at := r.buffers[i%len(r.buffers)].memory.address
		for _, p := range g.parts {
			p.memory.address = at + handle(p.offset)
		}
		for _, w := range g.weights {
			if !w.inRows {
				continue
			}
			var err error
			if w.boxes, err = boxesOf(r.dev.ctx, w.data.address, w.paddedIn, w.paddedRows, w.paddedIn*w.dtype.Size(), 64); err != nil {
				return err
			}
		}
	}
	if err := r.measure(); err != nil {
		return err
	}
	r.order = newOrder(r, len(r.groups), len(r.buffers))
	r.traffic.Bytes = 0
	return r.order.fill()
}

// measure times the largest group's way, the best of some times.
func (r *ring) measure() error {
	largest := 0
	for i, g := range r.groups {
		if len(g.host) > len(r.groups[largest].host) {
			largest = i
		}
	}
	if len(r.groups) == 0 {
		return nil
	}
	for range 3 {
		b := &r.buffers[0]
		err := eventRecord(r.dev.ctx, b.left, r.copies.handle)
		if err == nil {
			err = r.bring(largest, 0)
		}
		if err != nil {
			return err
		}
		ms, err := eventElapsed(r.dev.ctx, b.left, b.there)
		if err != nil {
			return err
		}
		r.traffic.Rate = max(r.traffic.Rate, float64(len(r.groups[largest].host))/(ms/1e3))
	}
	return nil
}

// bring, await and leave implement lanes; the stream whose ops use the weights is that of the cut under way.
func (r *ring) bring(group, buffer int) error {
	b, g := &r.buffers[buffer], &r.groups[group]
	if b.read {
		if err := eventWait(r.dev.ctx, r.copies.handle, b.left); err != nil {
			return err
		}
	}
	for from := 0; from < len(g.host); from += mostCopy {
		piece := g.host[from:min(from+mostCopy, len(g.host))]
		n := uint64(len(piece))
		r.copies.copyRows(opRing, copyRecord{dst: uint64(b.memory.address) + uint64(from), src: hostAddress(piece), srcHost: 1, width: n, height: 1, dstPitch: n, srcPitch: n})
	}
	if err := r.handOver(); err != nil {
		return err
	}
	r.traffic.Bytes += int64(len(g.host))
	return eventRecord(r.dev.ctx, b.there, r.copies.handle)
}

func (r *ring) await(buffer int) error {
	return eventWait(r.dev.ctx, r.computing, r.buffers[buffer].there)
}

func (r *ring) leave(buffer int) error {
	b := &r.buffers[buffer]
	b.read = true
	return eventRecord(r.dev.ctx, b.left, r.computing)
}

// Enter implements kernels.Ring.
func (r *ring) Enter(stream kernels.Stream, group int) {
	s := stream.(*Stream)
	if r.order == nil || group < 0 || group >= len(r.groups) {
		s.fail("%s: group %d of %d, in a ring that is filled: %t", opRing, group, len(r.groups), r.order != nil)
		return
	}
	r.current = group
	s.cut(func() error {
		r.computing = s.handle
		return r.order.enter(group)
	})
}

// Leave implements kernels.Ring.
func (r *ring) Leave(stream kernels.Stream, group int) {
	s := stream.(*Stream)
	if r.current != group {
		s.fail("%s: group %d is left, and group %d was entered", opRing, group, r.current)
		return
	}
	r.current = -1
	s.cut(func() error {
		r.computing = s.handle
		return r.order.leave()
	})
}

// Traffic implements kernels.Ring.
func (r *ring) Traffic() kernels.RingTraffic { return r.traffic }

// Close implements kernels.Ring.
func (r *ring) Close() error {
	errs := []error{r.copies.Close()}
	for _, b := range r.buffers {
		if b.memory != nil {
			b.memory.Free()
		}
		for _, e := range []handle{b.there, b.left} {
			if e != 0 {
				errs = append(errs, eventFree(r.dev.ctx, e))
			}
		}
	}
	for _, g := range r.groups {
		errs = append(errs, g.pinned.free())
	}
	r.buffers, r.groups = nil, nil
	return errors.Join(errs...)
}
