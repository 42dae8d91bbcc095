package moe_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// newGPU is a machine with the GPU of a rank.
func newGPU(t *testing.T, rank int, graphs bool) *machine {
	t.Helper()
	device, err := cuda.New(cuda.Options{Ordinal: rank, NoGraphs: !graphs})
	if err != nil {
		t.Fatal(err)
	}
	return machineOf(t, device)
}

// windowSets are layers that follow each other. Some have a dense branch.
func windowSets() map[string][]*definition {
	return map[string][]*definition{"residual": pyramid(false),
		"gated": {randomDefinition(rand.New(rand.NewPCG(4, 4)), shape{hidden: 40, ffn: 48, experts: 8, k: 2, gated: true})}}
}

var windowTokens = [][]int{{61}, {30, 31}, {0, 61}, {20, 0, 37, 4}} // of each rank

// TestWindowsOnGPU: layers whose rows go through windows have the bits that they have on one GPU without an exchange, in
// every step of many, and tell what they computed and sent.
func TestWindowsOnGPU(t *testing.T) {
	gpus, err := cuda.Count()
	for name, layers := range windowSets() {
		for _, graphs := range []bool{false, true} {
			for _, tokens := range windowTokens {
				t.Run(fmt.Sprintf("%s %v, graphs %t", name, tokens, graphs), func(t *testing.T) {
					if gpus < len(tokens) { // ranks that share one would wait for each other in its queues
						t.Skipf("NO LAYER WAS RUN THROUGH WINDOWS: %d ranks want a GPU each, and there are %d (%v)", len(tokens), gpus, err)
					}
					throughWindows(t, layers, tokens, func(rank int) *machine { return newGPU(t, rank, graphs) })
				})
			}
		}
	}
}

// TestWindows is the same without a GPU, over windows that are poisoned wherever nobody may read.
func TestWindows(t *testing.T) {
	for name, layers := range windowSets() {
		for _, tokens := range windowTokens {
			t.Run(fmt.Sprintf("%s %v", name, tokens), func(t *testing.T) {
				house := windowtest.NewHouse()
				throughWindows(t, layers, tokens, func(int) *machine {
					d, err := cpu.New(cpu.Options{Threads: 1})
					if err != nil {
						t.Fatal(err)
					}
					return machineOf(t, house.NewDevice(d, "", ""))
				})
			})
		}
	}
}

func throughWindows(t *testing.T, layers []*definition, tokens []int, open func(rank int) *machine) {
	const steps = 6
	rng := rand.New(rand.NewPCG(3, 5))
	var machines []*machine
	for r := range tokens {
		machines = append(machines, open(r))
	}
	sum := 0
	for _, n := range tokens {
		sum += n
	}
	x := make([]matrix, steps)
	wants := make([][]matrix, steps)
	for step := range x {
		x[step] = random(rng, sum, layers[0].hidden(), 1)
	}
	for r, m := range machines { // which also loads all kernels: on a GPU that ranks share that would wait for those who wait
		var whole []*moe.Layer
		for _, d := range layers {
			whole = append(whole, m.layer(d, nil))
		}
		w := m.workspace(sum, layers...)
		for step := range x {
			y := m.forward(w, x[step], whole...)
			if r == 0 {
				wants[step] = cut(y, tokens)
			} else if !sameBits(y.v, slices.Concat(values(wants[step])...)) {
				t.Fatal("two devices have other bits")
			}
		}
	}
	err := mpi.Run(len(tokens), func(world mpi.World) error {
		r := world.Rank()
		m, group := machines[r], &comm.Group{World: world}
		for i := range tokens {
			group.Ranks = append(group.Ranks, i)
		}
		w := m.workspace(61, layers...)
		experts, k := 0, 0
		for _, d := range layers {
			experts, k = max(experts, d.gate.Experts/len(tokens)), max(k, d.gate.K)
		}
		if err := w.Arrive(len(tokens), experts); err != nil {
			return err
		}
		window, why, err := comm.OpenWindow(t.Context(), group, m.device, kernels.WindowSpec{Experts: experts, Rows: 61 * k,
			Cols: layers[0].hidden(), DType: kernels.F32, Patience: 10 * time.Second})
		if err != nil || why != "" {
			return fmt.Errorf("no window: %s, %w", why, err)
		}
		defer window.Close()
		var mine []*moe.Layer
		for _, d := range layers {
			mine = append(mine, m.layer(d, &moe.Exchange{Rank: r, Ranks: len(tokens), Window: window}))
		}
		var ins, outs []kernels.Tensor
		for range len(mine) + 1 {
			ins = append(ins, m.tensor(matrix{tokens[r], x[0].cols, make([]float32, tokens[r]*x[0].cols)}))
		}
		outs = ins[1:]
		if err := m.stream.Sync(); err != nil {
			return err
		}
		if err := world.Barrier(t.Context()); err != nil {
			return err
		}
		for step := range x {
			part := cut(x[step], tokens)[r]
			m.stream.Write(ins[0], bytesOf(part.v))
			w.Begin(slices.Max(tokens))
			for i, l := range mine {
				if err := l.Forward(t.Context(), m.stream, outs[i], ins[i], w); err != nil {
					return err
				}
			}
			if !sameBits(m.read(outs[len(outs)-1]).v, wants[step][r].v) {
				return fmt.Errorf("step %d: rank %d differs from one rank alone", step, r)
			}
			counts, computed := w.Counts(), w.Computed()
			for i, d := range layers {
				all, local := make([]byte, 8*d.gate.Experts*len(tokens)), d.gate.Experts/len(tokens)
				own := make([]byte, 0, 8*d.gate.Experts)
				for _, n := range counts[i] {
					own = append(own, byte(n), byte(n>>8), 0, 0, 0, 0, 0, 0)
				}
				if err := world.AllGather(t.Context(), own, all); err != nil {
					return err
				}
				want := 0
				for source := range tokens {
					for e := r * local; e < (r+1)*local; e++ {
						at := 8 * (source*d.gate.Experts + e)
						want += int(all[at]) + int(all[at+1])<<8
					}
				}
				if computed[i] != want {
					return fmt.Errorf("step %d, layer %d: %d rows computed, ranks sent %d", step, i, computed[i], want)
				}
			}
		}
		if traffic := w.Traffic(); len(tokens) > 1 && traffic.Rows == 0 || len(tokens) == 1 && traffic.Bytes != 0 {
			return fmt.Errorf("traffic %+v", traffic)
		}
		return world.Barrier(t.Context())
	})
	if err != nil {
		t.Error(err)
	}
}

func values(parts []matrix) (v [][]float32) {
	for _, p := range parts {
		v = append(v, p.v)
	}
	return v
}
