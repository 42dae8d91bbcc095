package cuda

import (
	"bytes"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

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
