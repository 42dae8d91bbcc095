package comm

import "github.com/dsbatch/dsbatch/kernels"

// Staging hands the memory of tensors to an exchange of bytes: itself where the CPU addresses it, else copies through
// the host. The zero Staging is ready; one goroutine at a time.
type Staging struct{ send, recv []byte }

// Move waits for the stream and calls exchange with the bytes of two contiguous tensors, from's to be sent and to's to
// be filled.
func (g *Staging) Move(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	source, direct := hostBytes(from)
	if !direct {
		return g.MoveCopy(s, to, from, exchange)
	}
	if err := s.Sync(); err != nil {
		return err
	}
	return g.fill(s, to, source, exchange)
}

// MoveCopy is Move where from may be a part of to, or have gaps between its rows.
func (g *Staging) MoveCopy(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	g.send = sized(g.send, int(from.Bytes()))
	s.Read(g.send, from)
	if err := s.Sync(); err != nil {
		return err
	}
	return g.fill(s, to, g.send, exchange)
}

// fill has exchange fill to's memory, or a copy of it.
func (g *Staging) fill(s kernels.Stream, to kernels.Tensor, source []byte, exchange func(to, from []byte) error) error {
	target, direct := hostBytes(to)
	if direct {
		return exchange(target, source)
	}
	g.recv = sized(g.recv, int(to.Bytes()))
	if err := exchange(g.recv, source); err != nil {
		return err
	}
	s.Write(to, g.recv)
	return nil
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
