package moe_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// meter counts the bytes that are taken from a device and not yet given back, and refuses the at-th allocation.
type meter struct {
	kernels.Device
	held, taken int64
	refuse      int
}

type metered struct {
	kernels.HostMemory
	meter *meter
	bytes int64
}

func (m metered) Free() {
	m.meter.held -= m.bytes
	m.HostMemory.Free()
}

var errFull = errors.New("no room")

func (m *meter) Alloc(what string, d kernels.DType, rows, cols int) (kernels.Tensor, error) {
	if m.refuse--; m.refuse == 0 {
		return kernels.Tensor{}, errFull
	}
	t, err := m.Device.Alloc(what, d, rows, cols)
	if err != nil {
		return t, err
	}
	m.held += t.Bytes()
	m.taken += t.Bytes()
	t.Mem = metered{t.Mem.(kernels.HostMemory), m, t.Bytes()}
	return t, nil
}

func TestBytesIsWhatAWorkspaceTakes(t *testing.T) {
	for _, s := range []moe.Shape{
		{Tokens: 100, Hidden: 24, Inner: 70, Experts: 64, K: 2, Layers: 3},
		{Tokens: 7, Hidden: 16, Inner: 8, Experts: 512, K: 8, Layers: 24},
		{Tokens: 1, Hidden: 16, Inner: 8, Experts: 1, K: 1, Layers: 1},
		{Tokens: 9, Hidden: 16}, // a dense model's
	} {
		m := &meter{Device: newMachine(t, 1).device}
		w, err := moe.NewWorkspace(m, kernels.F32, s)
		if err != nil {
			t.Fatal(err)
		}
		if m.taken != s.Bytes(kernels.F32) {
			t.Errorf("%+v: %d bytes were taken, Bytes says %d", s, m.taken, s.Bytes(kernels.F32))
		}
		w.Free()
		if m.held != 0 {
			t.Errorf("%+v: %d bytes are left after Free", s, m.held)
		}
	}
}

// The memory does not grow with what capacity-sized buffers would have: experts cost a row of logits, not a buffer.
func TestBytesDoesNotGrowWithExpertsTimesCapacity(t *testing.T) {
	s := moe.Shape{Tokens: 1024, Hidden: 1024, Inner: 1024, K: 2, Layers: 1}
	s.Experts = 8
	few := s.Bytes(kernels.F32)
	s.Experts = 512
	if more := s.Bytes(kernels.F32) - few; more != 4*504*(1024+1) {
		t.Errorf("504 experts more cost %d bytes", more)
	}
}

func TestWorkspaceOutOfMemory(t *testing.T) {
	for at := 1; ; at++ {
		m := &meter{Device: newMachine(t, 1).device, refuse: at}
		w, err := moe.NewWorkspace(m, kernels.F32, moe.Shape{Tokens: 4, Hidden: 8, Inner: 8, Experts: 4, K: 2, Layers: 1})
		if err == nil {
			if at < 5 {
				t.Errorf("only %d allocations", at-1)
			}
			w.Free()
			return
		}
		if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "moe workspace") || m.held != 0 {
			t.Errorf("allocation %d refused: %v, %d bytes held", at, err, m.held)
		}
	}
}

// A pyramid: layers of several expert counts in one step; the counts of each are told apart, and a step's are its own.
func TestCountsOfSeveralLayers(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	a := randomDefinition(rng, shape{hidden: 10, ffn: 12, experts: 4, k: 1, residual: true})
	b := randomDefinition(rng, shape{hidden: 10, ffn: 8, experts: 9, k: 2, renor: true})
	m := newMachine(t, 1)
	w, alone, la, lb := m.workspace(30, a, b), m.workspace(30, b), m.layer(a, nil), m.layer(b, nil)
	if got := w.Counts(); len(got) != 0 {
		t.Errorf("before any step: %v", got)
	}
	for _, tokens := range []int{30, 0, 5} {
		x := random(rng, tokens, 10, 1)
		y := m.forward(w, x, la) // a step that ends early
		m.forward(alone, y, lb)
		wantB := alone.Counts()[0]
		m.forward(w, x, la, lb)
		counts := w.Counts()
		if len(counts) != 2 || len(counts[0]) != 4 || len(counts[1]) != 9 || !slices.Equal(counts[1], wantB) {
			t.Fatalf("%d tokens: counts %v", tokens, counts)
		}
		var sumA, sumB int32
		for _, n := range counts[0] {
			sumA += n
		}
		for _, n := range counts[1] {
			sumB += n
		}
		if int(sumA) != tokens || int(sumB) != 2*tokens {
			t.Errorf("%d tokens: counts %v", tokens, counts)
		}
	}
}
