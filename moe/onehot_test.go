package moe_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// oneHot is the dispatch and combine of a layer as the first MoE papers wrote them, and DeepSpeed's training code still
// does: two dense tensors of [tokens, experts, capacity], one of ones and one of weights, and two einsums over them.
// Both einsums run here as matrix products of the device's own kernels, so that only the method differs.
type oneHot struct {
	*machine
	experts, capacity int
	buffer            kernels.Tensor // [experts·capacity, hidden]
	bytes             int64          // taken for the tensors and the buffer
}

// dispatch fills the experts' places: Σ_t mask[e, c, t]·x[t]. place is the slot of each choice inside its expert.
func (o *oneHot) dispatch(x matrix, expert, place []int32, k int) {
	mask := matrix{o.experts * o.capacity, x.rows, make([]float32, o.experts*o.capacity*x.rows)}
	for i, e := range expert {
		if e >= 0 {
			mask.row(int(e)*o.capacity + int(place[i]))[i/k] = 1
		}
	}
	o.buffer = o.product(mask, x)
	o.bytes = 4 * int64(len(mask.v)+o.buffer.Rows*o.buffer.Cols)
}

// combine is Σ_ec weight[t, e, c]·results[e, c].
func (o *oneHot) combine(results matrix, expert, place []int32, weight []float32, k int) kernels.Tensor {
	tokens := len(expert) / k
	weights := matrix{tokens, o.experts * o.capacity, make([]float32, tokens*o.experts*o.capacity)}
	for i, e := range expert {
		if e >= 0 {
			weights.row(i / k)[int(e)*o.capacity+int(place[i])] = weight[i]
		}
	}
	o.bytes += 4 * int64(len(weights.v))
	return o.product(weights, results)
}

// product is a·b; its result is the caller's to free.
func (o *oneHot) product(a, b matrix) kernels.Tensor {
	w, err := o.device.Pack("one-hot", kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{b.host()}, Transposed: true}}})
	if err != nil {
		o.t.Fatal(err)
	}
	defer w.Free()
	in, out := o.alloc(kernels.F32, a.rows, a.cols), o.alloc(kernels.F32, a.rows, b.cols)
	defer in.Mem.Free()
	o.stream.Write(in, bytesOf(a.v))
	o.stream.Linear(out, in, w, kernels.Epilogue{})
	if err := o.stream.Sync(); err != nil {
		o.t.Fatal(err)
	}
	return out
}

func (m *machine) alloc(d kernels.DType, rows, cols int) kernels.Tensor {
	m.t.Helper()
	t, err := m.device.Alloc("test", d, rows, cols)
	if err != nil {
		m.t.Fatal(err)
	}
	return t
}

// TestOneHotAgrees is what makes the benchmark below a comparison: both ways give the same result.
func TestOneHotAgrees(t *testing.T) {
	for _, capacity := range []*moe.Capacity{nil, {Factor: 0.6, Min: 1}} {
		s := shape{hidden: 12, ffn: 10, experts: 6, k: 2, renor: true}
		rng := rand.New(rand.NewPCG(11, 11))
		d, m := randomDefinition(rng, s), newMachine(t, 1)
		d.capacity = capacity
		x, w := random(rng, 40, s.hidden, 1), m.workspace(40, d)
		want := m.forward(w, x, m.layer(d, nil))
		r, _ := w.Routed()
		expert, weight := m.ints(r.Expert), m.read(r.Weight).v
		places, most := placesInside(expert, s.experts)
		o := &oneHot{machine: m, experts: s.experts, capacity: most}
		o.dispatch(x, expert, places, s.k)
		results := m.read(o.buffer)
		for i := range results.rows {
			for j, v := range d.experts[i/o.capacity].of(wide(results.row(i)), d.act) {
				results.row(i)[j] = float32(v)
			}
		}
		got := m.read(o.combine(results, expert, places, weight, s.k)).v
		for i := range got {
			if d := got[i] - want.v[i]; d > 1e-5 || d < -1e-5 {
				t.Fatalf("capacity %v: value %d: %g, one-hot %g", capacity, i, want.v[i], got[i])
			}
		}
	}
}

// placesInside is the place of each choice inside its expert, and how many places the fullest needs.
func placesInside(expert []int32, experts int) (places []int32, most int) {
	counts := make([]int32, experts)
	for _, e := range expert {
		if e < 0 {
			places = append(places, -1)
			continue
		}
		places = append(places, counts[e])
		counts[e]++
	}
	return places, int(slices.Max(counts))
}
