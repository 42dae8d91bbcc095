package cpu

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// eachLevel runs f on a device of every level that this machine has, 3 threads each: more than tasks at times.
func eachLevel(t *testing.T, f func(t *testing.T, d *Device, s *Stream)) {
	for _, l := range detect().levels() {
		t.Run(l.String(), func(t *testing.T) {
			d, err := New(Options{Threads: 3, Level: l.String()})
			if err != nil {
				t.Fatal(err)
			}
			s := &Stream{dev: d}
			f(t, d, s)
			if err := s.Sync(); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

var weightTypes = []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8}

func normals(r *rand.Rand, n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

func matrixOf(x []float32, rows, cols int) kernels.Matrix {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return kernels.Matrix{DType: kernels.F32, Rows: rows, Cols: cols, Data: b}
}

// tensorOf is x in a tensor of its own with rows stride apart, old contents of NaN between them.
func tensorOf(t testing.TB, d *Device, x []float32, rows, cols, stride int) kernels.Tensor {
	t.Helper()
	y, err := d.Alloc("test", kernels.F32, rows, stride)
	if err != nil {
		t.Fatal(err)
	}
	for i := range y.Rows {
		for j := range view[float32](y).row(i) {
			view[float32](y).row(i)[j] = float32(math.NaN())
		}
	}
	y = y.ColRange(0, cols)
	for i := range len(x) / max(cols, 1) {
		copy(view[float32](y).row(i), x[i*cols:(i+1)*cols])
	}
	return y
}

func tensorOfInts(t testing.TB, d *Device, x ...int32) kernels.Tensor {
	t.Helper()
	y, err := d.Alloc("test", kernels.I32, 1, len(x))
	if err != nil {
		t.Fatal(err)
	}
	copy(vector[int32](y), x)
	return y
}

type randomWeights struct {
	dtype            kernels.DType
	experts, in, out int
	group            int
	gated            bool
}

func (c randomWeights) pack(t testing.TB, d *Device, seed uint64) kernels.Weights {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	s := kernels.WeightSpec{DType: c.dtype, Group: c.group, Gated: c.gated}
	for range c.experts {
		var l kernels.Linear
		for range map[bool]int{false: 1, true: 2}[c.gated] {
			l.Parts = append(l.Parts, matrixOf(normals(r, c.out*c.in, 1/math.Sqrt(float64(c.in))), c.out, c.in))
			l.Bias = append(l.Bias, matrixOf(normals(r, c.out, 1), 1, c.out))
		}
		s.Experts = append(s.Experts, l)
	}
	w, err := d.Pack("test", s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Promise 1: a row has the same bits alone and among any number of others, wherever it stands.
func TestRowIgnoresItsNeighbours(t *testing.T) {
	const most = 70
	eachLevel(t, func(t *testing.T, d *Device, s *Stream) {
		for _, dtype := range weightTypes {
			c := randomWeights{dtype: dtype, experts: 1, in: 203, out: 75}
			w := c.pack(t, d, 2)
			x := normals(rand.New(rand.NewPCG(3, 3)), most*c.in, 1)
			x[5*c.in+7], x[6*c.in] = float32(math.Inf(1)), float32(math.NaN()) // spoil their own rows only
			all := tensorOf(t, d, x, most, c.in, c.in+3)
			alone := tensorOf(t, d, nil, most, c.out, c.out)
			e := kernels.Epilogue{Act: kernels.GELUErf}
			for i := range most {
				s.Linear(alone.RowRange(i, i+1), all.RowRange(i, i+1), w, e)
			}
			for m := 1; m <= most; m++ {
				from := (most - m) / 2
				y := tensorOf(t, d, nil, m, c.out, c.out+5)
				s.Linear(y, all.RowRange(from, from+m), w, e)
				for i := range m {
					if !sameBits(view[float32](y).row(i), view[float32](alone).row(from+i)) {
						t.Fatalf("%v: row %d differs among %d rows", dtype, from+i, m)
					}
				}
			}
			for i, v := range view[float32](alone).data {
				if spoilt := i/c.out == 5 || i/c.out == 6; math.IsNaN(float64(v)) && !spoilt {
					t.Fatalf("%v: row %d is spoilt by another", dtype, i/c.out)
				}
			}
			w.Free()
		}
	})
}

func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && !(a[i] != a[i] && b[i] != b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// Threads and the cut into chunks and tasks change no bit: many rows and few, one expert with most of them.
func TestGroupedIgnoresThreadsAndTasks(t *testing.T) {
	c := randomWeights{dtype: kernels.BF16, experts: 7, in: 1031, out: 290, gated: true}
	counts := []int{0, 1, 2311, 0, 33, 12, 0}
	slots := 0
	offsets := []int32{0}
	for _, n := range counts {
		slots += n
		offsets = append(offsets, int32(slots))
	}
	r := rand.New(rand.NewPCG(5, 6))
	const tokens = 301
	x := normals(r, tokens*c.in, 1)
	index := make([]int32, slots)
	for i := range index {
		index[i] = int32(r.IntN(2 * tokens))
	}
	for _, l := range detect().levels() {
		if l <= Generic && testing.Short() {
			continue
		}
		var first []float32
		for _, threads := range []int{1, 2, 5} {
			d, err := New(Options{Threads: threads, Level: l.String()})
			if err != nil {
				t.Fatal(err)
			}
			s := &Stream{dev: d}
			w := c.pack(t, d, 9)
			y := tensorOf(t, d, nil, slots, c.out, c.out)
			s.Grouped(y, tensorOf(t, d, x, tokens, c.in, c.in), w, tensorOfInts(t, d, offsets...), tensorOfInts(t, d, index...), 2, kernels.Epilogue{Act: kernels.SiLU})
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = view[float32](y).data
			}
			if !sameBits(first, view[float32](y).data) {
				t.Errorf("%v: %d threads differ from 1", l, threads)
			}
			w.Free()
			_ = s.Close()
			_ = d.Close()
		}
	}
}

// Every level computes what the reference does, which computes in float64: ragged experts, gathers, all the endings.
func TestGroupedIsItsReference(t *testing.T) {
	reference, err := New(Options{Threads: 2, Level: "reference"})
	if err != nil {
		t.Fatal(err)
	}
	defer reference.Close()
	const tokens, div = 23, 3
	counts := []int{0, 1, 13, 0, 40, 2}
	offsets := []int32{0}
	var index []int32
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range counts {
		for range n {
			index = append(index, int32(r.IntN(tokens*div)))
		}
		offsets = append(offsets, int32(len(index)))
	}
	compute := func(t *testing.T, d *Device, c randomWeights, e kernels.Epilogue) []float32 {
		s := &Stream{dev: d}
		defer s.Close()
		w := c.pack(t, d, 4)
		defer w.Free()
		x := tensorOf(t, d, normals(rand.New(rand.NewPCG(1, 1)), tokens*c.in, 1), tokens, c.in, c.in+1)
		old := normals(rand.New(rand.NewPCG(2, 1)), len(index)*c.out, 1)
		y := tensorOf(t, d, old, len(index), c.out, c.out+2)
		s.Grouped(y, x, w, tensorOfInts(t, d, offsets...), tensorOfInts(t, d, index...), div, e)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		var all []float32
		for i := range len(index) {
			all = append(all, view[float32](y).row(i)...)
		}
		return all
	}
	eachLevel(t, func(t *testing.T, d *Device, _ *Stream) {
		n := 0
		for _, dtype := range weightTypes {
			for _, in := range []int{1, 30, 64, 333} {
				for _, out := range []int{1, 16, 31, 32, 33, 97} {
					c := randomWeights{dtype: dtype, experts: len(counts), in: in, out: out, gated: n%3 == 1}
					if dtype == kernels.I8 && in%3 == 0 {
						c.group = in / 3
					}
					e := kernels.Epilogue{Act: kernels.Activation(n % 5), Add: n%2 == 1}
					n++
					// What rounding x may cost: nothing, half a bf16, or half of 1/127 of the row's largest.
					tolerance := 4e-6
					if dtype == kernels.BF16 && d.level >= AVX512BF16 {
						tolerance = 2e-2
					}
					want, got := compute(t, reference, c, e), compute(t, d, c, e)
					for i := range want {
						if diff := math.Abs(float64(got[i] - want[i])); !(diff <= tolerance*(4+math.Abs(float64(want[i])))) {
							t.Fatalf("%+v, %+v: slot %d, output %d: %g, want %g", c, e, i/out, i%out, got[i], want[i])
						}
					}
				}
			}
		}
	})
}

// int8 products are exact, so all levels but for the ending agree to the bit.
func TestInt8IsTheSameEverywhere(t *testing.T) {
	c := randomWeights{dtype: kernels.I8, experts: 1, in: 384, out: 40, group: 48}
	var first []float32
	var from string
	eachLevel(t, func(t *testing.T, d *Device, s *Stream) {
		if d.level == Reference {
			return
		}
		w := c.pack(t, d, 4)
		defer w.Free()
		y := tensorOf(t, d, nil, 9, c.out, c.out)
		s.Linear(y, tensorOf(t, d, normals(rand.New(rand.NewPCG(1, 1)), 9*c.in, 1), 9, c.in, c.in), w, kernels.Epilogue{})
		if first == nil {
			first, from = view[float32](y).data, d.level.String()
		}
		if !sameBits(first, view[float32](y).data) {
			t.Errorf("%v differs from %s", d.level, from)
		}
	})
}

// The activations through the identity matrix, against float64, all over float32's range.
func TestActivations(t *testing.T) {
	const n = 4096
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i-n/2) * (12.0 / (n / 2))
	}
	copy(x, []float32{0, float32(math.Copysign(0, -1)), 1e-30, -1e-30, 1e-8, -1e-8, 100, -100, 3e38, -3e38, float32(math.Inf(1)), -88, 88, -103, 1e-42})
	eachLevel(t, func(t *testing.T, d *Device, s *Stream) {
		w, err := d.Pack("one", kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrixOf([]float32{1}, 1, 1)}}}})
		if err != nil {
			t.Fatal(err)
		}
		for act := kernels.Identity; act <= kernels.ReLU; act++ {
			y := tensorOf(t, d, nil, n, 1, 1)
			s.Linear(y, tensorOf(t, d, x, n, 1, 1), w, kernels.Epilogue{Act: act})
			for i, got := range view[float32](y).data {
				want := activate(act, float64(x[i]))
				tolerance := 4 * 0x1p-23 * math.Abs(want) // units in the last place, or fewer
				if diff := math.Abs(float64(got) - want); !(diff <= tolerance+0x1p-120) && float64(got) != want {
					t.Fatalf("activation %d of %g: %g, want %g, off by %.1f ulp", act, x[i], got, want, diff/math.Abs(want)*0x1p23)
				}
			}
		}
	})
}

// Infinities, NaN, the largest and the smallest numbers come out of float32 products as they do in float64; only what is
// below 2⁻¹²⁰ may be anything as small.
func TestLinearOfSpecialValues(t *testing.T) {
	const in, rows, out = 70, 40, 40
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	r := rand.New(rand.NewPCG(11, 12))
	x, w := normals(r, rows*in, 1), normals(r, out*in, 1)
	spoil := func(m []float32, row int, v ...float32) {
		for i, v := range v {
			m[row*in+(17*i+3)%in] = v
		}
	}
	fill := func(m []float32, row int, v float32) {
		for i := range in {
			m[row*in+i] *= v
		}
	}
	for i, v := range [][]float32{{inf}, {-inf}, {inf, inf}, {inf, -inf}, {nan}, {math.Float32frombits(0x7f800001)},
		{math.MaxFloat32}, {-math.MaxFloat32}, {math.Float32frombits(0x7f7f8000)}, {math.SmallestNonzeroFloat32}, {0x1p-126}} {
		spoil(x, 1+2*i, v...) // in both halves of 32 rows
		spoil(w, 2+3*i, v...) // and of outputs
	}
	fill(x, 24, 0)
	fill(w, 36, 0)
	fill(x, 26, 1e-25)
	fill(w, 37, 1e-25)
	fill(x, 28, 1e17)
	fill(w, 38, 1e17)
	fill(x, 30, 1e-41)
	for i := range in { // whose every piece but the first is 0
		w[39*in+i] = float32(math.Copysign(1, float64(w[39*in+i])))
	}
	eachLevel(t, func(t *testing.T, d *Device, s *Stream) {
		weights, err := d.Pack("special", kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrixOf(w, out, in)}}}})
		if err != nil {
			t.Fatal(err)
		}
		defer weights.Free()
		y := tensorOf(t, d, nil, rows, out, out)
		s.Linear(y, tensorOf(t, d, x, rows, in, in), weights, kernels.Epilogue{})
		for i := range rows {
			for j, got := range view[float32](y).row(i) {
				want, magnitude := 0.0, 0.0
				for k := range in {
					p := float64(x[i*in+k]) * float64(w[j*in+k])
					want, magnitude = want+p, magnitude+math.Abs(p)
				}
				g := float64(got)
				switch {
				case math.IsNaN(want) != math.IsNaN(g) || math.IsInf(want, 0) && g != want:
				case math.IsNaN(want) || g == want || math.Abs(want) > math.MaxFloat32 && g == math.Copysign(math.Inf(1), want):
					continue
				case math.Abs(g-want) <= 4e-6*magnitude+0x1p-120:
					continue
				}
				t.Errorf("row %d, output %d: %g, want %g", i, j, g, want)
			}
		}
	})
}

func TestLinearAllocatesNothing(t *testing.T) {
	eachLevel(t, func(t *testing.T, d *Device, s *Stream) {
		if d.level == Reference {
			t.Skip("the reference allocates as it likes")
		}
		w := randomWeights{dtype: kernels.I8, experts: 3, in: 64, out: 200}.pack(t, d, 1)
		defer w.Free()
		y, x := tensorOf(t, d, nil, 40, 200, 200), tensorOf(t, d, nil, 40, 64, 64)
		offsets := tensorOfInts(t, d, 0, 3, 3, 40)
		if n := testing.AllocsPerRun(50, func() { s.Grouped(y, x, w, offsets, kernels.Tensor{}, 1, kernels.Epilogue{}) }); n != 0 {
			t.Errorf("%g allocations a call", n)
		}
	})
}

// Weights are float32 or their rounding, whatever the type of the source; free gives their memory back.
func TestPackTakesTheBytesItSays(t *testing.T) {
	eachLevel(t, func(t *testing.T, d *Device, _ *Stream) {
		for dtype, size := range map[kernels.DType]int64{kernels.F32: 4, kernels.BF16: 2, kernels.F16: 2, kernels.I8: 1} {
			w := randomWeights{dtype: dtype, experts: 2, in: 256, out: 320}.pack(t, d, 1)
			values := int64(2 * 256 * 320)
			if got := w.Bytes(); got < values*size || got > values*size*11/10 {
				t.Errorf("%v: %d bytes for %d values", dtype, got, values)
			}
			w.Free()
			if w.Bytes() != 0 {
				t.Errorf("%v: %d bytes after Free", dtype, w.Bytes())
			}
		}
	})
}

func TestPackRefuses(t *testing.T) {
	d, err := New(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m := func(rows, cols int) kernels.Matrix { return matrixOf(make([]float32, rows*cols), rows, cols) }
	one := func(parts ...kernels.Matrix) []kernels.Linear { return []kernels.Linear{{Parts: parts}} }
	short := m(2, 3)
	short.Data = short.Data[1:]
	for want, s := range map[string]kernels.WeightSpec{
		"no matrix":                             {DType: kernels.F32},
		"weights of type int32":                 {DType: kernels.I32, Experts: one(m(2, 3))},
		"no part":                               {DType: kernels.F32, Experts: one()},
		"part 1 takes 4 inputs where part 0":    {DType: kernels.F32, Experts: one(m(2, 3), m(2, 4))},
		"fp32 [2, 3] in 23 bytes":               {DType: kernels.F32, Experts: one(short)},
		"two matrices of one shape":             {DType: kernels.F32, Experts: one(m(2, 3), m(3, 3)), Gated: true},
		"[3, 3] where matrix 0 is [2, 3]":       {DType: kernels.F32, Experts: append(one(m(2, 3)), one(m(3, 3))...)},
		"int8 groups of 2 inputs do not":        {DType: kernels.I8, Group: 2, Experts: one(m(2, 3))},
		"2 biases for 1 parts":                  {DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{m(2, 3)}, Bias: []kernels.Matrix{m(1, 1), m(1, 1)}}}},
		"bias 0 has 3 values for 2 outputs":     {DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{m(2, 3)}, Bias: []kernels.Matrix{m(1, 3)}}}},
		"some matrices have a bias and some":    {DType: kernels.F32, Experts: append(one(m(2, 3)), kernels.Linear{Parts: []kernels.Matrix{m(2, 3)}, Bias: []kernels.Matrix{m(1, 2)}})},
		"a matrix of type int8; use fp32, bf16": {DType: kernels.I8, Experts: one(kernels.Matrix{DType: kernels.I8, Rows: 1, Cols: 1, Data: []byte{1}})},
	} {
		if _, err := d.Pack("layer 3 q", s); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "layer 3 q") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
