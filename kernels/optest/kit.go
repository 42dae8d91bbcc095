package optest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// kit is what one test of a back end works with: a stream, random numbers, and the buffers whose surroundings it
// watches. A failed allocation or op ends the test.
type kit struct {
	*testing.T
	dev     kernels.Device
	tol     Tolerances
	stream  kernels.Stream
	rng     *rand.Rand
	buffers []*buffer
	aligned bool // rows of views begin at multiples of 8 elements; else most do not
}

func newKit(t *testing.T, dev kernels.Device, tol Tolerances, name string) *kit {
	t.Helper()
	s, err := dev.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	k := &kit{T: t, dev: dev, tol: tol, stream: s, rng: rand.New(rand.NewPCG(7, h.Sum64()))}
	t.Cleanup(func() {
		k.release()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// buffer is a tensor in the middle of a poisoned one.
type buffer struct {
	kernels.Tensor
	whole kernels.Tensor
	left  int    // columns of poison before the view's
	was   []byte // the whole as it was written
}

// Rows and columns of poison around a view.
const (
	rowsAbove = 1
	rowsBelow = 1
	colsLeft  = 1
	colsRight = 2
)

// poison is the element that fills everything that nobody may read: a NaN, or a number that is no index.
func poison(d kernels.DType) []byte {
	switch d {
	case kernels.F32:
		return binary.NativeEndian.AppendUint32(nil, 0x7fc0dead)
	case kernels.BF16:
		return binary.NativeEndian.AppendUint16(nil, 0x7fed)
	case kernels.F16:
		return binary.NativeEndian.AppendUint16(nil, 0x7eed)
	case kernels.I32:
		return binary.NativeEndian.AppendUint32(nil, 0xdeadbeef)
	}
	return []byte{0xa5}
}

// output makes a poisoned buffer of rows × cols.
func (k *kit) output(d kernels.DType, rows, cols int) *buffer {
	k.Helper()
	left, right := colsLeft, colsRight
	if k.aligned {
		left, right = 8, 16-cols%8
	}
	whole, err := k.dev.Alloc("optest", d, rows+rowsAbove+rowsBelow, left+cols+right)
	if err != nil {
		k.Fatal(err)
	}
	b := &buffer{whole: whole, left: left, was: bytes.Repeat(poison(d), whole.Rows*whole.Cols)}
	b.Tensor = whole.RowRange(rowsAbove, rowsAbove+rows).ColRange(left, left+cols)
	k.stream.Write(whole, b.was)
	k.buffers = append(k.buffers, b)
	return b
}

// floats makes a buffer of values, which are first rounded to what d holds.
func (k *kit) floats(d kernels.DType, rows, cols int, values []float64) *buffer {
	k.Helper()
	b := k.output(d, rows, cols)
	for i, v := range values {
		values[i] = roundTo(d, v)
	}
	k.stream.Write(b.Tensor, encode(d, values))
	return b
}

// ints makes a buffer of I32.
func (k *kit) ints(rows, cols int, values []int32) *buffer {
	k.Helper()
	b := k.output(kernels.I32, rows, cols)
	k.stream.Write(b.Tensor, encodeInts(values))
	return b
}

// vector makes a buffer [1, len(values)] of I32.
func (k *kit) vector(values []int32) *buffer { return k.ints(1, len(values), values) }

// sync ends the test when an op failed.
func (k *kit) sync() {
	k.Helper()
	if err := k.stream.Sync(); err != nil {
		k.Fatal(err)
	}
}

// bits reads the elements of a buffer and checks that nothing around them has changed.
func (k *kit) bits(b *buffer) []byte {
	k.Helper()
	got := make([]byte, b.Bytes())
	whole := make([]byte, b.whole.Bytes())
	k.stream.Read(got, b.Tensor)
	k.stream.Read(whole, b.whole)
	k.sync()
	size := b.DType.Size()
	for r := range b.whole.Rows {
		for c := range b.whole.Cols {
			inside := r >= rowsAbove && r < rowsAbove+b.Rows && c >= b.left && c < b.left+b.Cols
			at := (r*b.whole.Cols + c) * size
			if !inside && !bytes.Equal(whole[at:at+size], b.was[at:at+size]) {
				k.Fatalf("%v: row %d, column %d outside of it was written", b.Tensor, r-rowsAbove, c-b.left)
			}
		}
	}
	return got
}

func (k *kit) values(b *buffer) []float64 {
	k.Helper()
	return decode(b.DType, k.bits(b))
}

func (k *kit) intValues(b *buffer) []int32 {
	k.Helper()
	return decodeInts(k.bits(b))
}

// release frees all buffers, having looked once more at what surrounds them.
func (k *kit) release() {
	k.Helper()
	for _, b := range k.buffers {
		if !k.Failed() {
			k.bits(b)
		}
		b.whole.Mem.Free()
	}
	k.buffers = nil
}

// near fails the test unless each of got is within bound of want; not a number only where want is none.
func (k *kit) near(what string, got, want, bound []float64) {
	k.Helper()
	if err := compare(what, got, want, bound); err != nil {
		k.Fatal(err)
	}
}

// nearBy is near with bounds relative to scale.
func (k *kit) nearBy(what string, got, want []float64, bound float64) {
	k.Helper()
	bounds := make([]float64, len(want))
	for i := range bounds {
		bounds[i] = bound
	}
	k.near(what, got, want, bounds)
}

func compare(what string, got, want, bound []float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		same := got[i] == w || math.IsNaN(got[i]) && math.IsNaN(w)
		if d := math.Abs(got[i] - w); !same && !(d <= bound[i]) {
			return fmt.Errorf("%s: value %d is %v, want %v ± %.3g", what, i, got[i], w, bound[i])
		}
	}
	return nil
}

// normal is n numbers of mean 0 and the deviation.
func (k *kit) normal(n int, deviation float64) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = deviation * k.rng.NormFloat64()
	}
	return x
}

// indices is n numbers in [0, below).
func (k *kit) indices(n, below int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(k.rng.IntN(below))
	}
	return x
}

// largestOf is the largest magnitude.
func largestOf(x ...float64) (top float64) {
	for _, v := range x {
		top = max(top, math.Abs(v))
	}
	return top
}
