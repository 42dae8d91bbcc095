package cpu

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/internal/operands"
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

// Submit has nothing to do: what was enqueued is done.
func (s *Stream) Submit() {}

// Sync returns the first error of the ops so far.
func (s *Stream) Sync() error { return s.err }

// Close has nothing to wait for; it frees the stream's working memory.
func (s *Stream) Close() error {
	s.gemm.panel.free()
	return nil
}

// note keeps the first error.
func (s *Stream) note(err error) {
	if s.err == nil {
		s.err = err
	}
}

// fail is note of an error that is made here.
func (s *Stream) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// rules are what this back end asks of operands: activations in float32, in its own memory.
var rules = operands.Rules{Extent: func(m kernels.Memory) (bytes int64, ok bool) {
	ours, ok := m.(*memory)
	if !ok {
		return 0, false
	}
	return ours.Size(), true
}}

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
