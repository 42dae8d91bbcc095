package comm

import "github.com/dsbatch/dsbatch/kernels"

// Staging hands the memory of tensors to an exchange of bytes: itself where the CPU addresses it, else copies through
// the host. The zero Staging is ready; one goroutine at a time.
type Staging struct{ send, recv []byte }

// Move waits for the stream and calls exchange with the bytes of two contiguous tensors, from's to be sent and to's to
// be filled.
func (g *Staging) Move(s kernels.Stream, to, from kernels.Tensor, exchange func(to, from []byte) error) error {
	if err := s.Sync(); err != nil {
		return err
	}
	source, direct := hostBytes(from)
	if !direct {
		g.send = sized(g.send, int(from.Bytes()))
		s.Read(g.send, from)
		if err := s.Sync(); err != nil {
			return err
		}
		source = g.send
	}
	target, direct := hostBytes(to)
	if !direct {
		g.recv = sized(g.recv, int(to.Bytes()))
		target = g.recv
	}
	if err := exchange(target, source); err != nil {
		return err
	}
	if !direct {
		s.Write(to, target)
	}
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
