package cuda

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/optest"
)

// TestMXFP4Tilings: every kernel of MXFP4 weights, those of older cards among them, gives the bits of bfloat16 weights.
func TestMXFP4Tilings(t *testing.T) {
	for _, d := range []*Device{open(t, Options{NoGraphs: true}), openOlder(t)} {
		d.programs.prepare(slices.DeleteFunc(programsOf(d.programs.arch), func(p program) bool { return !strings.Contains(p.file, "gemm") || p.a != kernels.BF16 })) // on all cores
		_, all := d.gemmFor(kernels.BF16, kernels.MXFP4, 0)
		for _, tiling := range all {
			t.Run(d.programs.arch+"/"+tiling.name, func(t *testing.T) {
				d.forced.tiling = tiling.name
				optest.Run(t, d, tolerances, "MXFP4")
			})
		}
	}
}

// TestInt8RowsAlone: rows of many, which large tiles multiply, have the bits that they have as some of few.
func TestInt8RowsAlone(t *testing.T) {
	d := open(t, Options{})
	const rows, in, out = 1100, 320, 5000 // as many tiles as any GPU has multiprocessors
	data := randomBytes(kernels.BF16, in*out)
	for _, group := range []int{0, 64, 32, 16} {
		w, err := d.Pack("weights", kernels.WeightSpec{DType: kernels.I8, Group: group, Experts: []kernels.Linear{
			{Parts: []kernels.Matrix{{DType: kernels.BF16, Rows: out, Cols: in, Data: data}}}}})
		if err != nil {
			t.Fatal(err)
		}
		x, err := d.Upload("x", kernels.BF16, kernels.Matrix{DType: kernels.BF16, Rows: rows, Cols: in, Data: data[:2*rows*in]})
		if err != nil {
			t.Fatal(err)
		}
		y, err := d.Alloc("y", kernels.F32, rows, out)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for _, few := range []int{1, 16, 64, rows} {
			got := make([]byte, y.Bytes())
			err := d.now(func(s *Stream) {
				s.Write(y, bytes.Repeat([]byte{0xff, 0xff, 0xff, byte(few)}, rows*out))
				for at := 0; at < rows; at += few {
					to := min(rows, at+few)
					s.Linear(y.RowRange(at, to), x.RowRange(at, to), w, kernels.Epilogue{})
				}
				s.Read(got, y)
			})
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !bytes.Equal(got, want) {
				t.Errorf("groups of %d: rows have other bits %d at a time", group, few)
			}
		}
		w.Free()
		x.Mem.Free()
		y.Mem.Free()
	}
}
