package cuda

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestChunksCoverAMatrix: runs of rows follow one another, hold their own bytes, are no longer than a chunk but where one
// step is, and begin at multiples of a step.
func TestChunksCoverAMatrix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := kernels.Matrix{DType: kernels.F16, Rows: rapid.IntRange(1, 300).Draw(t, "rows"), Cols: rapid.IntRange(1, 40).Draw(t, "cols")}
		m.Data = make([]byte, 2*m.Rows*m.Cols)
		for i := range m.Data {
			m.Data[i] = byte(i * 31 >> 3)
		}
		step := rapid.IntRange(1, 70).Draw(t, "step")
		u := &uploads{most: rapid.IntRange(1, 4000).Draw(t, "most")}
		at, data := 0, []byte(nil)
		for _, r := range u.rows(m, step) {
			if r.from != at || r.from%step != 0 || r.to <= r.from || len(r.data) != 2*m.Cols*(r.to-r.from) {
				t.Fatalf("rows %d to %d, %d bytes, after %d rows", r.from, r.to, len(r.data), at)
			}
			if len(r.data) > u.most && r.to-r.from > step {
				t.Fatalf("%d bytes in a chunk of %d", len(r.data), u.most)
			}
			at, data = r.to, append(data, r.data...)
		}
		if at != m.Rows || !bytes.Equal(data, m.Data) {
			t.Fatalf("%d of %d rows, or other bytes", at, m.Rows)
		}
		to, data := handle(1000), data[:0]
		for _, c := range u.plain(to, m.Data) {
			if c.to != to || len(c.from) > u.most || c.put != nil {
				t.Fatalf("%d bytes for %d, want %d", len(c.from), c.to, to)
			}
			to, data = to+handle(len(c.from)), append(data, c.from...)
		}
		if !bytes.Equal(data, m.Data) {
			t.Fatal("other bytes")
		}
	})
}

// TestFileCutShort: a checkpoint that is cut short while it is copied is an error.
func TestFileCutShort(t *testing.T) {
	page := os.Getpagesize()
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 2*page), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, 2*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	dst := make([]byte, 2*page)
	if err := copyIn(dst, mapped); err != nil || !bytes.Equal(dst, mapped) {
		t.Fatalf("whole: %v", err)
	}
	if err := os.Truncate(path, int64(page)); err != nil {
		t.Fatal(err)
	}
	if err := copyIn(dst, mapped); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("cut short: %v", err)
	}
}

// TestPackInChunks packs and uploads in chunks of many sizes: the bytes on the GPU are those of one chunk.
func TestPackInChunks(t *testing.T) {
	d := open(t, Options{})
	floats := []kernels.DType{kernels.F32, kernels.BF16, kernels.F16}
	for _, w := range append(floats, kernels.I8) {
		for _, from := range floats {
			for _, c := range []struct {
				out, in, group    int
				gated, transposed bool
			}{{70, 96, 32, false, false}, {70, 96, 0, true, false}, {33, 96, 32, true, true}, {70, 160, 0, false, true}, {5, 7, 0, false, false}, {5, 7, 0, false, true}} {
				spec := kernels.WeightSpec{DType: w, Group: c.group, Gated: c.gated}
				for e := range 3 {
					l := kernels.Linear{Transposed: c.transposed}
					for part := range 2 {
						m := kernels.Matrix{DType: from, Rows: c.out, Cols: c.in, Data: randomBytes(from, (e+part+1)*c.out*c.in)[(e+part)*c.out*c.in*from.Size():]}
						if c.transposed {
							m.Rows, m.Cols = m.Cols, m.Rows
						}
						l.Parts = append(l.Parts, m)
						l.Bias = append(l.Bias, kernels.Matrix{DType: from, Rows: 1, Cols: c.out, Data: randomBytes(from, c.out)})
					}
					spec.Experts = append(spec.Experts, l)
				}
				var want []byte
				for _, most := range []int{chunkBytes, 1, 200, 1000} {
					d.uploads.most = most
					got, err := packed(d, spec)
					if err != nil {
						t.Fatal(err)
					}
					if want == nil {
						want = got
					} else if !bytes.Equal(got, want) {
						t.Errorf("%v from %v, %+v: other bytes in chunks of %d", w, from, c, most)
					}
				}
			}
		}
	}
	m := kernels.Matrix{DType: kernels.BF16, Rows: 37, Cols: 19, Data: randomBytes(kernels.BF16, 37*19)}
	for _, to := range floats {
		var want []byte
		for _, most := range []int{chunkBytes, 1, 100} {
			d.uploads.most = most
			x, err := d.Upload("matrix", to, m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := contents(d, x.Mem)
			if x.Mem.Free(); err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			} else if !bytes.Equal(got, want) {
				t.Errorf("%v: other bytes in chunks of %d", to, most)
			}
			if to == m.DType && !bytes.Equal(got, m.Data) {
				t.Errorf("%v: other bytes than were uploaded", to)
			}
		}
	}
}

// packed is the packed bytes of weights.
func packed(d *Device, spec kernels.WeightSpec) (all []byte, err error) {
	p, err := d.Pack("weights", spec)
	if err != nil {
		return nil, err
	}
	defer p.Free()
	w, ok := p.(*weights)
	if !ok {
		return nil, fmt.Errorf("%T", p)
	}
	for _, m := range []*memory{w.data, w.scale, w.bias} {
		if m == nil {
			continue
		}
		b, err := contents(d, m)
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}

// contents reads memory back.
func contents(d *Device, m kernels.Memory) ([]byte, error) {
	data := make([]byte, m.Size())
	x := kernels.Tensor{Mem: m, DType: kernels.I8, Rows: 1, Cols: len(data), Stride: len(data)}
	return data, d.now(func(s *Stream) { s.Read(data, x) })
}
