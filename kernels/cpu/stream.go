package cpu

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// Stream is a queue of ops on a Device. Each op is checked and done when it is enqueued, on all threads of the
// Device's pool where that pays. It implements kernels.Stream.
type Stream struct {
	dev *Device
	err error // the first one

	gemm     gemm            // the call of Linear or Grouped under way (gemm.go)
	items    []attentionItem // of the last Attention
	rankings sync.Pool       // *ranking, one a thread, for Sample
}

var _ kernels.Stream = (*Stream)(nil)

// Sync returns the first error of the ops so far.
func (s *Stream) Sync() error { return s.err }

// Close has nothing to wait for; it frees the stream's working memory.
func (s *Stream) Close() error {
	s.gemm.panel.free()
	return nil
}

// fail notes the first error.
func (s *Stream) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// any stands for any type or size in check.
const anySize = -1

// check notes an error unless t is a tensor [rows, cols] of type d inside its memory, which is the host's.
// anySize as rows or cols lets any number pass.
func (s *Stream) check(op, name string, t kernels.Tensor, d kernels.DType, rows, cols int) {
	switch {
	case s.err != nil:
	case t.None():
		s.fail("%s: %s is missing", op, name)
	case t.DType != d, rows != anySize && t.Rows != rows, cols != anySize && t.Cols != cols:
		s.fail("%s: %s is %v, want %v [%s, %s]", op, name, t, d, sizeText(rows), sizeText(cols))
	default:
		s.checkMemory(op, name, t)
	}
}

// checkFloat is check for any of the float types.
func (s *Stream) checkFloat(op, name string, t kernels.Tensor, rows, cols int) {
	if s.err == nil && !t.None() && !t.DType.IsFloat() {
		s.fail("%s: %s is %v, want a float type", op, name, t)
	}
	s.check(op, name, t, t.DType, rows, cols)
}

// checkVector is check for I32 vectors [1, at least n], the ids and tables that a caller keeps longer than a step.
func (s *Stream) checkVector(op, name string, t kernels.Tensor, n int) {
	if s.err == nil && !t.None() && t.Cols < n {
		s.fail("%s: %s is %v, want at least %d columns", op, name, t, n)
	}
	s.check(op, name, t, kernels.I32, 1, anySize)
}

func (s *Stream) checkMemory(op, name string, t kernels.Tensor) {
	m, ok := t.Mem.(*memory)
	if !ok {
		s.fail("%s: %s lies in %T, which is no memory of this device", op, name, t.Mem)
		return
	}
	if t.Rows <= 0 || t.Cols <= 0 {
		return
	}
	size := int64(t.DType.Size())
	end := t.Offset + (int64(t.Rows-1)*int64(t.Stride)+int64(t.Cols))*size
	if t.Offset < 0 || t.Offset%size != 0 || t.Stride < t.Cols && t.Rows > 1 || end > m.Size() {
		s.fail("%s: %s %v, stride %d, at byte %d leaves its memory of %d bytes", op, name, t, t.Stride, t.Offset, m.Size())
	}
}

func sizeText(n int) string {
	if n == anySize {
		return "any"
	}
	return fmt.Sprint(n)
}

// matrix is a checked tensor of element type T as the reference ops read and write it.
type matrix[T any] struct {
	data   []T // from the first element to the last
	stride int
	cols   int
}

// view opens a checked tensor; T has the size of its elements. Of a zero Tensor all rows are empty.
func view[T any](t kernels.Tensor) matrix[T] {
	if t.None() || t.Rows == 0 || t.Cols == 0 {
		return matrix[T]{}
	}
	b := t.Mem.(*memory).data[t.Offset:]
	n := (t.Rows-1)*t.Stride + t.Cols
	return matrix[T]{unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n), t.Stride, t.Cols}
}

// vector opens a checked tensor of one row, or of one column that is contiguous.
func vector[T any](t kernels.Tensor) []T { return view[T](t).data }

func (m matrix[T]) row(i int) []T {
	at := i * m.stride
	return m.data[at : at+m.cols : at+m.cols]
}

// bytesOf opens row i of a checked tensor as bytes.
func bytesOf(t kernels.Tensor, i int) []byte {
	size := t.DType.Size()
	at := t.Offset + int64(i)*int64(t.Stride)*int64(size)
	n := int64(t.Cols * size)
	return t.Mem.(*memory).data[at : at+n : at+n]
}

// Nanoseconds that make a task worth handing to another thread.
const taskTime = 20_000

// rows runs f over all of n rows, which take about cost nanoseconds each, in parts of at least taskTime. What a row
// gives must not depend on the part it is in.
func (s *Stream) rows(n int, cost float64, f func(from, to int)) {
	parts := min(n, 4*s.dev.pool.threads, int(float64(n)*cost/taskTime))
	if parts <= 1 || s.dev.pool.threads == 1 {
		if n > 0 {
			f(0, n)
		}
		return
	}
	s.dev.pool.run(parts, func(i int) { f(i*n/parts, (i+1)*n/parts) })
}
