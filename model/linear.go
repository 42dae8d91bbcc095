package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// rowParallel packs the slices that are here of a linear op's inputs [in], for each of experts. The bias is the first
// slice's: so it is added once.
func (l *loader) rowParallel(what, canonical string, layer int, experts []int, in int, slices []shard.Range,
	bias bool) (w []kernels.Weights) {
	hidden, group := l.config.Hidden, l.options.Group
	for _, r := range slices {
		if l.options.DType == kernels.I8 && group > 0 && r.Len() < in && r.Len()%group != 0 {
			l.fail(fmt.Errorf("%w: %s: a slice of %d of %d inputs is no multiple of the int8 groups of %d; use groups that divide it, or one scale a row", ErrSlices, what, r.Len(), in, group))
		}
		s := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group}
		for _, e := range experts {
			s.Experts = append(s.Experts, l.linear(canonical, layer, e, window{hidden, in, l.slicing.hidden, r}, bias && r.From == 0))
			if bias {
				l.use(biasOf(l.policy.Tensors.name(canonical, layer, e)))
			}
		}
		w = append(w, l.pack(what, s))
	}
	return w
}

// linear is one linear op's part of its matrix [out, in], and the bias of these outputs. Where the bias does not count
// its tensor may still be there.
func (l *loader) linear(canonical string, layer, expert int, s window, bias bool) kernels.Linear {
	y := kernels.Linear{Transposed: l.policy.Transposed}
	name := l.policy.Tensors.name(canonical, layer, expert)
	l.noteLinear(name, canonical != "moe.gate" && canonical != "residual.mix" && canonical != "classifier" && canonical != "attn.kv.up")
	if y.Transposed {
		y.Parts = []kernels.Matrix{l.named(name, s.transposed())}
	} else {
		y.Parts = []kernels.Matrix{l.part(name, s, true)}
	}
	if bias {
		y.Bias = []kernels.Matrix{l.named(biasOf(name), window{1, s.rows, shard.Range{To: 1}, s.ofRows})}
	} else if l.config.Bias.MLP {
		l.use(biasOf(name)) // dropped on purpose: the output bias of an expert that does not count
	}
	return y
}

func (l *loader) one(linear kernels.Linear) kernels.WeightSpec {
	return kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group, Experts: []kernels.Linear{linear}}
}
