package kernels

import "fmt"

// DType is the type of a tensor's elements.
type DType uint8

// The element types. I8 and MXFP4 (mxfp4.go) stand for weights only; I32 for ids, positions, offsets and tables.
const (
	F32 DType = iota + 1
	BF16
	F16
	I8
	I32
	MXFP4
)

// Size is the number of bytes of an element; 0 of MXFP4, which has less than one.
func (d DType) Size() int {
	switch d {
	case F32, I32:
		return 4
	case BF16, F16:
		return 2
	case I8:
		return 1
	}
	return 0
}

// IsFloat tells whether activations may have the type.
func (d DType) IsFloat() bool { return d == F32 || d == BF16 || d == F16 }

// String is the name that users write and read: fp32, bf16, fp16, int8, int32, mxfp4.
func (d DType) String() string {
	switch d {
	case F32:
		return "fp32"
	case BF16:
		return "bf16"
	case F16:
		return "fp16"
	case I8:
		return "int8"
	case I32:
		return "int32"
	case MXFP4:
		return "mxfp4"
	}
	return fmt.Sprintf("dtype(%d)", uint8(d))
}

// Memory is an allocation on a device. Only the back end that made it looks inside; Free may be called once, by the
// owner, when no enqueued op uses it any more.
type Memory interface {
	Size() int64 // bytes
	Free()
}

// HostMemory is memory that the CPU addresses: what a back end without a device of its own hands out, so that
// messages between ranks are sent from where they lie.
type HostMemory interface {
	Memory
	Bytes() []byte
}

// Tensor is a matrix [rows, cols] in a device's memory (a vector is one row or one column; cols 0 is nothing at all).
// It is a view and owns nothing: the zero Tensor stands for "none". Elements of a row are adjacent, rows are Stride
// elements apart.
type Tensor struct {
	Mem    Memory
	Offset int64 // of the first element, in bytes
	DType  DType
	Rows   int
	Cols   int
	Stride int // elements from one row to the next, >= Cols
}

// None tells whether t is the zero Tensor.
func (t Tensor) None() bool { return t.Mem == nil }

// RowRange is the view of rows [from, to).
func (t Tensor) RowRange(from, to int) Tensor {
	t.check(0 <= from && from <= to && to <= t.Rows, "rows", from, to)
	t.Offset += int64(from) * int64(t.Stride) * int64(t.DType.Size())
	t.Rows = to - from
	return t
}

// ColRange is the view of columns [from, to).
func (t Tensor) ColRange(from, to int) Tensor {
	t.check(0 <= from && from <= to && to <= t.Cols, "columns", from, to)
	t.Offset += int64(from) * int64(t.DType.Size())
	t.Cols = to - from
	return t
}

// Reshape is the same elements as [rows, cols]; t must be contiguous and hold at least that many.
func (t Tensor) Reshape(rows, cols int) Tensor {
	t.check(t.Stride == t.Cols || t.Rows <= 1, "contiguous shape", rows, cols)
	t.check(rows*cols <= t.Rows*t.Cols, "shape", rows, cols)
	t.Rows, t.Cols, t.Stride = rows, cols, cols
	return t
}

// Bytes is the number of bytes that the elements take, gaps between rows left out.
func (t Tensor) Bytes() int64 { return int64(t.Rows) * int64(t.Cols) * int64(t.DType.Size()) }

// String is for messages: fp32 [rows, cols].
func (t Tensor) String() string {
	if t.None() {
		return "none"
	}
	return fmt.Sprintf("%v [%d, %d]", t.DType, t.Rows, t.Cols)
}

// A view outside its tensor is a mistake of the program, never of its user, so it stops there.
func (t Tensor) check(ok bool, what string, a, b int) {
	if !ok {
		panic(fmt.Sprintf("kernels: %s %d, %d of tensor %v", what, a, b, t))
	}
}
