// Package queuetest has a device whose ops run as late as a GPU's may: not when they are enqueued but when somebody waits
// for them. It shows, where there is no GPU, who reads a result or changes an argument too early, and what a host does
// while its device computes.
package queuetest

import "github.com/dsbatch/dsbatch/kernels"

// Event is what a host does with a queue.
type Event uint8

// The events: it hands ops over, waits for those that it has handed over, or waits for some that nobody had begun with.
const (
	Submit Event = iota
	Wait
	WaitUnsubmitted
)

// Device is another one, whose queues are late.
type Device struct {
	kernels.Device
	// Told, where not nil, is called at each event. At the beginning of a wait nothing has run of what is waited for.
	Told func(Event)
	// Idle computes nothing, and reads zeros: what is left of a step is the host's.
	Idle bool
}

// NewStream makes a late queue.
func (d *Device) NewStream() (kernels.Stream, error) {
	s, err := d.Device.NewStream()
	return &stream{Stream: s, device: d}, err
}

type stream struct {
	kernels.Stream
	device    *Device
	queue     []func()
	submitted int    // of queue
	stage     []byte // what was written
	reads     []read
}

// read is what a Read was asked for: until Sync its destination holds junk.
type read struct{ dst, src []byte }

const junk = 0xa5

func (s *stream) tell(e Event) {
	if s.device.Told != nil {
		s.device.Told(e)
	}
}

func (s *stream) later(op func()) {
	if !s.device.Idle {
		s.queue = append(s.queue, op)
	}
}

func (s *stream) Submit() {
	s.submitted = len(s.queue)
	s.tell(Submit)
}

func (s *stream) Sync() error {
	if s.submitted == len(s.queue) {
		s.tell(Wait)
	} else {
		s.tell(WaitUnsubmitted)
	}
	for _, op := range s.queue {
		op()
	}
	err := s.Stream.Sync()
	for _, r := range s.reads {
		if err == nil {
			copy(r.dst, r.src)
		}
	}
	clear(s.queue)
	s.queue, s.stage, s.reads, s.submitted = s.queue[:0], s.stage[:0], s.reads[:0], 0
	return err
}

func (s *stream) Write(dst kernels.Tensor, src []byte) {
	at := len(s.stage)
	s.stage = append(s.stage, src...) // src may be changed at once
	src = s.stage[at:]
	s.later(func() { s.Stream.Write(dst, src) })
}

func (s *stream) Read(dst []byte, src kernels.Tensor) {
	if s.device.Idle {
		clear(dst)
		return
	}
	for i := range dst {
		dst[i] = junk
	}
	to := make([]byte, len(dst))
	s.reads = append(s.reads, read{dst, to})
	s.later(func() { s.Stream.Read(to, src) })
}

func (s *stream) Copy(dst, src kernels.Tensor) { s.later(func() { s.Stream.Copy(dst, src) }) }

func (s *stream) Embed(y, ids, table, pos, positions kernels.Tensor) {
	s.later(func() { s.Stream.Embed(y, ids, table, pos, positions) })
}

func (s *stream) Norm(y, x, delta kernels.Tensor, n kernels.Norm) {
	s.later(func() { s.Stream.Norm(y, x, delta, n) })
}

func (s *stream) Linear(y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) {
	s.later(func() { s.Stream.Linear(y, x, w, e) })
}

func (s *stream) Grouped(y, x kernels.Tensor, w kernels.Weights, offsets, index kernels.Tensor, div int, e kernels.Epilogue) {
	s.later(func() { s.Stream.Grouped(y, x, w, offsets, index, div, e) })
}

func (s *stream) Store(c kernels.Cache, layer int, q, k, v kernels.Tensor, b kernels.Batch, a kernels.StoreSpec) {
	s.later(func() { s.Stream.Store(c, layer, q, k, v, b, a) })
}

func (s *stream) Attention(out, q kernels.Tensor, c kernels.Cache, layer int, b kernels.Batch, a kernels.AttentionSpec) {
	s.later(func() { s.Stream.Attention(out, q, c, layer, b, a) })
}

func (s *stream) Gate(r kernels.Routing, logits kernels.Tensor, g kernels.Gate) {
	s.later(func() { s.Stream.Gate(r, logits, g) })
}

func (s *stream) Drop(r kernels.Routing, c kernels.Capacity) { s.later(func() { s.Stream.Drop(r, c) }) }

func (s *stream) Table(r kernels.Routing) { s.later(func() { s.Stream.Table(r) }) }

func (s *stream) Combine(y, out kernels.Tensor, r kernels.Routing) {
	s.later(func() { s.Stream.Combine(y, out, r) })
}

func (s *stream) Mix(y, moe, mlp, coef kernels.Tensor) {
	s.later(func() { s.Stream.Mix(y, moe, mlp, coef) })
}

func (s *stream) Add(y, x kernels.Tensor) { s.later(func() { s.Stream.Add(y, x) }) }

func (s *stream) Tanh(y kernels.Tensor) { s.later(func() { s.Stream.Tanh(y) }) }

func (s *stream) Reduce(y, parts kernels.Tensor, n int, add bool) {
	s.later(func() { s.Stream.Reduce(y, parts, n, add) })
}

func (s *stream) Select(dst, src, index kernels.Tensor, div int) {
	s.later(func() { s.Stream.Select(dst, src, index, div) })
}

func (s *stream) Score(logprob, greedy, logits, target kernels.Tensor, vocab int) {
	s.later(func() { s.Stream.Score(logprob, greedy, logits, target, vocab) })
}

func (s *stream) Sample(logits kernels.Tensor, a kernels.Sampling) {
	s.later(func() { s.Stream.Sample(logits, a) })
}
