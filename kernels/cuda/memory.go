package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
)

const (
	smallest = 512     // bytes of a piece of a slab: what the driver aligns to
	slabSize = 8 << 20 // bytes of a slab
	pieceTop = 1 << 20 // larger allocations are the driver's own
)

// pool gives out device memory: small pieces of powers of two from slabs, which the driver would take tens of
// microseconds for, and large ones from the driver itself.
type pool struct {
	ctx    handle
	yield  func()       // called where memory does not suffice: what was taken for a while is given back
	settle func() error // called before memory is given back: what is on its way to it arrives
	slabs  []handle
	left   int64 // bytes of the last slab not given out yet
	free   [32][]handle
	frees  int // how often the driver took memory back
}

// memory is one allocation. It implements kernels.Memory.
type memory struct {
	pool    *pool
	address handle
	size    int64 // as asked for
	class   int   // of a piece; whole: the driver's; lent: a part of another's, which that one frees
}

// Classes of memory that is no piece.
const (
	whole = -1
	lent  = -2
)

func (m *memory) Size() int64 { return m.size }

// Free gives the memory back; errors of the driver show again where they matter, in Sync.
func (m *memory) Free() {
	if m.address != 0 {
		_ = m.pool.settle()
	}
	m.give()
}

// give is Free of memory to which nothing is on its way.
func (m *memory) give() {
	switch {
	case m.address == 0 || m.class == lent:
	case m.class >= 0:
		m.pool.free[m.class] = append(m.pool.free[m.class], m.address)
	default:
		m.pool.frees++
		_ = memFree(m.pool.ctx, m.address)
	}
	m.address = 0
}

// lend gives the memory back, to which nothing is on its way, and makes m a part of another's, whose address it gets later.
func (m *memory) lend() {
	m.give()
	m.class = lent
}

// allocate takes size bytes, what naming them in errors.
func (p *pool) allocate(what string, size int64) (*memory, error) {
	if size < 0 || size > math.MaxInt64/2 {
		return nil, fmt.Errorf("%s: %d bytes are no size", what, size)
	}
	if size <= pieceTop {
		class := bits.Len64(uint64(max(size, smallest) - 1))
		a, err := p.piece(class)
		if err != nil {
			return nil, p.explain(what, 1<<class, err)
		}
		return &memory{pool: p, address: a, size: size, class: class}, nil
	}
	a, err := p.take(size)
	if err != nil {
		return nil, p.explain(what, size, err)
	}
	return &memory{pool: p, address: a, size: size, class: whole}, nil
}

// take is the driver's memory.
func (p *pool) take(size int64) (handle, error) {
	a, err := memAlloc(p.ctx, size)
	if errors.Is(err, ErrMemory) && p.yield != nil {
		p.yield()
		a, err = memAlloc(p.ctx, size)
	}
	return a, err
}

func (p *pool) piece(class int) (handle, error) {
	if list := p.free[class]; len(list) > 0 {
		a := list[len(list)-1]
		p.free[class] = list[:len(list)-1]
		return a, nil
	}
	size := int64(1) << class
	if p.left < size {
		slab, err := p.take(slabSize)
		if err != nil {
			return 0, err
		}
		p.slabs, p.left = append(p.slabs, slab), slabSize
	}
	a := p.slabs[len(p.slabs)-1] + handle(slabSize-p.left)
	p.left -= size
	return a, nil
}

// explain says who wanted how much of what is left.
func (p *pool) explain(what string, size int64, err error) error {
	if !errors.Is(err, ErrMemory) {
		return fmt.Errorf("%s: %w", what, err)
	}
	free, total, _ := memoryInfo(p.ctx)
	return fmt.Errorf("%s: %w: %d bytes wanted, %d of %d are free", what, ErrMemory, size, free, total)
}

func (p *pool) close() error {
	var errs []error
	for _, s := range p.slabs {
		errs = append(errs, memFree(p.ctx, s))
	}
	p.slabs = nil
	return errors.Join(errs...)
}

// Memory is the free and the total memory of the GPU in bytes.
func (d *Device) Memory() (free, total int64) {
	_ = d.uploads.settle() // which takes memory; the next op tells its error
	free, total, err := d.blas.memory()
	if err != nil {
		return 0, d.card.memory
	}
	return free, total
}

// Alloc makes a tensor, its rows adjacent, at a multiple of 512 bytes.
func (d *Device) Alloc(what string, t kernels.DType, rows, cols int) (kernels.Tensor, error) {
	size, err := operands.Size(what, t, rows, cols)
	if err != nil {
		return kernels.Tensor{}, err
	}
	m, err := d.memory.allocate(what, size)
	if err != nil {
		return kernels.Tensor{}, err
	}
	return kernels.Tensor{Mem: m, DType: t, Rows: rows, Cols: cols, Stride: cols}, nil
}

// Upload makes a tensor of a host matrix, converted on the device.
func (d *Device) Upload(what string, t kernels.DType, m kernels.Matrix) (kernels.Tensor, error) {
	if m.Rows < 0 || m.Cols < 0 || int64(len(m.Data)) != int64(m.Rows)*int64(m.Cols)*int64(m.DType.Size()) {
		return kernels.Tensor{}, fmt.Errorf("%s: %d bytes are no %v [%d, %d]", what, len(m.Data), m.DType, m.Rows, m.Cols)
	}
	if m.DType != t && !(t.IsFloat() && m.DType.IsFloat()) {
		return kernels.Tensor{}, fmt.Errorf("%s: %v cannot become %v", what, m.DType, t)
	}
	dst, err := d.Alloc(what, t, m.Rows, m.Cols)
	if err != nil || len(m.Data) == 0 {
		return dst, err
	}
	chunks := d.uploads.plain(address(dst), m.Data)
	if m.DType != t {
		key := kernelKey{program{file: "copy.cu", a: t, b: m.DType}, "copy"}
		if _, err = d.programs.kernel(d.ctx, key); err == nil {
			chunks = d.uploads.converted(key, dst, m)
		}
	}
	if err == nil {
		err = d.uploads.run(chunks)
	}
	if err != nil {
		dst.Mem.Free()
		return kernels.Tensor{}, fmt.Errorf("%s: %w", what, err)
	}
	return dst, nil
}

// now runs some ops and waits for them.
func (d *Device) now(ops func(*Stream)) error {
	s, err := d.newStream()
	if err != nil {
		return err
	}
	ops(s)
	return errors.Join(s.Sync(), s.Close())
}

// address is where a tensor's first element lies.
func address(t kernels.Tensor) handle {
	m, ok := t.Mem.(*memory)
	if !ok {
		return 0
	}
	return m.address + handle(t.Offset)
}

// faultWord is pinned memory into which a kernel writes when it is given an index out of its range, which it then
// leaves alone: the op's number, the index and where it stood. Or the number of a window or a board, to which a rank did not come.
type faultWord struct {
	ctx     handle
	host    []byte
	address handle
	waiters []waiter
}

// waiter is what waits for other ranks: lost is the error of an op to which one did not come.
type waiter interface{ lost(rank int) error }

// tellOf gives one a number for kernels to write, from 1.
func (f *faultWord) tellOf(w waiter) int32 {
	f.waiters = append(f.waiters, w)
	return int32(len(f.waiters))
}

const faultBytes = 16

func newFaultWord(ctx handle) (*faultWord, error) {
	b, a, err := hostAlloc(ctx, faultBytes)
	if err != nil {
		return nil, err
	}
	clear(b)
	return &faultWord{ctx: ctx, host: b, address: a}, nil
}

// take returns the fault that kernels have noted since the last call, or nil.
func (f *faultWord) take() error {
	op := binary.LittleEndian.Uint32(f.host)
	if op == 0 {
		return nil
	}
	index, at := int32(binary.LittleEndian.Uint32(f.host[4:])), int32(binary.LittleEndian.Uint32(f.host[8:]))
	waiter := binary.LittleEndian.Uint32(f.host[12:])
	clear(f.host)
	if waiter > 0 {
		return fmt.Errorf("%s: %w", opName(op), f.waiters[waiter-1].lost(int(index)))
	}
	return fmt.Errorf("%s: index %d at %d is out of range", opName(op), index, at)
}

func (f *faultWord) close() error { return hostFree(f.ctx, f.host) }
