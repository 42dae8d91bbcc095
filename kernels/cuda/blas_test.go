package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// TestMissingBLAS: where cuBLASLt is not found, the reason and the mend are told.
func TestMissingBLAS(t *testing.T) {
	t.Setenv(blasVariable, noBLAS)
	if line := describeBLAS(); !strings.Contains(line, "not used") || !strings.Contains(line, blasVariable) {
		t.Errorf("%s=%s: %q", blasVariable, noBLAS, line)
	}
	if err := openBLAS(blasNames()); err == nil {
		t.Skip("NOTHING IS MISSING: cuBLASLt was opened by another test of this process")
	}
	t.Setenv(blasVariable, "/nowhere/libcublasLt.so.13")
	if err := openBLAS(blasNames()); !errors.Is(err, ErrBLAS) || !strings.Contains(err.Error(), "/nowhere/") && !strings.Contains(err.Error(), "cgo") {
		t.Errorf("%v", err)
	}
	if line := describeBLAS(); !strings.Contains(line, "pip install nvidia-cublas") || !strings.Contains(line, blasVariable) {
		t.Errorf("%q", line)
	}
}

// TestCounts: every number of rows has a choice, meant for as many or more where there is one, and a trial's results fit.
func TestCounts(t *testing.T) {
	if !slices.IsSorted(counts[:]) {
		t.Fatal("counts do not ascend")
	}
	for rows := 1; rows < 10000; rows++ {
		for tried := 1; tried <= len(counts); tried++ {
			at := choiceOf(rows, tried)
			if at >= tried || at > 0 && rows <= counts[at-1] || at < tried-1 && rows > counts[at] {
				t.Fatalf("%d rows, %d numbers tried: the choice for %d", rows, tried, counts[at])
			}
		}
	}
	for _, out := range []int{8, 2048, 50304, 151936, 1 << 24} {
		k := shape{kernels.BF16, kernels.F32, out, 2048}
		n := triedCounts(k)
		if n < 1 || n > 1 && counts[n-1]*out*4 > mostResult || n < len(counts) && counts[n]*out*4 <= mostResult {
			t.Errorf("%d outputs: %d numbers of rows are tried", out, n)
		}
	}
}

// TestWhoMultiplies looks at what Linear records on a card that is not there: cuBLASLt gets what it can do with our bits and
// faster, with all that it must know, our own kernels the rest.
func TestWhoMultiplies(t *testing.T) {
	const in, out, base = 200, 64, 1 << 20
	rowsOwn, rowsFast := 40, 300 // choices differ
	algorithm := [8]uint64{1, 2, 3, 4, 5, 6, 7, 8}
	newStream := func() *Stream {
		d := &Device{card: card{major: 9, processors: 132}, programs: cachedPrograms(card{major: 9}, 0, t.TempDir())}
		d.blas = &blas{dev: d, room: 1 << 20, library: 77, choices: map[shape][]choice{}, checked: map[call]bool{}}
		for _, y := range []kernels.DType{kernels.BF16, kernels.F32} {
			k, choices := shape{kernels.BF16, y, out, in}, make([]choice, len(counts))
			for i := range choices {
				choices[i] = choice{algorithm: algorithm, same: true, faster: counts[i] > 64}
			}
			d.blas.choices[k] = choices
			for rows := range 400 {
				for _, stride := range []int64{in, in + 8} {
					d.blas.checked[call{k, choiceOf(rows, len(counts)), rows, stride, out + 8}] = rows != 299
				}
			}
		}
		d.fault = &faultWord{}
		p, _ := d.gemmFor(kernels.BF16, kernels.BF16, 0)
		p.rows = true
		for _, tiling := range sm90Tilings {
			d.programs.kernels[kernelKey{p, tiling.name}] = 5
		}
		return &Stream{dev: d, room: &memory{address: 3 << 20, size: 1 << 20}}
	}
	tensor := func(at int, dt kernels.DType, rows, cols, stride int) kernels.Tensor {
		return kernels.Tensor{Mem: &memory{address: base + handle(at), size: 1 << 30}, DType: dt, Rows: rows, Cols: cols, Stride: stride}
	}
	for name, c := range map[string]struct {
		rows, x, stride int
		y               kernels.DType
		e               kernels.Epilogue
		by              Multiplier
		want            uint32
	}{
		"faster":              {rows: rowsFast, stride: in, want: kindProduct},
		"results in float32":  {rows: rowsFast, stride: in, y: kernels.F32, want: kindProduct},
		"wider rows":          {rows: rowsFast, stride: in + 8, want: kindProduct},
		"slower":              {rows: rowsOwn, stride: in, want: kindLaunch},
		"slower, forced":      {rows: rowsOwn, stride: in, by: CuBLASLt, want: kindProduct},
		"faster, not wanted":  {rows: 1, stride: in, by: Own, want: kindLaunch},
		"more than once adds": {rows: 50, stride: in, by: CuBLASLt, e: kernels.Epilogue{Add: true}, want: kindLaunch},
		"an activation":       {rows: 50, stride: in, by: CuBLASLt, e: kernels.Epilogue{Act: kernels.ReLU}, want: kindLaunch},
		"an uneven address":   {rows: 50, x: 8, stride: in, by: CuBLASLt, want: kindLaunch},
		"uneven rows":         {rows: 50, stride: in + 4, by: CuBLASLt, want: kindLaunch},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStream()
			s.dev.multiplier = c.by
			if c.y == 0 {
				c.y = kernels.BF16
			}
			w := &weights{dtype: kernels.BF16, experts: 1, out: out, in: in, inRows: true, data: &memory{address: 9 << 20, size: 1 << 20}}
			w.pad(out)
			s.Linear(tensor(1<<10, c.y, c.rows, out, out+8), tensor(c.x, kernels.BF16, c.rows, in, c.stride), w, c.e)
			if s.err != nil || len(s.queue) < int(unsafe.Sizeof(record{})) {
				t.Fatalf("%v, %d bytes queued", s.err, len(s.queue))
			}
			head := (*record)(unsafe.Pointer(&s.queue[0]))
			if head.kind != c.want || int(head.size) != len(s.queue) || opNumber(head.op) != opLinear {
				t.Fatalf("a record of kind %d, %d of %d bytes, op %v; want kind %d", head.kind, head.size, len(s.queue), opNumber(head.op), c.want)
			}
			if c.want != kindProduct {
				return
			}
			got, want := *(*productRecord)(unsafe.Pointer(&s.queue[0])), productRecord{record: *head, library: 77, algorithm: algorithm, y: base + 1<<10, x: base,
				w: 9 << 20, room: 3 << 20, yStride: out + 8, xStride: int64(c.stride), wStride: 256, roomBytes: 1 << 20,
				rows: int32(c.rows), out: out, in: in, dtype: 14, yType: 14}
			if c.y == kernels.F32 {
				want.yType = 0
			}
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// denseCase is products of one matrix.
type denseCase struct {
	out, in int
	rows    []int
}

func denseCases() []denseCase {
	every := []int{1, 2, 3, 8, 9, 16, 17, 31, 48, 63, 64, 65, 96, 127, 128, 129, 191, 200, 256, 257, 300}
	var few, many []int
	for n := range 300 {
		few = append(few, n+1)
	}
	many = []int{383, 384, 385, 511, 512, 513, 700, 767, 1000, 1024, 1025, 1500, 2047, 2048, 2049, 3000, 4095, 4096, 4097, 5000, 8191, 8192, 8193, 9000}
	r := rand.New(rand.NewPCG(11, 12))
	for range 10 {
		many = append(many, 300+r.IntN(8700))
	}
	return []denseCase{
		{2048, 2048, slices.Concat(every, many)},
		{768, 3072, slices.Concat(few, many)},
		{6144, 2048, slices.Concat(every, many[:12])},
		{2048, 1024, every},
		{1000, 520, slices.Concat(every, many)},
		{50304, 2048, []int{1, 5, 16, 33, 64, 100, 600}},
		{8, 8, every},
		{72, 136, every},
		{256, 8192, every},
	}
}

// TestProducts: cuBLASLt's products have the bits of our own kernels, whatever the number of rows, and touch nothing beside them.
func TestProducts(t *testing.T) {
	d := open(t, Options{NoGraphs: true})
	if !hasBLAS(t, d) {
		return
	}
	for _, dt := range []kernels.DType{kernels.BF16, kernels.F16} {
		for _, yType := range []kernels.DType{dt, kernels.F32} {
			for _, c := range denseCases() {
				if dt == kernels.F16 && c.out > 10000 {
					continue
				}
				t.Run(fmt.Sprintf("%v to %v, %d from %d", dt, yType, c.out, c.in), func(t *testing.T) { c.run(t, d, dt, yType) })
			}
		}
	}
}

// hasBLAS skips loudly where there is none; else d takes it for the smallest weights too.
func hasBLAS(t *testing.T, d *Device) bool {
	t.Helper()
	d.blas.least = 0
	if d.blas.off {
		t.Skipf("NOTHING WAS MULTIPLIED BY cuBLASLt: the card is no Hopper, or %s says so", blasVariable)
	}
	if !d.blas.open() {
		t.Skipf("NOTHING WAS MULTIPLIED BY cuBLASLt: %v", d.blas.openErr)
	}
	return true
}

func (c denseCase) run(t *testing.T, d *Device, dt, yType kernels.DType) {
	most := slices.Max(c.rows)
	data := randomBytes(dt, c.out*c.in)
	w, err := d.Pack("weights", kernels.WeightSpec{DType: dt, Experts: []kernels.Linear{{Parts: []kernels.Matrix{{DType: dt, Rows: c.out, Cols: c.in, Data: data}}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Free()
	const beside = 8 // columns of poison
	alloc := func(dt kernels.DType, cols int) kernels.Tensor {
		x, err := d.Alloc("tensor", dt, most, cols+beside)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	allX, allY := alloc(dt, c.in), alloc(yType, c.out)
	defer allX.Mem.Free()
	defer allY.Mem.Free()
	x, y := allX.ColRange(0, c.in), allY.ColRange(0, c.out)
	values := make([]byte, 0, allX.Bytes())
	for block := randomBytes(dt, 1<<16+77); len(values) < cap(values); {
		values = append(values, block[:min(len(block), cap(values)-len(values))]...)
	}
	poison := bytes.Repeat([]byte{0xff}, int(allY.Bytes()))
	width := (c.out + beside) * yType.Size()
	multiply := func(by Multiplier, from, rows int) []byte {
		d.MultiplyBy(by)
		got := make([]byte, rows*width)
		err := d.now(func(s *Stream) {
			s.Write(allY.RowRange(0, rows), poison[:rows*width])
			s.Linear(y.RowRange(0, rows), x.RowRange(from, from+rows), w, kernels.Epilogue{})
			s.Read(got, allY.RowRange(0, rows))
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err := d.now(func(s *Stream) { s.Write(allX, values) }); err != nil {
		t.Fatal(err)
	}
	want := multiply(Own, 0, most)
	theirs := 0
	d.MultiplyBy(CuBLASLt)
	if err := errors.Join(d.blas.openErr, d.blas.err); err != nil {
		t.Fatal(err)
	}
	for i, rows := range c.rows {
		from := (i * 7919) % (most - rows + 1)
		if got := multiply(CuBLASLt, from, rows); !bytes.Equal(got, want[from*width:(from+rows)*width]) {
			t.Errorf("%d rows, from the %d-th on, have other bits than our own kernels give them", rows, from)
		}
		if d.MultipliedBy(w, yType, rows) == CuBLASLt {
			theirs++
		}
	}
	t.Logf("%d of %d numbers of rows by cuBLASLt", theirs, len(c.rows))
	if theirs == 0 && c.out%64 == 0 && c.in%64 == 0 {
		t.Error("cuBLASLt made none of them")
	}
}

// TestSplitProductsAreFound: algorithms of cuBLASLt that cut the inputs and add what the parts give, which it thinks fastest for
// few rows, give bits that depend on the number of rows; a trial would not take them.
func TestSplitProductsAreFound(t *testing.T) {
	d := open(t, Options{NoGraphs: true})
	if !hasBLAS(t, d) {
		return
	}
	k := shape{kernels.BF16, kernels.BF16, 768, 3072}
	b := d.blas
	b.room = 32 << 20
	if !b.open() {
		t.Fatal(b.openErr)
	}
	for _, g := range trialPrograms(k.w) {
		if err := d.programs.ready(g); err != nil {
			t.Fatal(err)
		}
	}
	trial, err := b.newTrial(k)
	if err == nil {
		_, err = trial.run()
	}
	if err != nil {
		t.Fatal(errors.Join(err, trial.close()))
	}
	defer func() {
		if err := trial.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := zero(d.ctx, trial.counters, 4); err != nil {
		t.Fatal(err)
	}
	found := false
	for i := range counts[:2] {
		y, _, x := trial.rows(counts[i])
		p := b.product(k, y, x, trial.weights[0].data.address)
		all, err := blasChoose(d.ctx, &p, true, mostCandidates)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			if a.parts <= 1 {
				continue
			}
			if err := trial.compare(candidate{count: i, words: a.words}, 0); err != nil {
				t.Fatal(err)
			}
			found = true
		}
	}
	if !found {
		t.Skip("NOTHING WAS SPLIT: this cuBLASLt cuts no inputs of 3072")
	}
	differ, err := trial.differing(1)
	if err != nil {
		t.Fatal(err)
	}
	if differ[0] == 0 {
		t.Error("sums of parts have the bits of sums in order: the comparison sees nothing")
	}
}

// TestProductsInGraphs: products by cuBLASLt between kernels of ours, which are set up beside them, again and again as graphs,
// outputs poisoned and inputs changed between.
func TestProductsInGraphs(t *testing.T) {
	const hidden, steps, rounds = 512, 6, 12
	var want [][]byte
	for _, o := range []Options{{NoGraphs: true}, {NoGraphs: true}, {}} {
		d := open(t, o)
		if !hasBLAS(t, d) {
			return
		}
		s, err := d.newStream()
		if err != nil {
			t.Fatal(err)
		}
		data := randomBytes(kernels.BF16, hidden*hidden)
		w, err := d.Pack("weights", kernels.WeightSpec{DType: kernels.BF16, Experts: []kernels.Linear{{Parts: []kernels.Matrix{{DType: kernels.BF16, Rows: hidden, Cols: hidden, Data: data}}}}})
		if err != nil {
			t.Fatal(err)
		}
		d.MultiplyBy(CuBLASLt)
		if want == nil {
			d.MultiplyBy(Own)
		}
		weight, err := d.Upload("ones", kernels.F32, kernels.Matrix{DType: kernels.F32, Rows: 1, Cols: hidden, Data: bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, hidden)})
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for _, rows := range []int{1, 64, 700} {
			var x [steps + 1]kernels.Tensor
			for i := range x {
				if x[i], err = d.Alloc("x", kernels.BF16, rows, hidden); err != nil {
					t.Fatal(err)
				}
			}
			for round := range rounds {
				result, poison := make([]byte, x[steps].Bytes()), bytes.Repeat([]byte{0xff}, int(x[0].Bytes()))
				s.Write(x[0], bytes.Repeat(data[2*round:], 2)[:len(poison)])
				for i := 1; i <= steps; i++ {
					s.Write(x[i], poison)
				}
				for i := range steps {
					e := kernels.Epilogue{}
					if i%3 == 2 {
						e.Act = kernels.ReLU
					}
					s.Linear(x[i+1], x[i], w, e)
					s.Norm(x[i+1], x[i+1], kernels.Tensor{}, kernels.Norm{Kind: kernels.RMSNorm, Eps: 1e-6, Weight: weight})
				}
				s.Read(result, x[steps])
				if err := s.Sync(); err != nil {
					t.Fatal(err)
				}
				got = append(got, result)
			}
			if d.multiplier == CuBLASLt && d.MultipliedBy(w, kernels.BF16, rows) != CuBLASLt {
				t.Errorf("%d rows: cuBLASLt has other bits", rows)
			}
			for i := range x {
				x[i].Mem.Free()
			}
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%+v, round %d: other bits than our own kernels give one by one", o, i)
			}
		}
		if want == nil {
			want = got
		}
		graphs := 0
		for _, r := range s.replays {
			graphs += int(truth(r.graph != 0))
		}
		if o.NoGraphs != (graphs == 0) {
			t.Errorf("%+v: %d graphs", o, graphs)
		}
		w.Free()
		weight.Mem.Free()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
