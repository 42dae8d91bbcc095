package model

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

func (l *loader) layer(i int) layer {
	c, own := l.config, l.slicing.own()
	y := layer{attnNorm: l.normAt("attn.norm", i, c.Hidden, 0)}
	if c.Order != ParallelOfNorm {
		y.mlpNorm = l.normAt("mlp.norm", i, c.Hidden, 0)
	}
	if c.Latent != nil {
		l.latent(i, &y)
	} else {
		y.qkv = l.pack(fmt.Sprintf("layer %d attention", i), l.one(l.qkv(i)))
	}
	slices, err := l.slicing.attention(c)
	if err != nil {
		l.fail(err)
		return y
	}
	y.out = l.rowParallel(fmt.Sprintf("layer %d attention output", i), "attn.out", i, []int{0}, c.Heads*c.OutDim(), slices, c.Bias.Out)
	switch c.QKNorm {
	case QKNormHead:
		q, k := l.normAt("attn.qnorm", i, c.HeadDim, own.Q.Len()), l.normAt("attn.knorm", i, c.HeadDim, own.KV.Len())
		y.qNorm, y.kNorm = &q, &k
	case QKNormFull:
		q, k := l.normAt("attn.qnorm", i, c.Heads*c.HeadDim, 0), l.normAt("attn.knorm", i, c.KVHeads*c.HeadDim, 0)
		y.qNorm, y.kNorm = &q, &k
	}
	if c.Sinks {
		name := l.policy.Tensors.name("attn.sinks", i, 0)
		y.sinks = l.put(name, kernels.F32, l.named(name, window{1, c.Heads, shard.Range{To: 1}, own.Q}))
	}
	if m := c.MoE[i]; m.Gate.Experts > 0 {
		y.moe = l.moe(i, m)
		return y
	}
	if slices, err = l.slicing.inside(c.FFN); err != nil {
		l.fail(err)
		return y
	}
	if !l.elsewhere {
		l.model.inner = max(l.model.inner, span(slices).Len())
	}
	y.up, y.down = l.mlp(fmt.Sprintf("layer %d mlp", i), "mlp", i, []int{0}, c.FFN, slices, c.Bias.MLP, c.Bias.MLP)
	return y
}

// mlp packs the two linear ops of experts, or of a dense MLP (one of one): up (gated where the family is)
// and down, for the slices of the inside [ffn] that are here.
func (l *loader) mlp(what, kind string, layer int, experts []int, ffn int, slices []shard.Range,
	upBias, downBias bool) (up kernels.Weights, down []kernels.Weights) {
	c := l.config
	shape := window{ffn, c.Hidden, span(slices), l.slicing.hidden}
	u := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group, Gated: c.Gated}
	for _, e := range experts {
		in := l.linear(kind+".up", layer, e, shape, upBias)
		if c.Gated {
			gate := l.linear(kind+".gate", layer, e, shape, upBias)
			in.Parts, in.Bias = append(gate.Parts, in.Parts...), append(gate.Bias, in.Bias...)
		}
		u.Experts = append(u.Experts, in)
	}
	up = l.pack(what+" up", u)
	return up, l.rowParallel(what+" down", kind+".down", layer, experts, ffn, slices, downBias)
}

// normAt is a norm's weight and, for a LayerNorm, bias, [1, cols] float32.
func (l *loader) normAt(canonical string, layer, cols, groups int) kernels.Norm {
	n := kernels.Norm{Kind: l.config.Norm, Eps: l.config.Eps, Groups: groups}
	name := l.policy.Tensors.name(canonical, layer, 0)
	n.Weight = l.put(name, kernels.F32, l.named(name, l.whole(1, cols)))
	if n.Kind == kernels.LayerNorm {
		n.Bias = l.put(biasOf(name), kernels.F32, l.named(biasOf(name), l.whole(1, cols)))
	}
	return n
}
