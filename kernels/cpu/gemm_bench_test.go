package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// Weights enough that no cache holds them from one call to the next.
const benchWeightBytes = 160 << 20

// BenchmarkLinear prints what share of this machine's own ceilings is reached, measured in the same run: of the
// products that the instruction set allows, and of the memory's read bandwidth by the bytes of the weights.
func BenchmarkLinear(b *testing.B) {
	const n = 2048
	d, s := benchDevice(b)
	for _, dtype := range weightTypes {
		var matrices []kernels.Weights
		for total := int64(0); total < benchWeightBytes; total += matrices[0].Bytes() {
			matrices = append(matrices, randomWeights{dtype: dtype, experts: 1, in: n, out: n}.pack(b, d, uint64(len(matrices))))
		}
		for _, m := range []int{1, 4, 16, 64, 256} {
			b.Run(fmt.Sprintf("%v/M=%d", dtype, m), func(b *testing.B) {
				x := tensorOf(b, d, normals(rand.New(rand.NewPCG(1, 1)), m*n, 1), m, n, n)
				y := tensorOf(b, d, nil, m, n, n)
				i := 0
				benchCeilings(b, d, dtype, 2*float64(m)*n*n, float64(matrices[0].Bytes()), func() {
					s.Linear(y, x, matrices[i%len(matrices)], kernels.Epilogue{})
					i++
				})
			})
		}
		for _, w := range matrices {
			w.Free()
		}
	}
}

// BenchmarkGrouped is one layer of 16 experts with 1 to 64 tokens each, beside its two bounds: the bytes of all weights
// at the read bandwidth, and one linear op of the same number of rows.
func BenchmarkGrouped(b *testing.B) {
	const n, experts = 1024, 16
	d, s := benchDevice(b)
	r := rand.New(rand.NewPCG(3, 3))
	offsets := []int32{0}
	slots := 0
	for range experts {
		slots += 1 + r.IntN(64)
		offsets = append(offsets, int32(slots))
	}
	at := tensorOfInts(b, d, offsets...)
	for _, dtype := range weightTypes {
		var layers, singles []kernels.Weights
		for total := int64(0); total < benchWeightBytes; total += layers[0].Bytes() {
			layers = append(layers, randomWeights{dtype: dtype, experts: experts, in: n, out: n}.pack(b, d, 1))
		}
		singles = append(singles, randomWeights{dtype: dtype, experts: 1, in: n, out: n}.pack(b, d, 1))
		x := tensorOf(b, d, normals(r, slots*n, 1), slots, n, n)
		y := tensorOf(b, d, nil, slots, n, n)
		flops := 2 * float64(slots) * n * n
		i := 0
		b.Run(fmt.Sprintf("%v/grouped", dtype), func(b *testing.B) {
			benchCeilings(b, d, dtype, flops, float64(layers[0].Bytes()), func() {
				s.Grouped(y, x, layers[i%len(layers)], at, kernels.Tensor{}, 1, kernels.Epilogue{})
				i++
			})
		})
		b.Run(fmt.Sprintf("%v/single", dtype), func(b *testing.B) {
			benchCeilings(b, d, dtype, flops, float64(singles[0].Bytes()), func() { s.Linear(y, x, singles[0], kernels.Epilogue{}) })
		})
		for _, w := range append(layers, singles...) {
			w.Free()
		}
	}
}

// BenchmarkPack is one layer's experts, gate and up, out of a source that no cache holds, into memory never touched
// before, as at load. GB/s of the source.
func BenchmarkPack(b *testing.B) {
	const ffn, hidden, experts = 1024, 1024, 16
	d, _ := benchDevice(b)
	for _, c := range []struct{ from, to kernels.DType }{
		{kernels.BF16, kernels.BF16}, {kernels.F32, kernels.F32}, {kernels.F32, kernels.BF16}, {kernels.BF16, kernels.I8},
	} {
		b.Run(fmt.Sprintf("%v to %v", c.from, c.to), func(b *testing.B) {
			spec := kernels.WeightSpec{DType: c.to, Gated: true}
			size := ffn * hidden * c.from.Size()
			source := make([]byte, 2*experts*size)
			for i := range source {
				source[i] = byte(i * i >> 7)
			}
			part := func(i int) kernels.Matrix {
				return kernels.Matrix{DType: c.from, Rows: ffn, Cols: hidden, Data: source[i*size : (i+1)*size]}
			}
			for e := range experts {
				spec.Experts = append(spec.Experts, kernels.Linear{Parts: []kernels.Matrix{part(2 * e), part(2*e + 1)}})
			}
			b.SetBytes(int64(len(source)))
			for b.Loop() {
				w, err := d.Pack("benchmark", spec)
				if err != nil {
					b.Fatal(err)
				}
				w.Free()
			}
		})
	}
}

func benchDevice(b *testing.B) (*Device, *Stream) {
	d, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	s := &Stream{dev: d}
	b.Cleanup(func() {
		if err := s.Sync(); err != nil {
			b.Error(err)
		}
		_ = s.Close()
		_ = d.Close()
	})
	return d, s
}

// benchCeilings runs f in rounds of some milliseconds, the ceilings between them, and reports medians: of the rates,
// and of the shares of the ceilings in their own round, which a busy machine disturbs least.
func benchCeilings(b *testing.B, d *Device, dtype kernels.DType, flops, bytes float64, f func()) {
	const roundTime = 5 * time.Millisecond
	ceilings, err := d.NewCeilings()
	if err != nil {
		b.Skip(err)
	}
	defer ceilings.Close()
	calls := 1
	for took := time.Duration(0); took < roundTime; calls *= 2 {
		start := time.Now()
		for range 2 * calls {
			f()
		}
		took = time.Since(start)
	}
	var rate, peak, read, bound []float64
	for b.Loop() {
		start := time.Now()
		for range calls {
			f()
		}
		r := float64(calls) / time.Since(start).Seconds()
		b.StopTimer()
		p, q := 0.0, bytes/ceilings.Read()
		if flops > 0 {
			p = flops / ceilings.Products(dtype)
		}
		b.StartTimer()
		rate, peak, read, bound = append(rate, r), append(peak, r*p), append(read, r*q), append(bound, r*max(p, q))
	}
	b.ReportMetric(median(rate)*flops/1e9, "GFLOP/s")
	b.ReportMetric(median(rate)*bytes/1e9, "GB/s")
	b.ReportMetric(100*median(peak), "%peak")
	b.ReportMetric(100*median(read), "%read")
	b.ReportMetric(100*median(bound), "%bound")
	b.ReportMetric(1e6/median(rate), "µs/call")
	b.ReportMetric(0, "ns/op") // of a round, which says nothing
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
