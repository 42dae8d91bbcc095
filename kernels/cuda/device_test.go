package cuda

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestNewWithoutDriver: what a machine without a GPU says must tell the cause, and be known as such.
func TestNewWithoutDriver(t *testing.T) {
	if _, err := Count(); err == nil {
		t.Skip("there is a driver here")
	}
	if _, err := New(Options{}); !errors.Is(err, ErrDriver) || !strings.Contains(err.Error(), "libcuda") && !strings.Contains(err.Error(), "cgo") {
		t.Errorf("New: %v", err)
	}
	if lines := Describe(); len(lines) != 1 || !strings.Contains(lines[0], "none") {
		t.Errorf("Describe: %q", lines)
	}
}

func TestRefusedOrdinal(t *testing.T) {
	open(t, Options{})
	n, err := Count()
	if err != nil {
		t.Fatal(err)
	}
	for _, ordinal := range []int{-1, n} {
		if _, err := New(Options{Ordinal: ordinal}); err == nil {
			t.Errorf("GPU %d of %d was opened", ordinal, n)
		}
	}
}

// TestOutOfMemory asks for more than there is: the message says who wanted how much, and the device goes on.
func TestOutOfMemory(t *testing.T) {
	d := open(t, Options{})
	_, total := d.Memory()
	_, err := d.Alloc("a tensor of the test", kernels.F32, 1<<10, int(total>>11))
	if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "a tensor of the test") || !strings.Contains(err.Error(), "free") {
		t.Errorf("%v", err)
	}
	x, err := d.Alloc("a small one", kernels.F32, 4, 4)
	if err != nil {
		t.Fatal(err)
	}
	x.Mem.Free()
}

// TestFault: an index out of range is told by Sync, and nothing is read or written there.
func TestFault(t *testing.T) {
	d := open(t, Options{})
	s, err := d.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, _ := d.Alloc("x", kernels.F32, 4, 4)
	index, err := d.Alloc("index", kernels.I32, 1, 4)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(index, []byte{1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0})
	s.Select(x, x, index, 1)
	if err := s.Sync(); err == nil || !strings.Contains(err.Error(), "select: index 9 at 1") {
		t.Errorf("%v", err)
	}
}

// TestGraphReplay runs one sequence of ops again and again, outputs poisoned and inputs changed between: as graphs and
// without, the bits must be the same.
func TestGraphReplay(t *testing.T) {
	var want [][]byte
	for _, o := range []Options{{NoGraphs: true}, {}} {
		d := open(t, o)
		stream, err := d.newStream()
		if err != nil {
			t.Fatal(err)
		}
		const rows, in, out = 5, 64, 64
		data := randomBytes(kernels.BF16, in*out)
		w, err := d.Pack("weights", kernels.WeightSpec{DType: kernels.BF16, Experts: []kernels.Linear{{Parts: []kernels.Matrix{{DType: kernels.BF16, Rows: out, Cols: in, Data: data}}}}})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := d.Alloc("x", kernels.BF16, rows, in)
		y, err := d.Alloc("y", kernels.BF16, rows, out)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for round := range 5 {
			result, poison := make([]byte, y.Bytes()), bytes.Repeat([]byte{0xff}, int(y.Bytes()))
			stream.Write(y, poison)
			stream.Write(x, data[2*round:2*round+int(x.Bytes())])
			for range 8 { // enough to be worth a graph
				stream.Linear(y, x, w, kernels.Epilogue{Act: kernels.SiLU})
			}
			stream.Read(result, y)
			if err := stream.Sync(); err != nil {
				t.Fatal(err)
			}
			got = append(got, result)
		}
		graphs := 0
		for _, r := range stream.replays {
			if r.graph != 0 {
				graphs++
			}
		}
		if o.NoGraphs != (graphs == 0) {
			t.Errorf("%+v: %d graphs", o, graphs)
		}
		for round := range want {
			if !bytes.Equal(got[round], want[round]) {
				t.Errorf("round %d: a graph gives other bits", round)
			}
		}
		want = got
		w.Free()
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestGraphOfFreedMemory repeats ops over memory that is given back and comes again at the same address each time.
func TestGraphOfFreedMemory(t *testing.T) {
	d := open(t, Options{})
	s, err := d.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const rows, cols = 600, 1024 // more than the pool's pieces
	data := randomBytes(kernels.F32, rows*cols)
	var want []byte
	for round := range 5 {
		x, err := d.Alloc("x", kernels.F32, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, x.Bytes())
		s.Write(x, data)
		for range 12 { // enough to be worth a graph
			s.Add(x.RowRange(0, rows/2), x.RowRange(rows/2, rows))
		}
		s.Read(got, x)
		if err := s.Sync(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("round %d: other bits", round)
		}
		x.Mem.Free()
	}
}

// randomBytes is n normal numbers of deviation 0.05, as the upper halves of float32s where d is narrower.
func randomBytes(d kernels.DType, n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, 0, n*d.Size())
	for range n {
		bits := math.Float32bits(float32(0.05 * r.NormFloat64()))
		if d == kernels.F32 {
			out = append(out, byte(bits), byte(bits>>8))
		}
		out = append(out, byte(bits>>16), byte(bits>>24))
	}
	return out
}
