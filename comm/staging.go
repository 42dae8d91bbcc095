package comm

import "github.com/dsbatch/dsbatch/kernels"

// Staging hands the memory of tensors to an exchange of bytes: itself where the CPU addresses it, else copies through
// the host. The zero Staging is ready; one goroutine at a time, and one exchange.
type Staging struct {
	send, recv []byte
	to         kernels.Tensor // what recv is for, of the exchange under way
}

// Move waits for the stream and calls exchange with the bytes of two contiguous tensors, from's to be sent and to's to
// be filled.
func (g *Staging) Move(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	if err := g.Begin(s, to, from, exchange); err != nil {
		return err
	}
	g.End(s)
	return nil
}

// Begin is Move of an exchange that may go on after its call has returned. End follows when it is through.
func (g *Staging) Begin(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	source, direct := hostBytes(from)
	if !direct {
		source = g.read(s, from)
	}
	return g.begin(s, to, source, exchange)
}

// MoveCopy is Move where from may be a part of to, or have gaps between its rows.
func (g *Staging) MoveCopy(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	if err := g.begin(s, to, g.read(s, from), exchange); err != nil {
		return err
	}
	g.End(s)
	return nil
}

// read enqueues a copy of a tensor.
func (g *Staging) read(s kernels.Stream, from kernels.Tensor) []byte {
	g.send = sized(g.send, int(from.Bytes()))
	s.Read(g.send, from)
	return g.send
}

// begin has exchange fill to's memory, or what becomes a copy of it.
func (g *Staging) begin(s kernels.Stream, to kernels.Tensor, source []byte, exchange func(to, from []byte) error) error {
	if err := s.Sync(); err != nil {
		return err
	}
	target, direct := hostBytes(to)
	if !direct {
		g.recv = sized(g.recv, int(to.Bytes()))
		g.to, target = to, g.recv
	}
	return exchange(target, source)
}

// End fills the tensor where exchange could not.
func (g *Staging) End(s kernels.Stream) {
	if !g.to.None() {
		s.Write(g.to, g.recv)
		g.to = kernels.Tensor{}
	}
}

// hostBytes is a contiguous tensor's memory, where the CPU addresses it.
func hostBytes(t kernels.Tensor) ([]byte, bool) {
	m, ok := t.Mem.(kernels.HostMemory)
	if !ok {
		return nil, false
	}
	return m.Bytes()[t.Offset : t.Offset+t.Bytes()], true
}

// sized is b, or other memory, of n bytes.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
