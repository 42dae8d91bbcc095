package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// ringLayer is the weights of a layer of the test: in rows for cuBLASLt, int8 and gated, biased, experts, float32.
type ringLayer struct{ square, up, down, experts, gate kernels.Weights }

func (l *ringLayer) all() []kernels.Weights {
	return []kernels.Weights{l.square, l.up, l.down, l.experts, l.gate}
}

const ringWidth, ringInner, ringExperts = 1024, 512, 4

// packRingLayer packs matrices that lie in data at places of the layer's own.
func packRingLayer(t testing.TB, d *Device, data []byte, number int) (l ringLayer) {
	t.Helper()
	at := 1000 * number
	matrix := func(rows, cols int) kernels.Matrix {
		at += 64
		return kernels.Matrix{DType: kernels.BF16, Rows: rows, Cols: cols, Data: data[2*at:][:2*rows*cols]}
	}
	pack := func(s kernels.WeightSpec) kernels.Weights {
		w, err := d.Pack("weights", s)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	l.square = pack(kernels.WeightSpec{DType: kernels.BF16, Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrix(ringWidth, ringWidth)}}}})
	l.up = pack(kernels.WeightSpec{DType: kernels.I8, Group: 64, Gated: true,
		Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrix(ringInner, ringWidth), matrix(ringInner, ringWidth)}}}})
	l.down = pack(kernels.WeightSpec{DType: kernels.BF16, Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrix(ringWidth, ringInner)}, Bias: []kernels.Matrix{matrix(1, ringWidth)}}}})
	var experts []kernels.Linear
	for range ringExperts {
		experts = append(experts, kernels.Linear{Parts: []kernels.Matrix{matrix(ringWidth, ringWidth)}})
	}
	l.experts = pack(kernels.WeightSpec{DType: kernels.BF16, Experts: experts})
	l.gate = pack(kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{matrix(ringWidth, ringWidth)}}}})
	return l
}

// TestRing: layers whose weights come from the host's memory, all or every other one, through any number of buffers, give the
// bits of those that stay, in graphs and without, in the first round and in later ones, rounds given up half-way among them.
func TestRing(t *testing.T) {
	const layers, rows, rounds = 5, 200, 4
	data := randomBytes(kernels.BF16, 2*ringWidth*ringWidth)
	var want [][]byte
	for _, c := range []struct {
		buffers, every int // one layer of so many comes from the host; 0: none
		o              Options
	}{{0, 0, Options{}}, {2, 1, Options{}}, {2, 1, Options{NoGraphs: true}}, {3, 1, Options{}}, {5, 1, Options{}}, {9, 1, Options{}}, {2, 2, Options{}}, {3, 2, Options{NoGraphs: true}}} {
		d := open(t, c.o)
		d.MultiplyBy(CuBLASLt)
		all, groups := make([]ringLayer, layers), make([]int, layers)
		var r kernels.Ring
		var err error
		if c.every > 0 {
			if r, err = d.NewRing(c.buffers); err != nil {
				t.Fatal(err)
			}
		}
		held := 0
		for i := range all {
			all[i], groups[i] = packRingLayer(t, d, data, i), -1
			if c.every > 0 && i%c.every == 0 {
				groups[i] = held
				held++
				if err := r.Hold(fmt.Sprintf("layer %d", i), all[i].all()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r != nil {
			if err := r.Fill(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := d.newStream()
		if err != nil {
			t.Fatal(err)
		}
		var tensors [4]kernels.Tensor
		for i, cols := range []int{ringWidth, ringWidth, ringInner, ringWidth} {
			if tensors[i], err = d.Alloc("x", kernels.BF16, rows, cols); err != nil {
				t.Fatal(err)
			}
		}
		x, y, inner, z := tensors[0], tensors[1], tensors[2], tensors[3]
		offsets, err := d.Alloc("offsets", kernels.I32, 1, ringExperts+1)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for round := range rounds {
			input, at := data[2*round:][:2*rows*ringWidth], []byte(nil)
			for e := range ringExperts + 1 {
				at = binary.LittleEndian.AppendUint32(at, uint32(e*e*rows/(ringExperts*ringExperts)))
			}
			s.Write(x, input)
			s.Write(offsets, at)
			for i := range all {
				l := &all[i]
				if groups[i] >= 0 {
					r.Enter(s, groups[i])
				}
				s.Linear(y, x, l.square, kernels.Epilogue{})
				s.Linear(inner, y, l.up, kernels.Epilogue{Act: kernels.SiLU})
				s.Linear(y, inner, l.down, kernels.Epilogue{})
				s.Grouped(z, y, l.experts, offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
				if round == 1 && i == 2 && groups[i] >= 0 { // an exchange through the host stands here
					if err := s.Sync(); err != nil {
						t.Fatal(err)
					}
				}
				s.Linear(x, z, l.gate, kernels.Epilogue{})
				if groups[i] >= 0 {
					r.Leave(s, groups[i])
				}
			}
			result := make([]byte, x.Bytes())
			s.Read(result, x)
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			got = append(got, result)
			if r != nil && round == 2 { // given up after two groups
				r.Enter(s, 0)
				r.Leave(s, 0)
				if held > 1 {
					r.Enter(s, 1)
				}
				if err := s.Sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for round := range want {
			if !bytes.Equal(got[round], want[round]) {
				t.Errorf("%+v: round %d has other bits than with all weights on the GPU", c, round)
			}
		}
		if want == nil {
			want = got
		}
		if r != nil {
			traffic := r.Traffic()
			t.Logf("%+v: %.1f MB brought, the bus carries %.1f GB/s", c, float64(traffic.Bytes)/1e6, traffic.Rate/1e9)
			if traffic.Bytes == 0 || traffic.Rate <= 0 {
				t.Errorf("%+v: traffic %+v", c, traffic)
			}
			s.Linear(y, x, all[0].square, kernels.Epilogue{})
			if err := s.Sync(); err == nil || !strings.Contains(err.Error(), "weights of group 0") {
				t.Errorf("%+v: weights were used that nothing brought: %v", c, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for i := range all {
			for _, w := range all[i].all() {
				w.Free()
			}
		}
		for _, x := range append(tensors[:], offsets) {
			x.Mem.Free()
		}
		if r != nil {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// BenchmarkPin times how memory of the host is pinned, by large pages and by the driver.
func BenchmarkPin(b *testing.B) {
	d := open(b, Options{})
	const size = 1 << 30
	for name, take := range map[string]func(handle, int64) (*pinned, error){"pages": pin, "driver": pinByDriver} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p, err := take(d.ctx, size)
				if err != nil {
					b.Fatal(err)
				}
				if (p.mapped != nil) != (name == "pages") {
					b.Errorf("%s: by the driver: %t", name, p.mapped == nil)
				}
				b.StopTimer()
				if err := p.free(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		})
	}
}
