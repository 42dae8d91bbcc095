package moe_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// BenchmarkRouting is everything of a top-2 MoE layer but its experts (gate, tables, dispatch, combine), by tables and
// by one-hot tensors, with as many places an expert as the fullest needs, so that no token is dropped. Skewed: a third
// of all first choices go to one expert, as trained gates do before they are balanced. All on one thread.
func BenchmarkRouting(b *testing.B) {
	for _, hidden := range []int{256, 1024} {
		for _, experts := range []int{8, 32, 128, 512} {
			for _, skewed := range []bool{false, true} {
				name := fmt.Sprintf("hidden=%d/experts=%d/skewed=%v", hidden, experts, skewed)
				b.Run(name+"/tables/tokens=1024", func(b *testing.B) { benchmarkTables(b, hidden, experts, 1024, skewed) })
				b.Run(name+"/tables/tokens=128", func(b *testing.B) { benchmarkTables(b, hidden, experts, 128, skewed) })
				b.Run(name+"/onehot/tokens=128", func(b *testing.B) { benchmarkOneHot(b, hidden, experts, 128, skewed) })
			}
		}
	}
}

const benchK = 2

// route is a routing's tensors for a benchmark of the ops alone.
func (m *machine) route(tokens, experts int) kernels.Routing {
	return kernels.Routing{K: benchK, Experts: experts,
		Expert: m.alloc(kernels.I32, tokens, benchK), Weight: m.alloc(kernels.F32, tokens, benchK), Offsets: m.alloc(kernels.I32, 1, experts+1),
		Choices: m.alloc(kernels.I32, 1, tokens*benchK), Place: m.alloc(kernels.I32, 1, tokens*benchK)}
}

// gateFor makes a gate and tokens that it spreads evenly, or of which a third prefer expert 1.
func gateFor(hidden, experts, tokens int, skewed bool) (linear, matrix) {
	rng := rand.New(rand.NewPCG(12, 12))
	g, x := randomLinear(rng, experts, hidden, false), random(rng, tokens, hidden, 1)
	for t := 0; skewed && t < tokens; t += 3 {
		for i, w := range g.weight.row(1) {
			x.row(t)[i] += 8 * w
		}
	}
	return g, x
}

func benchmarkTables(b *testing.B, hidden, experts, tokens int, skewed bool) {
	m := newMachine(b, 1)
	g, host := gateFor(hidden, experts, tokens, skewed)
	w, x, r := m.pack(false, kernel(g)), m.tensor(host), m.route(tokens, experts)
	logits, slots, y := m.alloc(kernels.F32, tokens, experts), m.alloc(kernels.F32, tokens*benchK, hidden), m.alloc(kernels.F32, tokens, hidden)
	measure(b, func() {
		m.stream.Linear(logits, x, w, kernels.Epilogue{})
		m.stream.Gate(r, logits, kernels.Gate{Experts: experts, K: benchK, Renormalise: true})
		m.stream.Table(r)
		m.stream.Select(slots, x, r.Choices, benchK)
		m.stream.Combine(y, slots, r)
		if err := m.stream.Sync(); err != nil {
			b.Fatal(err)
		}
	})
	bytes := logits.Bytes() + slots.Bytes() + r.Expert.Bytes() + r.Weight.Bytes() + r.Offsets.Bytes() + r.Choices.Bytes() + r.Place.Bytes()
	b.ReportMetric(float64(bytes)/1e6, "MB")
}

// measure reports the processor's time of f.
func measure(b *testing.B, f func()) {
	start := processorTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric((processorTime(b)-start).Seconds()/float64(b.N)*1e6, "cpu-µs")
}

func benchmarkOneHot(b *testing.B, hidden, experts, tokens int, skewed bool) {
	m := newMachine(b, 1)
	g, host := gateFor(hidden, experts, tokens, skewed)
	w, x, r := m.pack(false, kernel(g)), m.tensor(host), m.route(tokens, experts)
	logits := m.alloc(kernels.F32, tokens, experts)
	var bytes int64
	measure(b, func() {
		m.stream.Linear(logits, x, w, kernels.Epilogue{})
		m.stream.Gate(r, logits, kernels.Gate{Experts: experts, K: benchK, Renormalise: true})
		expert, weight := m.ints(r.Expert), m.read(r.Weight).v
		places, most := placesInside(expert, experts)
		o := &oneHot{machine: m, experts: experts, capacity: most}
		o.dispatch(host, expert, places, benchK)
		y := o.combine(m.read(o.buffer), expert, places, weight, benchK)
		bytes = o.bytes + logits.Bytes()
		o.buffer.Mem.Free()
		y.Mem.Free()
	})
	b.ReportMetric(float64(bytes)/1e6, "MB")
}

// BenchmarkShare is how much of a layer's work is not its experts': the processor's time of each part by itself and of
// the whole layer, on one thread, so that neither other programs nor waiting threads count. On one rank there is no dispatch,
// as the experts' first GEMM gathers its rows; what a copy would take is told apart.
func BenchmarkShare(b *testing.B) {
	for _, c := range []struct {
		d   kernels.DType
		ffn int
	}{{kernels.F32, 1024}, {kernels.BF16, 1024}, {kernels.BF16, 4096}, {kernels.I8, 1024}} {
		b.Run(fmt.Sprintf("hidden=1024/experts=64/tokens=1024/ffn=%d/%v", c.ffn, c.d), func(b *testing.B) { benchmarkShare(b, c.d, c.ffn) })
	}
}

func benchmarkShare(b *testing.B, d kernels.DType, ffn int) {
	const hidden, experts, tokens = 1024, 64, 1024
	m := newMachine(b, 1)
	g, host := gateFor(hidden, experts, tokens, false)
	rng := rand.New(rand.NewPCG(13, 13))
	up, down := kernel(randomLinear(rng, ffn, hidden, true)), kernel(randomLinear(rng, hidden, ffn, true))
	pack := func(l kernels.Linear) kernels.Weights {
		w, err := m.device.Pack("bench", kernels.WeightSpec{DType: d, Experts: slices.Repeat([]kernels.Linear{l}, experts)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.Free)
		return w
	}
	layer := &moe.Layer{Gate: kernels.Gate{Experts: experts, K: benchK, Renormalise: true}, Act: kernels.Epilogue{Act: kernels.GELUTanh}, Logits: m.pack(false, kernel(g)), Up: pack(up), Down: []kernels.Weights{pack(down)}}
	w, err := moe.NewWorkspace(m.device, kernels.F32, moe.Shape{Tokens: tokens, Hidden: hidden, Inner: ffn, Experts: experts, K: benchK, Layers: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Free()
	x, y, r := m.tensor(host), m.alloc(kernels.F32, tokens, hidden), m.route(tokens, experts)
	logits, slots := m.alloc(kernels.F32, tokens, experts), m.alloc(kernels.F32, tokens*benchK, hidden)
	parts := []struct {
		name string
		do   func()
		took time.Duration // of a processor, in all rounds
	}{
		{"layer", func() {
			w.Begin(0)
			if err := layer.Forward(b.Context(), m.stream, y, x, w); err != nil {
				b.Fatal(err)
			}
		}, 0},
		{"logits", func() { m.stream.Linear(logits, x, layer.Logits, kernels.Epilogue{}) }, 0},
		{"gate", func() { m.stream.Gate(r, logits, layer.Gate) }, 0},
		{"table", func() { m.stream.Table(r) }, 0},
		{"dispatch", func() { m.stream.Select(slots, x, r.Choices, benchK) }, 0},
		{"combine", func() { m.stream.Combine(y, slots, r) }, 0},
	}
	for b.Loop() {
		for i := range parts {
			start := processorTime(b)
			parts[i].do()
			if err := m.stream.Sync(); err != nil {
				b.Fatal(err)
			}
			parts[i].took += processorTime(b) - start
		}
	}
	var routing, dispatch time.Duration
	for _, p := range parts {
		b.ReportMetric(p.took.Seconds()/float64(b.N)*1e6, p.name+"-µs")
		switch p.name {
		case "layer":
		case "dispatch":
			dispatch = p.took
		default:
			routing += p.took
		}
	}
	whole := parts[0].took.Seconds()
	b.ReportMetric(100*routing.Seconds()/whole, "%routing")
	b.ReportMetric(100*(routing+dispatch).Seconds()/whole, "%with-dispatch")
	b.ReportMetric(4*benchK*tokens*hidden*float64(ffn)*float64(b.N)/whole/1e9, "GFLOP/s")
}

// processorTime is what this program has used of the processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
