package benchmarks

import (
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
)

// routing measures what an MoE layer spends beside its experts: gate, tables and combine of the whole layer's time.
func (b *bench) routing(g *Group) {
	const tokens, hidden, experts = 1024, 1024, 64
	for _, c := range []struct {
		k, ffn int
		gated  bool
		dtype  kernels.DType
	}{
		{1, 4096, false, kernels.F32}, {2, 4096, false, kernels.F32}, {8, 1024, true, kernels.F32},
		{1, 4096, false, kernels.BF16}, {2, 4096, false, kernels.BF16}, {8, 1024, true, kernels.BF16}, {8, 1024, true, kernels.I8},
	} {
		if b.err != nil {
			return
		}
		name := fmt.Sprintf("top-%d, ffn %d, %v", c.k, c.ffn, c.dtype)
		layer := &moe.Layer{Gate: kernels.Gate{Experts: experts, K: c.k, Renormalise: c.k > 1}, Act: kernels.Epilogue{Act: kernels.SiLU},
			Logits: b.weights(kernels.F32, 1, experts, hidden, false),
			Up:     b.weights(c.dtype, experts, c.ffn, hidden, c.gated),
			Down:   []kernels.Weights{b.weights(c.dtype, experts, hidden, c.ffn, false)}}
		x, y := b.floats(tokens, hidden), b.floats(tokens, hidden)
		if b.err != nil {
			return
		}
		w, err := moe.NewWorkspace(b.device, b.device.Activations(c.dtype),
			moe.Shape{Tokens: tokens, Hidden: hidden, Inner: c.ffn, Experts: experts, K: c.k, Layers: 1})
		if err != nil {
			b.err = err
			return
		}
		b.owned = append(b.owned, w)
		b.share(g, name, layer, y, x, w)
		b.free()
	}
}

// share times the sections of a layer, waiting for each to be done, and adds the part that is not its experts'.
func (b *bench) share(g *Group, name string, l *moe.Layer, y, x kernels.Tensor, w *moe.Workspace) {
	var section string
	var since time.Time
	spent := map[string]time.Duration{}
	w.Enter = func(next string) {
		if err := b.stream.Sync(); err != nil && b.err == nil {
			b.err = err
		}
		now := time.Now()
		if section != "" {
			spent[section] += now.Sub(since)
		}
		section, since = next, now
	}
	var whole []float64
	parts := map[string][]float64{}
	for round := range rounds + 1 {
		clear(spent)
		section = ""
		w.Begin(0)
		if err := l.Forward(b.ctx, b.stream, y, x, w); err != nil {
			b.err = err
		}
		w.Enter("")
		if b.err != nil {
			return
		}
		if round == 0 { // what is made at the first call
			continue
		}
		var all time.Duration
		for _, d := range spent {
			all += d
		}
		whole = append(whole, all.Seconds())
		for s, d := range spent {
			parts[s] = append(parts[s], d.Seconds()/all.Seconds())
		}
		parts["all"] = append(parts["all"], 1-spent[moe.Experts].Seconds()/all.Seconds())
	}
	share := func(what string) Figure {
		least, median, most := spread(parts[what])
		return Figure{Value: 100 * median, Best: 100 * least, Worst: 100 * most, Unit: "% of the layer"}
	}
	all := share("all")
	all.Name = name + ": gate, tables, combine"
	_, all.Seconds, _ = spread(whole)
	g.Figures = append(g.Figures, all)
	for _, s := range []string{moe.Route, moe.Combine} {
		f := share(s)
		f.Name = s
		g.Figures = append(g.Figures, f)
	}
}
