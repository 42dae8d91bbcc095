package ckpt

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// TestSliceReadsItsPart lays strided pieces end to end, cuts a part out twice, and compares every element with the one
// that its index means.
func TestSliceReadsItsPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		axes := rapid.IntRange(1, 4).Draw(t, "axes")
		axis := rapid.IntRange(0, axes-1).Draw(t, "axis")
		dtype := rapid.SampledFrom([]DType{U8, BF16, F32, F64}).Draw(t, "dtype")
		size := dtype.Size()
		shape := make([]int64, axes)
		for a := range shape {
			shape[a] = rapid.Int64Range(1, 5).Draw(t, "size")
		}
		var read atomic.Int64
		var pieces []piece
		total := slices.Clone(shape)
		total[axis] = 0
		for range rapid.IntRange(1, 4).Draw(t, "pieces") {
			s := slices.Clone(shape)
			s[axis] = rapid.Int64Range(0, 4).Draw(t, "length")
			total[axis] += s[axis]
			pieces = append(pieces, scattered(t, s, size, &read))
		}
		x := Tensor{Name: "x", DType: dtype, Shape: total, src: laid{axis, pieces}}
		from := make([]int64, axes)
		for range 2 {
			a := rapid.IntRange(0, axes-1).Draw(t, "cut axis")
			lo := rapid.Int64Range(0, x.Shape[a]).Draw(t, "from")
			hi := rapid.Int64Range(lo, x.Shape[a]).Draw(t, "to")
			var err error
			if x, err = x.Slice(a, lo, hi); err != nil {
				t.Fatal(err)
			}
			from[a] += lo
		}
		got, err := x.Bytes()
		if err != nil || int64(len(got)) != x.Size() {
			t.Fatalf("%d bytes of %d, %v", len(got), x.Size(), err)
		}
		if read.Load() != x.Size() {
			t.Fatalf("%d bytes were read for %d", read.Load(), x.Size())
		}
		for i := range x.Elements() {
			index, rest := make([]int64, axes), i
			for a := axes - 1; a >= 0; a-- {
				index[a] = from[a] + rest%x.Shape[a]
				rest /= x.Shape[a]
			}
			if want := element(pieces, axis, index, size); !bytes.Equal(got[i*size:(i+1)*size], want) {
				t.Fatalf("element %v is %x, want %x", index, got[i*size:(i+1)*size], want)
			}
		}
	})
}

// scattered is a piece with its axes in a random order in memory and holes between.
func scattered(t *rapid.T, shape []int64, size int64, read *atomic.Int64) piece {
	p := piece{m: &mapping{path: "memory", read: read}, shape: shape, strides: make([]int64, len(shape))}
	n := int64(1)
	for _, a := range rapid.Permutation([]int{0, 1, 2, 3}[:len(shape)]).Draw(t, "order") {
		p.strides[a] = n
		n *= shape[a] + rapid.Int64Range(0, 1).Draw(t, "hole")
	}
	p.at = rapid.Int64Range(0, 9).Draw(t, "at")
	p.m.data = make([]byte, p.at+n*size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p.m.data {
		p.m.data[i] = byte(r.Uint32())
	}
	return p
}

// element finds one element by walking the pieces.
func element(pieces []piece, axis int, index []int64, size int64) []byte {
	index = slices.Clone(index)
	for _, p := range pieces {
		if index[axis] >= p.shape[axis] {
			index[axis] -= p.shape[axis]
			continue
		}
		at := int64(0)
		for a, i := range index {
			at += i * p.strides[a]
		}
		return p.m.data[p.at+at*size : p.at+at*size+size]
	}
	return nil
}

func TestSliceOutside(t *testing.T) {
	x, err := NewTensor("x", U8, []int64{2, 3}, make([]byte, 6))
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range [][3]int64{{2, 0, 1}, {-1, 0, 1}, {0, -1, 1}, {0, 0, 3}, {1, 2, 1}} {
		if _, err := x.Slice(int(cut[0]), cut[1], cut[2]); err == nil {
			t.Errorf("axis %d, %d:%d accepted of a tensor [2, 3]", cut[0], cut[1], cut[2])
		}
	}
	if _, err := NewTensor("x", F32, []int64{2, 3}, make([]byte, 6)); err == nil {
		t.Error("6 bytes accepted for 6 float32")
	}
}

// TestCutShortWhileOpen: a file that shrinks under its mapping must give an error, for a view as for a copy, not SIGBUS.
func TestCutShortWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	x, err := NewTensor("x", F32, []int64{1 << 10, 1 << 8}, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveSafetensors(path, []Tensor{x}); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	if err := os.Truncate(path, 1<<16); err != nil {
		t.Fatal(err)
	}
	x, _ = c.Tensor("x")
	_, err = x.Bytes()
	wants(t, err, ErrDamaged, path, `"x"`, "cut short")
	thin, err := x.Slice(1, 200, 201) // too thin to be fetched whole: copied under guard
	if err != nil {
		t.Fatal(err)
	}
	_, err = thin.Bytes()
	wants(t, err, ErrDamaged, path, `"x"`, "cut short")
}

func TestReadAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	x, err := NewTensor("x", U8, []int64{3}, []byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveSafetensors(path, []Tensor{x}); err != nil {
		t.Fatal(err)
	}
	c, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	x, _ = c.Tensor("x")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = x.Bytes()
	wants(t, err, os.ErrClosed, path)
}

func TestFloats(t *testing.T) {
	for _, c := range []struct {
		dtype DType
		bytes []byte
		want  float32
	}{
		{F32, []byte{0, 0, 0x80, 0x3f}, 1},
		{BF16, []byte{0xc0, 0xbf}, -1.5},
		{F16, []byte{0x00, 0x3c}, 1},
		{F16, []byte{0xff, 0x7b}, 65504},
		{F16, []byte{0x01, 0x80}, -1.0 / (1 << 24)},
		{F16, []byte{0xff, 0x03}, 1023.0 / (1 << 24)},
		{F64, []byte{0, 0, 0, 0, 0, 0, 0xe0, 0x3f}, 0.5},
	} {
		x, err := NewTensor("x", c.dtype, []int64{1}, c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := x.Floats(); err != nil || got[0] != c.want {
			t.Errorf("%v %x: %v, %v, want %v", c.dtype, c.bytes, got, err, c.want)
		}
	}
	x, _ := NewTensor("x", I32, []int64{1}, make([]byte, 4))
	if _, err := x.Floats(); err == nil {
		t.Error("integers taken for floating-point numbers")
	}
}
