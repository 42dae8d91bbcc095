package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// tilingCase is a product, of one matrix where slots is nil.
type tilingCase struct {
	rows, in, out int
	slots         []int // of each expert
	div           int   // 0: no index
	gated, bias   bool
	f32, add      bool
}

// tilingCases have tiles of every width, whole and ragged, experts with none and with many rows, more tiles than a GPU has
// multiprocessors, and more inputs than are under way at once.
func tilingCases() []tilingCase {
	r := rand.New(rand.NewPCG(3, 4))
	many := make([]int, 40)
	for e := range many {
		many[e] = r.IntN(400)
	}
	cases := []tilingCase{
		{slots: []int{0, 1, 64, 65, 200, 0, 256, 257, 700, 3}, in: 200, out: 160, div: 8, gated: true},
		{slots: []int{0, 1, 64, 65, 200, 0, 256, 257, 700, 3}, in: 136, out: 328, bias: true},
		{slots: []int{0, 0, 1000, 0}, in: 72, out: 72, div: 1, add: true},
		{slots: many, in: 512, out: 512, div: 2, gated: true, bias: true},
		{slots: many, in: 256, out: 1024},
		{rows: 4000, in: 2048, out: 2048},
		{rows: 1000, in: 320, out: 3000, gated: true},
		{rows: 1, in: 1032, out: 200},
		{rows: 70, in: 8, out: 8, add: true},
		{rows: 300, in: 136, out: 328, f32: true},
		{slots: []int{300}, in: 200, out: 136},
		{slots: []int{300}, in: 200, out: 136, div: 2},
	}
	for _, rows := range []int{1, 63, 64, 65, 130, 192, 193, 256, 257, 513} {
		cases = append(cases, tilingCase{rows: rows, in: 1032, out: 200, bias: true, f32: rows%2 > 0, add: rows%4 == 0})
	}
	return cases
}

// TestTilings: every kernel of 16-bit weights gives the same bits, again and again, however rows are cut into tiles.
func TestTilings(t *testing.T) {
	d := open(t, Options{NoGraphs: true})
	d.MultiplyBy(Own)
	d.blas.least = 0
	file, all := d.gemmFor(kernels.BF16, kernels.BF16, 0)
	if file.file == sm90File {
		all = append(all[:len(all):len(all)], stayingTiling)
	}
	for i, c := range tilingCases() {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var want []byte
			for _, packed := range []bool{true, false} { // or in rows, where they may lie so
				d.forced.packed = packed
				for _, tiling := range all {
					d.forced.tiling = tiling.name
					for _, width := range []int{64, 128, 192, 0} { // 0: as they come; kernels that do not stay run again
						if d.forced.width = width; width > tiling.tokens {
							continue
						}
						got := c.run(t, d, kernels.BF16) // optest has the other type
						if want == nil {
							want = got
						}
						if !bytes.Equal(got, want) {
							t.Errorf("%+v: %s, at most %d tokens a tile, packed %v, gives other bits than %s", c, tiling.name, width, packed, all[0].name)
						}
					}
				}
			}
		})
	}
}

// TestBoxesOnEveryThread: rows are described to the copy engine from threads that no other call of the driver was made on, as a
// goroutine comes by them.
func TestBoxesOnEveryThread(t *testing.T) {
	d := open(t, Options{})
	if file, _ := d.gemmFor(kernels.BF16, kernels.BF16, 0); file.file != sm90File {
		t.Skip("THE COPY ENGINE WAS NOT TRIED: the card is older than Hopper")
	}
	x, err := d.Alloc("x", kernels.BF16, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Mem.Free()
	var all, begun sync.WaitGroup
	for range 16 {
		begun.Add(1)
		all.Go(func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			begun.Done()
			begun.Wait() // so that each has one of its own
			if _, err := boxesOf(d.ctx, address(x), 64, 64, 128, 64); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// run gives the bits of y.
func (c tilingCase) run(t *testing.T, d *Device, dtype kernels.DType) []byte {
	t.Helper()
	s, err := d.newStream()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	experts := max(1, len(c.slots))
	rows, offsets := c.rows, []int32{0}
	for _, n := range c.slots {
		rows += n
		offsets = append(offsets, int32(rows))
	}
	parts := 1 + int(truth(c.gated))
	spec := kernels.WeightSpec{DType: dtype, Gated: c.gated}
	data := randomBytes(dtype, c.out*c.in+64*experts*parts)
	for e := range experts {
		l := kernels.Linear{}
		for p := range parts {
			l.Parts = append(l.Parts, kernels.Matrix{DType: dtype, Rows: c.out, Cols: c.in, Data: data[128*(e*parts+p):][:2*c.out*c.in]})
			if c.bias {
				l.Bias = append(l.Bias, kernels.Matrix{DType: dtype, Rows: 1, Cols: c.out, Data: data[128*(e*parts+p)+64:][:2*c.out]})
			}
		}
		spec.Experts = append(spec.Experts, l)
	}
	w, err := d.Pack("weights", spec)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Free()
	yType := dtype
	if c.f32 {
		yType = kernels.F32
	}
	take := func(dt kernels.DType, rows, cols int) kernels.Tensor {
		x, err := d.Alloc("tensor", dt, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	tokens := rows
	if c.div > 0 {
		tokens = rows/c.div + 1
	}
	x, y := take(dtype, tokens, c.in), take(yType, rows, c.out)
	defer x.Mem.Free()
	defer y.Mem.Free()
	r := rand.New(rand.NewPCG(5, 6))
	values := randomBytes(dtype, tokens*c.in+r.IntN(50))
	s.Write(x, values[:x.Bytes()])
	poison := bytes.Repeat([]byte{0xff}, int(y.Bytes()))
	if c.add {
		poison = randomBytes(yType, rows*c.out)
	}
	s.Write(y, poison)
	e := kernels.Epilogue{Add: c.add}
	if c.gated || c.bias {
		e.Act = kernels.SiLU
	}
	if c.slots == nil {
		s.Linear(y, x, w, e)
	} else {
		ints := func(v []int32) kernels.Tensor {
			x := take(kernels.I32, 1, len(v))
			b := make([]byte, 0, 4*len(v))
			for _, i := range v {
				b = binary.LittleEndian.AppendUint32(b, uint32(i))
			}
			s.Write(x, b)
			return x
		}
		o := ints(offsets)
		defer o.Mem.Free()
		var index kernels.Tensor
		if c.div > 0 {
			v := make([]int32, rows)
			for i := range v {
				v[i] = r.Int32N(int32(rows))
			}
			index = ints(v)
			defer index.Mem.Free()
		}
		s.Grouped(y, x, w, o, index, c.div, e)
	}
	got := make([]byte, y.Bytes())
	s.Read(got, y)
	if err := s.Sync(); err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return got
}
