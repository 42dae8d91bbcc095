package moe_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/shard"
)

// matrix is rows of float32 on the host.
type matrix struct {
	rows, cols int
	v          []float32
}

func (m matrix) row(i int) []float32 { return m.v[i*m.cols : (i+1)*m.cols] }

// slice is rows [from, to).
func (m matrix) slice(from, to int) matrix {
	return matrix{to - from, m.cols, m.v[from*m.cols : to*m.cols]}
}

func (m matrix) host() kernels.Matrix {
	return kernels.Matrix{DType: kernels.F32, Rows: m.rows, Cols: m.cols, Data: bytesOf(m.v)}
}

func bytesOf(v []float32) []byte {
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return data
}

func floatsOf(data []byte) []float32 {
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

func random(rng *rand.Rand, rows, cols int, spread float64) matrix {
	m := matrix{rows, cols, make([]float32, rows*cols)}
	for i := range m.v {
		m.v[i] = float32(rng.NormFloat64() * spread)
	}
	return m
}

// linear is y = x·Wᵀ + b; bias has no rows where there is none.
type linear struct{ weight, bias matrix }

func randomLinear(rng *rand.Rand, out, in int, bias bool) linear {
	l := linear{weight: random(rng, out, in, 1/math.Sqrt(float64(in)))}
	if bias {
		l.bias = random(rng, 1, out, 0.3)
	}
	return l
}

// kernel is what packs it; several are stacked (gate over up).
func kernel(parts ...linear) kernels.Linear {
	var k kernels.Linear
	for _, l := range parts {
		k.Parts = append(k.Parts, l.weight.host())
		if l.bias.rows > 0 {
			k.Bias = append(k.Bias, l.bias.host())
		}
	}
	return k
}

func (l linear) of(x []float64) []float64 {
	y := make([]float64, l.weight.rows)
	for o := range y {
		for i, w := range l.weight.row(o) {
			y[o] += float64(w) * x[i]
		}
		if l.bias.rows > 0 {
			y[o] += float64(l.bias.v[o])
		}
	}
	return y
}

// expert is two linear ops with an activation between; gate has no weight where the family is not gated.
type expert struct{ gate, up, down linear }

func (e expert) of(x []float64, act kernels.Activation) []float64 {
	inner := e.up.of(x)
	if e.gate.weight.rows > 0 {
		for i, g := range e.gate.of(x) {
			inner[i] *= activate(act, g)
		}
	} else {
		for i := range inner {
			inner[i] = activate(act, inner[i])
		}
	}
	return e.down.of(inner)
}

func activate(a kernels.Activation, x float64) float64 {
	switch a {
	case kernels.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case kernels.SiLU:
		return x / (1 + math.Exp(-x))
	}
	panic("an activation that these tests do not know")
}

// definition is a whole MoE layer as numbers on the host: what it computes, slowly and by the book.
type definition struct {
	gate     kernels.Gate
	wg       linear
	experts  []expert
	act      kernels.Activation
	residual *expert // PR-MoE's, or a shared expert
	mix      linear
	capacity *moe.Capacity
}

// shape of a random definition.
type shape struct {
	hidden, ffn, experts, k      int
	shared                       int // the inside of a shared expert; 0: none
	residual, gated, bias, renor bool
}

func randomDefinition(rng *rand.Rand, s shape) *definition {
	make1 := func(ffn int) expert {
		e := expert{up: randomLinear(rng, ffn, s.hidden, s.bias), down: randomLinear(rng, s.hidden, ffn, s.bias)}
		if s.gated {
			e.gate = randomLinear(rng, ffn, s.hidden, s.bias)
		}
		return e
	}
	d := &definition{gate: kernels.Gate{Experts: s.experts, K: s.k, Renormalise: s.renor}, act: kernels.GELUTanh,
		wg: randomLinear(rng, s.experts, s.hidden, false)}
	if s.gated {
		d.act = kernels.SiLU
	}
	for range s.experts {
		d.experts = append(d.experts, make1(s.ffn))
	}
	if s.residual {
		e := make1(s.ffn)
		d.residual, d.mix = &e, randomLinear(rng, 2, s.hidden, true)
	}
	if s.shared > 0 {
		e := make1(s.shared)
		d.residual, d.mix = &e, randomLinear(rng, 1, s.hidden, false)
	}
	return d
}

func (d *definition) hidden() int { return d.wg.weight.cols }
func (d *definition) ffn() int    { return d.experts[0].up.weight.rows }
func (d *definition) branch() int {
	if d.residual == nil {
		return 0
	}
	return d.residual.up.weight.rows
}

// probabilities of one token's experts.
func (d *definition) probabilities(x []float64) []float64 {
	p := d.wg.of(x)
	largest, sum := slices.Max(p), 0.0
	for i := range p {
		p[i] = math.Exp(p[i] - largest)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// ranked is the experts by falling probability, the lower index first among equals.
func ranked(p []float64) []int {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] > p[b]:
			return -1
		case p[a] < p[b]:
			return 1
		}
		return 0
	})
	return order
}

// token is one token's result given which of its choices are kept, and with what weights.
func (d *definition) token(x []float64, chosen []int, weights []float64) []float64 {
	y := make([]float64, len(x))
	for c, e := range chosen {
		if e < 0 {
			continue
		}
		for i, v := range d.experts[e].of(x, d.act) {
			y[i] += weights[c] * v
		}
	}
	if d.residual != nil {
		c := d.mix.of(x)
		c0, c1 := 1.0, 1/(1+math.Exp(-c[0]))
		if len(c) == 2 {
			c0 = 1 / (1 + math.Exp(c[1]-c[0]))
			c1 = 1 - c0
		}
		for i, v := range d.residual.of(x, d.act) {
			y[i] = y[i]*c0 + v*c1
		}
	}
	return y
}

func wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// machine is a device with a stream, and the layer of a definition on it.
type machine struct {
	t      testing.TB
	device kernels.Device
	stream kernels.Stream
}

func newMachine(t testing.TB, threads int) *machine {
	t.Helper()
	device, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	return machineOf(t, device)
}

func machineOf(t testing.TB, device kernels.Device) *machine {
	t.Helper()
	stream, err := device.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		if err := device.Close(); err != nil {
			t.Error(err)
		}
	})
	return &machine{t: t, device: device, stream: stream}
}

// layer packs d as rank of ranks holds it; with one rank there is no exchange.
func (m *machine) layer(d *definition, exchange *moe.Exchange) *moe.Layer {
	m.t.Helper()
	if exchange == nil {
		return m.placed(d, nil, nil, d.experts)
	}
	local := d.gate.Experts / exchange.Ranks
	return m.placed(d, exchange, nil, d.experts[exchange.Rank*local:(exchange.Rank+1)*local])
}

// placed is a layer that holds these experts.
func (m *machine) placed(d *definition, exchange *moe.Exchange, places []shard.Place, held []expert) *moe.Layer {
	m.t.Helper()
	l := &moe.Layer{Gate: d.gate, Act: kernels.Epilogue{Act: d.act}, Capacity: d.capacity, Exchange: exchange, Places: places, Logits: m.pack(false, kernel(d.wg))}
	l.Up, l.Down = m.experts(held...)
	if d.residual != nil {
		l.Residual = &moe.Residual{Mix: m.pack(false, kernel(d.mix))}
		l.Residual.Up, l.Residual.Down = m.experts(*d.residual)
	}
	return l
}

func (m *machine) experts(list ...expert) (up kernels.Weights, down []kernels.Weights) {
	var ups, downs []kernels.Linear
	gated := list[0].gate.weight.rows > 0
	for _, e := range list {
		if gated {
			ups = append(ups, kernel(e.gate, e.up))
		} else {
			ups = append(ups, kernel(e.up))
		}
		downs = append(downs, kernel(e.down))
	}
	return m.pack(gated, ups...), []kernels.Weights{m.pack(false, downs...)}
}

func (m *machine) pack(gated bool, experts ...kernels.Linear) kernels.Weights {
	m.t.Helper()
	w, err := m.device.Pack("test", kernels.WeightSpec{DType: kernels.F32, Gated: gated, Experts: experts})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(w.Free)
	return w
}

// workspace serves the given definitions, one after the other, with so many tokens.
func (m *machine) workspace(tokens int, layers ...*definition) *moe.Workspace {
	m.t.Helper()
	s := moe.Shape{Tokens: tokens, Layers: len(layers)}
	for _, d := range layers {
		s.Hidden, s.Inner, s.Branch = max(s.Hidden, d.hidden()), max(s.Inner, d.ffn()), max(s.Branch, d.branch())
		s.Experts, s.K = max(s.Experts, d.gate.Experts), max(s.K, d.gate.K)
	}
	w, err := moe.NewWorkspace(m.device, kernels.F32, s)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(w.Free)
	return w
}

// tensor puts x on the device.
func (m *machine) tensor(x matrix) kernels.Tensor {
	m.t.Helper()
	t, err := m.device.Alloc("test", kernels.F32, x.rows, x.cols)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(t.Mem.Free)
	m.stream.Write(t, bytesOf(x.v))
	return t
}

// read waits for the stream and takes t from the device.
func (m *machine) read(t kernels.Tensor) matrix {
	m.t.Helper()
	return matrix{t.Rows, t.Cols, floatsOf(m.bytes(t))}
}

func (m *machine) ints(t kernels.Tensor) []int32 {
	m.t.Helper()
	data := m.bytes(t)
	v := make([]int32, len(data)/4)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

func (m *machine) bytes(t kernels.Tensor) []byte {
	m.t.Helper()
	data := make([]byte, t.Bytes())
	m.stream.Read(data, t)
	if err := m.stream.Sync(); err != nil {
		m.t.Fatal(err)
	}
	return data
}

// forward runs layers one after the other over x, as a step of its own; the result starts as garbage.
func (m *machine) forward(w *moe.Workspace, x matrix, layers ...*moe.Layer) matrix {
	m.t.Helper()
	w.Begin(0)
	in := m.tensor(x)
	for _, l := range layers {
		garbage := matrix{x.rows, x.cols, slices.Repeat([]float32{float32(math.NaN())}, len(x.v))}
		out := m.tensor(garbage)
		if err := l.Forward(m.t.Context(), m.stream, out, in, w); err != nil {
			m.t.Fatal(err)
		}
		in = out
	}
	return m.read(in)
}

// sameBits compares bit by bit; every NaN is the same.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y) || x != x && y != y
	})
}
