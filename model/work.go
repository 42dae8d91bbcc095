package model

import "github.com/dsbatch/dsbatch/kernels"

// Work is what a step costs at least: the floating-point operations of its tokens, and the bytes of weights and KV
// that have to be read for them.
type Work struct{ FLOPs, Bytes float64 }

// Work counts, of what this rank does, a step of so many tokens, whose positions see contexts KV tokens in all and read reads of them from
// memory (a sequence's once, however many of its tokens are in the step), and rows rows of logits. experts are the
// choices of each expert of each MoE layer, as Workspace.ExpertTokens has them.
func (m *Model) Work(tokens, contexts, reads, rows int, experts [][]int32) Work {
	c := &m.Config
	var w Work
	linear := func(rows, out, in, copies int) {
		w.FLOPs += 2 * float64(rows) * float64(out) * float64(in) * float64(copies)
	}
	moe := 0
	up := 1
	if c.Gated {
		up = 2
	}
	for _, l := range m.layers {
		w.Bytes += float64(l.qkv.Bytes() + bytesOf(l.out))
		linear(tokens, l.qkv.Out(), c.Hidden, 1)
		linear(tokens, c.Hidden, inOf(l.out), 1)
		if k := l.latent; k != nil {
			for _, p := range []kernels.Weights{k.query, k.keys, k.values} {
				w.Bytes += float64(p.Bytes())
				linear(tokens, p.Out(), p.In(), p.Experts())
			}
		}
		if l.moe == nil {
			w.Bytes += float64(l.up.Bytes() + bytesOf(l.down))
			linear(tokens, l.up.Out(), c.Hidden, up+1)
			continue
		}
		if moe < len(experts) {
			touched, slots := 0, 0
			for _, n := range experts[moe] {
				if n > 0 {
					touched, slots = touched+1, slots+int(n)
				}
			}
			local := float64(l.moe.Up.Bytes()+bytesOf(l.moe.Down)) / float64(l.moe.Up.Experts())
			w.Bytes += local * float64(min(touched, l.moe.Up.Experts()))
			linear(slots, l.moe.Up.Out(), c.Hidden, up+1)
		}
		if r := l.moe.Residual; r != nil {
			w.Bytes += float64(r.Up.Bytes() + bytesOf(r.Down))
			linear(tokens, r.Up.Out(), c.Hidden, up+1)
		}
		moe++
	}
	if rows > 0 && m.head != nil {
		w.Bytes += float64(m.head.Bytes())
		linear(rows, m.head.Out(), c.Width(), 1)
	}
	for _, p := range []kernels.Weights{m.widen, m.narrow} {
		if p != nil {
			w.Bytes += float64(p.Bytes())
			linear(tokens, p.Out(), p.In(), 1)
		}
	}
	w.FLOPs += float64(contexts) * c.PositionFLOPs(m.own().Q.Len()) * float64(len(m.layers))
	w.Bytes += float64(reads) * float64(m.CacheSpec(1, 1).Bytes())
	return w
}

// bytesOf and inOf are the memory and the inputs of the slices of a linear op that are here.
func bytesOf(slices []kernels.Weights) (n int64) {
	for _, w := range slices {
		n += w.Bytes()
	}
	return n
}

func inOf(slices []kernels.Weights) (n int) {
	for _, w := range slices {
		n += w.In()
	}
	return n
}
