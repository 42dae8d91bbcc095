package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dsbatch/dsbatch/kernels"
)

// uploads brings matrices from the host to the GPU. It cuts them into chunks; some goroutines copy these into pinned
// memory, from where each goes over the bus and, where it is not as it shall be, through a kernel. Every slot of pinned
// memory has a queue of its own, so that one chunk is copied on the host, another is on the bus and a third one is put
// in order at the same time, and a weight waits for none before it. Chunks write apart from each other, in any order.
//
// Slots are made when they are needed. When somebody wants what was uploaded (an op, free memory) all is waited for and
// they are given back: after a load nothing of it is left.
type uploads struct {
	dev   *Device
	slots []slot // two a goroutine
	most  int    // bytes of a chunk
	turn  int    // goroutine that is next
	begun bool   // something may be on its way
	err   error  // the first one of the GPU's, which stays
}

const (
	chunkBytes    = 4 << 20 // of a slot; larger ones for a row that is longer
	leastSlot     = 64 << 10
	mostUploaders = 8 // copy 40 GB/s and more, what a bus of 16 lanes carries
)

// chunk is some bytes of the host, which the GPU gets as they are or through a kernel.
type chunk struct {
	from []byte
	to   handle                       // where they go as they are; or
	put  func(s *Stream, from handle) // enqueues what puts them in order
}

// slot is pinned memory, as much on the GPU, and the queue in which they are used.
type slot struct {
	stream *Stream
	host   []byte
	room   handle
}

func newUploads(d *Device) *uploads {
	return &uploads{dev: d, most: chunkBytes, slots: make([]slot, 2*max(2, min(runtime.GOMAXPROCS(0), mostUploaders)))}
}

// plain is the chunks of bytes that stay as they are.
func (u *uploads) plain(to handle, data []byte) (chunks []chunk) {
	for from := range slices.Chunk(data, u.most) {
		chunks = append(chunks, chunk{from: from, to: to})
		to += handle(len(from))
	}
	return chunks
}

// converted is the chunks of a matrix that becomes another type.
func (u *uploads) converted(key kernelKey, dst kernels.Tensor, m kernels.Matrix) (chunks []chunk) {
	for _, r := range u.rows(m, 1) {
		to := dst.RowRange(r.from, r.to)
		chunks = append(chunks, chunk{from: r.data, put: func(s *Stream, at handle) {
			enqueue(s, opCopy, key, byChunk(to.Rows, to.Cols), &copyArgs{matOf(to), mat{at, int64(m.Cols)}, int32(to.Rows), int32(to.Cols)})
		}})
	}
	return chunks
}

// rowRange is some rows of a matrix.
type rowRange struct {
	from, to int
	data     []byte
}

// rows cuts a matrix that has elements into runs of rows, each as long as a chunk may be, a multiple of step but for the
// last one.
func (u *uploads) rows(m kernels.Matrix, step int) (runs []rowRange) {
	width := m.Cols * m.DType.Size()
	each := max(1, u.most/width/step) * step
	for from := 0; from < m.Rows; from += each {
		to := min(from+each, m.Rows)
		runs = append(runs, rowRange{from, to, m.Data[from*width : to*width]})
	}
	return runs
}

// run returns when all chunks have left the host's memory, which may then change; what is on its way still, settle waits
// for. The kernels that chunks are put in order by must be compiled: goroutines of run's enqueue them.
func (u *uploads) run(chunks []chunk) error {
	if u.err != nil || len(chunks) == 0 {
		return u.err
	}
	u.begun = true
	uploaders := len(u.slots) / 2
	workers := min(uploaders, len(chunks))
	var next atomic.Int64
	var running sync.WaitGroup
	errs, broken := make([]error, workers), atomic.Pointer[kernels.Panic]{}
	for w := range workers {
		at := (u.turn + w) % uploaders
		running.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					broken.CompareAndSwap(nil, &kernels.Panic{Value: v, Stack: debug.Stack()})
				}
			}()
			errs[w] = u.work(u.slots[2*at:2*at+2], chunks, &next)
		})
	}
	running.Wait()
	if p := broken.Load(); p != nil {
		panic(p)
	}
	u.turn = (u.turn + workers) % uploaders
	return errors.Join(errs...)
}

// work sends the chunks that no other goroutine has taken, through two slots in turn: while one is on the bus the other
// is filled.
func (u *uploads) work(slots []slot, chunks []chunk, next *atomic.Int64) error {
	for {
		i := int(next.Add(1) - 1)
		if i >= len(chunks) {
			return nil
		}
		if err := slots[0].send(u.dev, chunks[i]); err != nil {
			return err
		}
		slots[0], slots[1] = slots[1], slots[0]
	}
}

func (t *slot) send(d *Device, c chunk) error {
	if err := t.ready(d, len(c.from)); err != nil {
		return err
	}
	if err := copyIn(t.host, c.from); err != nil {
		return err
	}
	s, to, n := t.stream, c.to, uint64(len(c.from))
	if c.put != nil {
		to = t.room
	}
	s.queue = s.queue[:0]
	s.copyRows(opWrite, copyRecord{dst: uint64(to), src: hostAddress(t.host), srcHost: 1, width: n, height: 1, dstPitch: n, srcPitch: n})
	if c.put != nil {
		c.put(s, to)
	}
	if s.err != nil {
		return s.err
	}
	_, err := runQueue(d.ctx, s.handle, s.queue)
	return err
}

// ready waits until the slot is free, and gives it room for n bytes.
func (t *slot) ready(d *Device, n int) (err error) {
	if t.stream == nil {
		if t.stream, err = d.newStream(); err != nil {
			return err
		}
	}
	if err := streamWait(d.ctx, t.stream.handle); err != nil {
		return err
	}
	if n <= len(t.host) {
		return nil
	}
	if err := t.empty(d); err != nil {
		return err
	}
	size := int64(leastSlot)
	for size < int64(n) {
		size *= 2
	}
	host, _, err := hostAlloc(d.ctx, size)
	if err != nil {
		return fmt.Errorf("pinned memory for weights on their way: %w", err)
	}
	t.host = host
	if t.room, err = memAlloc(d.ctx, size); err != nil {
		return d.memory.explain("weights on their way", size, err)
	}
	return nil
}

// empty gives a slot's memory back. Its queue is idle.
func (t *slot) empty(d *Device) error {
	var errs []error
	if t.host != nil {
		errs = append(errs, hostFree(d.ctx, t.host))
	}
	if t.room != 0 {
		errs = append(errs, memFree(d.ctx, t.room))
	}
	t.host, t.room = nil, 0
	return errors.Join(errs...)
}

// settle waits until all that was uploaded is where it belongs.
func (u *uploads) settle() error {
	if !u.begun {
		return u.err
	}
	u.begun = false
	var errs []error
	for i := range u.slots {
		if t := &u.slots[i]; t.stream != nil {
			errs = append(errs, t.stream.Close(), t.empty(u.dev))
			t.stream = nil
		}
	}
	if err := errors.Join(errs...); err != nil && u.err == nil {
		u.err = fmt.Errorf("weights on their way to the GPU: %w", err)
	}
	return u.err
}

// arrive waits until all that was uploaded is where it belongs, and keeps the slots for what comes.
func (u *uploads) arrive() error {
	for i := range u.slots {
		if t := &u.slots[i]; t.stream != nil && u.err == nil {
			if err := streamWait(u.dev.ctx, t.stream.handle); err != nil {
				u.err = fmt.Errorf("weights on their way to the GPU: %w", err)
			}
		}
	}
	return u.err
}

// copyIn copies what may be a mapped file: one that was cut short meanwhile is an error, not the end of the process.
func copyIn(dst, src []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault {
				panic(p)
			}
			err = errors.New("a page cannot be read: the checkpoint's file was cut short or its storage fails; check it and start again")
		}
	}()
	copy(dst, src)
	return nil
}
