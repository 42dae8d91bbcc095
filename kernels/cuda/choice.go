package cuda

import (
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// algorithm is one of cuBLASLt's, as blas.h declares it.
type algorithm struct {
	words [8]uint64
	room  uint64
	parts int32
	sums  int32
}

// counts are numbers of rows: for all up to one of them and above the one before, one algorithm is chosen, and for those above
// the last that was tried, the last one's.
var counts = [...]int{16, 64, 128, 256, 512, 1024, 4096}

// choice is what a trial has shown of a number of rows.
type choice struct {
	algorithm [8]uint64
	same      bool // it has the bits of our own kernels
	faster    bool // than those, by more than gain
}

// choiceOf is the place in counts of a number of rows, of those that were tried.
func choiceOf(rows, tried int) int {
	for i, n := range counts[:tried] {
		if rows <= n {
			return i
		}
	}
	return tried - 1
}

// choose is the algorithm for so many rows, where there is one for this multiplier.
func (b *blas) choose(k shape, rows int, by Multiplier) (algorithm [8]uint64, at int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tried := b.choices[k]
	if len(tried) == 0 || by == Own {
		return algorithm, 0, false
	}
	at = choiceOf(rows, len(tried))
	c := tried[at]
	return c.algorithm, at, c.same && (c.faster || by == CuBLASLt)
}

// MultipliedBy tells who makes products of w with so many rows and results of type y, as things stand.
func (d *Device) MultipliedBy(w kernels.Weights, y kernels.DType, rows int) Multiplier {
	if p, is := w.(*weights); is && p.inRows {
		if _, _, ok := d.blas.choose(p.shape(y), rows, d.multiplier); ok {
			return CuBLASLt
		}
	}
	return Own
}

// MultiplyBy has the products of one matrix made by one multiplier from now on, and waits until it is known what cuBLASLt can do:
// for measurements and tests.
func (d *Device) MultiplyBy(by Multiplier) {
	d.blas.settle()
	d.multiplier = by
}

// shape is what w's products with results of type y are.
func (w *weights) shape(y kernels.DType) shape { return shape{w.dtype, y, w.out, w.in} }

// suits tells whether cuBLASLt may multiply weights of this kind, and there are enough of them: they then lie in rows.
func (b *blas) suits(w *weights, biased bool) bool {
	const even = 8 // inputs and outputs, so that rows are aligned to 16 bytes
	return b.dev.card.arch() == "sm_90a" && !b.dev.forced.packed && w.dtype.Size() == 2 && w.experts == 1 && !w.gated && !biased &&
		w.in%even == 0 && w.out%even == 0 && w.in*w.out >= max(b.least, 1) && b.open()
}

// blasType is the number of a type in driver.h.
func blasType(t kernels.DType) int32 {
	switch t {
	case kernels.F16:
		return 2
	case kernels.BF16:
		return 14
	}
	return 0
}

// multiplied enqueues y = x·wᵀ by cuBLASLt; false where our own kernel is to do it.
func (s *Stream) multiplied(op opNumber, w *weights, y, x kernels.Tensor, e kernels.Epilogue) bool {
	const width = 16 // bytes that rows are aligned to
	if e.Add || e.Act != kernels.Identity || !alignedRows(x, width) || !alignedRows(y, width) {
		return false
	}
	b, k := s.dev.blas, w.shape(y.DType)
	if s.dev.multiplier == CuBLASLt {
		b.settle() // of weights that came since
	}
	algorithm, at, ok := b.choose(k, y.Rows, s.dev.multiplier)
	if !ok {
		return false
	}
	r := b.product(k, y, x, w.data.address)
	r.op, r.algorithm, r.room = uint32(op), algorithm, s.takeRoom(op)
	if s.err != nil || !b.can(call{k, at, y.Rows, r.xStride, r.yStride}, &r) {
		return false
	}
	s.queue = append(s.queue, bytesOf(&r)...)
	return true
}

// product is the record of y = x·wᵀ, but for its algorithm and its room.
func (b *blas) product(k shape, y, x kernels.Tensor, w handle) productRecord {
	r := productRecord{record: record{kind: kindProduct}, library: b.library, y: address(y), x: address(x), w: w,
		yStride: int64(y.Stride), xStride: int64(x.Stride), wStride: int64(paddedInputs(k.in)), roomBytes: uint64(b.room),
		rows: int32(y.Rows), out: int32(k.out), in: int32(k.in), dtype: blasType(k.w), yType: blasType(k.y)}
	if y.Rows == 1 { // whose strides may be anything
		r.xStride, r.yStride = int64(k.in), int64(k.out)
	}
	r.size = uint32(unsafe.Sizeof(r))
	return r
}

// can tells whether an algorithm can make a product, which is asked once.
func (b *blas) can(c call, r *productRecord) bool {
	const most = 1 << 16 // answers that are kept
	b.mu.Lock()
	defer b.mu.Unlock()
	ok, known := b.checked[c]
	if !known {
		if len(b.checked) >= most {
			clear(b.checked)
		}
		ok = blasCheck(b.dev.ctx, r) == nil
		b.checked[c] = ok
	}
	return ok
}

// takeRoom is the memory that an algorithm may write besides its results, taken once. The products of a stream are made one
// after the other, and share it.
func (s *Stream) takeRoom(op opNumber) handle {
	if s.room == nil {
		m, err := s.dev.memory.allocate("the room of matrix products", int64(s.dev.blas.room))
		if err != nil {
			s.fail("%s: %w", op, err)
			return 0
		}
		s.room = m
	}
	return s.room.address
}
