package ckpt

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"
)

// maxAxes bounds the axes of a tensor; model weights have at most 4.
const maxAxes = 8

// Tensor is a name, a type, a shape and the way to its bytes: row major, little-endian, contiguous once read. It is a
// small value to be copied freely; nothing is read before Bytes or Floats. A tensor that was cut for tensor
// parallelism reads as the whole one. Methods may be called from several goroutines, until the checkpoint is closed.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64

	coded coding  // how it is stored; nil: as it reads
	from  []int64 // where Shape's window begins in the source, an entry an axis; nil: at 0
	src   source
}

// coding is how a tensor is stored that reads as another type.
type coding interface {
	slice(axis int, from, to int64) (coding, error)
	numbers() ([]byte, error) // as the tensor reads
	release()
	stored() (DType, int64) // the type and the bytes in the file
}

// source is where a tensor's bytes lie: pieces laid end to end along one axis. A source may open its file only now.
type source interface {
	pieces() (axis int, p []piece, err error)
}

// piece is a strided window onto a mapping. Whoever makes one has checked that all of it lies inside (checkPiece).
type piece struct {
	m       *mapping
	at      int64   // byte offset of the first element
	shape   []int64 // elements
	strides []int64 // elements
}

// laid is a source known from the start.
type laid struct {
	axis int
	p    []piece
}

func (l laid) pieces() (int, []piece, error) { return l.axis, l.p, nil }

// NewTensor is a tensor over memory of the caller's, which must hold exactly its bytes and must not change.
func NewTensor(name string, dtype DType, shape []int64, data []byte) (Tensor, error) {
	n, ok := elements(shape)
	if !ok || n*dtype.Size() != int64(len(data)) {
		return Tensor{}, damaged("memory", name, "%v of shape %v does not have %d bytes", dtype, shape, len(data))
	}
	p := piece{&mapping{path: "memory", data: data}, 0, shape, rowMajor(shape)}
	return Tensor{Name: name, DType: dtype, Shape: shape, src: laid{0, []piece{p}}}, nil
}

// elements is the product of shape; ok is false for a negative size, too many axes, or a product whose bytes
// would not fit an int64.
func elements(shape []int64) (n int64, ok bool) {
	if len(shape) > maxAxes {
		return 0, false
	}
	n = 1
	empty := false
	for _, s := range shape {
		switch {
		case s < 0:
			return 0, false
		case s == 0:
			empty = true
		case n > math.MaxInt64/8/s:
			return 0, false
		default:
			n *= s
		}
	}
	if empty {
		return 0, true
	}
	return n, true
}

// rowMajor is the strides, in elements, of a contiguous tensor.
func rowMajor(shape []int64) []int64 {
	strides := make([]int64, len(shape))
	n := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = n
		n *= max(shape[i], 1)
	}
	return strides
}

// Elements is the number of elements, Size the number of bytes once read.
func (t Tensor) Elements() int64 { n, _ := elements(t.Shape); return n }

// Size is the number of bytes of the tensor once read.
func (t Tensor) Size() int64 { return t.Elements() * t.DType.Size() }

// Slice is the part from..to (excluded) along axis, of which alone Bytes then reads the bytes: a rank's own rows
// (axis 0) or columns (axis 1), or some experts of a stacked tensor.
func (t Tensor) Slice(axis int, from, to int64) (Tensor, error) {
	if axis < 0 || axis >= len(t.Shape) || from < 0 || from > to || to > t.Shape[axis] {
		return Tensor{}, fmt.Errorf("tensor %q of shape %v has no part %d:%d along axis %d", t.Name, t.Shape, from, to, axis)
	}
	t.Shape, t.from = slices.Clone(t.Shape), slices.Clone(t.from)
	if t.from == nil {
		t.from = make([]int64, len(t.Shape))
	}
	t.from[axis] += from
	t.Shape[axis] = to - from
	if t.coded == nil {
		return t, nil
	}
	var err error
	t.coded, err = t.coded.slice(axis, from, to)
	return t, err
}

// Bytes is the whole content, in memory when it returns: where the bytes lie contiguous and aligned in one file, a view
// that is valid until the checkpoint is closed and must not be written to; else a fresh copy. Either way the first
// byte is aligned to the element's size.
func (t Tensor) Bytes() ([]byte, error) {
	if t.coded != nil {
		return t.coded.numbers()
	}
	windows, err := t.windows()
	if err != nil {
		return nil, err
	}
	size := t.Size()
	if size == 0 {
		return []byte{}, nil
	}
	if len(windows) == 1 {
		if p := windows[0].piece; p.contiguous() && p.at%t.DType.Size() == 0 {
			if err := p.m.fetch(p.at, p.at+size); err != nil {
				return nil, t.named(err)
			}
			p.m.count(size)
			return p.m.data[p.at : p.at+size : p.at+size], nil
		}
	}
	dst := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))), size)
	return dst, t.copyWindows(dst, windows)
}

// Release lets go of the memory that the views of this tensor keep resident. The views stay valid: touching one again
// reads the file again. A loader that has packed a weight calls it, so that no weight is in memory twice.
func (t Tensor) Release() {
	if t.coded != nil {
		t.coded.release()
		return
	}
	windows, err := t.windows()
	if err != nil {
		return
	}
	for _, w := range windows {
		w.m.forget(w.at, w.end(t.DType.Size()))
	}
}

// named puts the tensor's name into an error of its file.
func (t Tensor) named(err error) error {
	if e, ok := err.(*Error); ok && e.Tensor == "" { //nolint:errorlint // only our own, unwrapped
		e.Tensor = t.Name
	}
	return err
}

func (m *mapping) count(n int64) {
	if m.read != nil {
		m.read.Add(n)
	}
}

// window is a piece narrowed to what a tensor shows of it, and where that begins along the tensor's axis.
type window struct {
	piece
	axis  int
	start int64
}

// windows lists the pieces that Shape meets, in order, each narrowed to it.
func (t Tensor) windows() ([]window, error) {
	axis, pieces, err := t.src.pieces()
	if err != nil {
		return nil, err
	}
	if t.from == nil && len(pieces) == 1 {
		return []window{{piece: pieces[0], axis: axis}}, nil
	}
	var ws []window
	at := int64(0) // of the piece, along the axis of the source
	for _, p := range pieces {
		w := window{piece: p, axis: axis}
		w.shape = slices.Clone(p.shape)
		empty := false
		for a := range t.Shape {
			from, to, origin := int64(0), t.Shape[a], int64(0)
			if t.from != nil {
				from, to = t.from[a], t.from[a]+t.Shape[a]
			}
			if a == axis {
				origin = at
			}
			lo, hi := max(from-origin, 0), min(to-origin, p.shape[a])
			if lo >= hi {
				empty = true
				break
			}
			w.at += lo * p.strides[a] * t.DType.Size()
			w.shape[a] = hi - lo
			if a == axis {
				w.start = origin + lo - from
			}
		}
		if len(p.shape) > 0 {
			at += p.shape[axis]
		}
		if !empty {
			ws = append(ws, w)
		}
	}
	return ws, nil
}

// contiguous tells whether the piece's elements follow each other in row-major order.
func (p piece) contiguous() bool {
	n := int64(1)
	for i := len(p.shape) - 1; i >= 0; i-- {
		if p.shape[i] != 1 && p.strides[i] != n {
			return false
		}
		n *= p.shape[i]
	}
	return true
}

// end is the byte after the last element's.
func (p piece) end(size int64) int64 {
	last := int64(0)
	for i, s := range p.shape {
		if s == 0 {
			return p.at
		}
		last += (s - 1) * p.strides[i]
	}
	return p.at + (last+1)*size
}

// copyWindows gathers the windows into dst [Shape].
func (t Tensor) copyWindows(dst []byte, windows []window) error {
	size := t.DType.Size()
	strides := rowMajor(t.Shape)
	for _, w := range windows {
		to := int64(0)
		n, _ := elements(w.shape)
		if len(t.Shape) > 0 {
			to = w.start * strides[w.axis] * size
		}
		end := w.end(size)
		if end-w.at > 2*n*size { // too thin to be worth reading in one go
			end = w.at
		}
		if err := w.m.fetch(w.at, end); err != nil {
			return t.named(err)
		}
		err := w.m.guard(func() { copyStrided(dst[to:], strides, w.m.data[w.at:], w.strides, w.shape, size) })
		if err != nil {
			return t.named(err)
		}
		w.m.count(n * size)
	}
	return nil
}

// copyStrided copies shape elements of the given size (bytes); strides count elements. Runs that are contiguous on
// both sides are copied at once.
func copyStrided(dst []byte, to []int64, src []byte, from, shape []int64, size int64) {
	run, axes := size, len(shape)
	for axes > 0 && (shape[axes-1] == 1 || to[axes-1]*size == run && from[axes-1]*size == run) {
		axes--
		run *= shape[axes]
	}
	if axes == 0 {
		copy(dst[:run], src)
		return
	}
	if axes == 2 && run == size && (size == 2 || size == 4) && from[0] < from[1] {
		copyTurned(dst, to, src, from, shape, size)
		return
	}
	index := make([]int64, axes)
	for d, s := int64(0), int64(0); ; {
		copy(dst[d*size:d*size+run], src[s*size:])
		a := axes - 1
		for ; a >= 0; a-- {
			index[a]++
			d += to[a]
			s += from[a]
			if index[a] < shape[a] {
				break
			}
			d -= index[a] * to[a]
			s -= index[a] * from[a]
			index[a] = 0
		}
		if a < 0 {
			return
		}
	}
}

// copyTurned is copyStrided of a matrix that is stored, about, with its axes exchanged, of elements of 2 or 4 bytes: square by
// square, so that lines of the source are read once.
func copyTurned(dst []byte, to []int64, src []byte, from, shape []int64, size int64) {
	const side = 64
	for top := int64(0); top < shape[0]; top += side {
		for left := int64(0); left < shape[1]; left += side {
			for i := top; i < min(top+side, shape[0]); i++ {
				d, s := (i*to[0]+left*to[1])*size, (i*from[0]+left*from[1])*size
				for range min(side, shape[1]-left) {
					if size == 2 {
						binary.LittleEndian.PutUint16(dst[d:], binary.LittleEndian.Uint16(src[s:]))
					} else {
						binary.LittleEndian.PutUint32(dst[d:], binary.LittleEndian.Uint32(src[s:]))
					}
					d, s = d+to[1]*size, s+from[1]*size
				}
			}
		}
	}
}
