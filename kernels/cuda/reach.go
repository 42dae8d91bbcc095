package cuda

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/dsbatch/dsbatch/kernels"
)

// reachable is memory that the kernels of other GPUs write, in other processes by the driver's inter-process handles: a window, a
// board.
type reachable struct {
	dev    *Device
	own    *memory        // what the others write
	state  kernels.Tensor // what this rank's kernels count
	peers  kernels.Tensor // where the memory of all ranks lies
	opened []handle       // by handles of other processes
	names  []string       // of the ranks
	name   int32          // in faults, from 1
}

// windowsVariable names an environment variable: "none" leaves the memory of other GPUs alone.
const windowsVariable = "DSBATCH_WINDOWS"

// newReachable takes the memory, its first bytes zero, and as much for this rank's state.
func (d *Device) newReachable(what string, size int64, zeros, state int, names []string) (reachable, error) {
	r := reachable{dev: d, names: names}
	if os.Getenv(windowsVariable) == "none" {
		return r, fmt.Errorf("%s is none", windowsVariable)
	}
	// Its own allocation, and not beside others' in a page of the driver's: that is what a handle opens to another process.
	a, err := memAlloc(d.ctx, max(size, 2<<20))
	if err != nil {
		return r, d.memory.explain(what, size, err)
	}
	r.own = &memory{pool: d.memory, address: a, size: size, class: whole}
	err = zero(d.ctx, a, int64(zeros))
	if err == nil {
		r.state, err = d.Alloc(what, kernels.I32, 1, state/4)
	}
	if err == nil {
		err = zero(d.ctx, address(r.state), int64(state))
	}
	if err == nil {
		r.peers, err = d.Alloc(what, kernels.I32, len(names), 2)
	}
	if err != nil {
		return r, errors.Join(err, r.Close())
	}
	return r, nil
}

// A ticket is which process made it, its context, the window's address there, and the driver's handle for other processes.
const (
	ticketProcess = 16
	ticketHandle  = ticketProcess + 16
	ticketBytes   = ticketHandle + ipcBytes
	ipcBytes      = 64
)

// process tells this process from all others.
var process = sync.OnceValue(func() []byte {
	b := make([]byte, ticketProcess)
	_, _ = rand.Read(b) // never fails
	return b
})

// Ticket is what other ranks need to reach the memory.
func (r *reachable) Ticket() []byte {
	t := bytes.Clone(process())
	t = binary.LittleEndian.AppendUint64(t, uint64(r.dev.ctx))
	t = binary.LittleEndian.AppendUint64(t, uint64(r.own.address))
	h, err := ipcHandle(r.dev.ctx, r.own.address)
	if err != nil {
		h = make([]byte, ipcBytes) // those who need it tell
	}
	return append(t, h...)
}

// Join is given the tickets of all ranks.
func (r *reachable) Join(tickets [][]byte) error {
	if len(tickets) != len(r.names) {
		return fmt.Errorf("%d tickets for %d ranks", len(tickets), len(r.names))
	}
	var table []byte
	for i, t := range tickets {
		a, err := r.reach(t)
		if err != nil {
			return fmt.Errorf("memory of %s cannot be written from here: %w", r.names[i], err)
		}
		table = binary.LittleEndian.AppendUint64(table, uint64(a))
	}
	return r.dev.now(func(s *Stream) { s.Write(r.peers, table) })
}

// reach is where a ticket's memory lies for this GPU.
func (r *reachable) reach(ticket []byte) (handle, error) {
	if len(ticket) != ticketBytes {
		return 0, fmt.Errorf("a ticket of %d bytes", len(ticket))
	}
	ctx := handle(binary.LittleEndian.Uint64(ticket[ticketProcess:]))
	at := handle(binary.LittleEndian.Uint64(ticket[ticketProcess+8:]))
	if bytes.Equal(ticket[:ticketProcess], process()) {
		if ctx == r.dev.ctx {
			return at, nil
		}
		return at, peerAccess(r.dev.ctx, ctx)
	}
	h := ticket[ticketHandle:]
	if bytes.Equal(h, make([]byte, ipcBytes)) {
		return 0, errors.New("its driver gives memory to no other process")
	}
	at, err := ipcOpen(r.dev.ctx, h)
	if err == nil {
		r.opened = append(r.opened, at)
	}
	return at, err
}

// on is the stream of an op, or nil where it has failed before.
func (r *reachable) on(stream kernels.Stream, what string, op opNumber) *Stream {
	s, ok := stream.(*Stream)
	if !ok || s.dev != r.dev {
		panic(fmt.Sprintf("cuda: a %s of %s on a stream of another device", what, r.dev.Name()))
	}
	if s.err == nil && r.own == nil {
		s.fail("%s: the %s is closed", op, what)
	}
	if s.err != nil {
		return nil
	}
	return s
}

// Close gives the memory back, with no work left.
func (r *reachable) Close() error {
	var errs []error
	for _, a := range r.opened {
		errs = append(errs, ipcClose(r.dev.ctx, a))
	}
	r.opened = nil
	for _, t := range []*kernels.Tensor{&r.state, &r.peers} {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
	}
	if r.own != nil {
		r.own.Free()
		r.own = nil
	}
	return errors.Join(errs...)
}
