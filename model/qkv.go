package model

import (
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// qkv is the three projections of this rank's heads over one another, [q + 2·kv, hidden].
func (l *loader) qkv(i int) kernels.Linear {
	c, own := l.config, l.slicing.own()
	dim := c.HeadDim
	q := shard.Range{From: own.Q.From * dim, To: own.Q.To * dim}
	kv := shard.Range{From: own.KV.From * dim, To: own.KV.To * dim}
	heads, kvs := c.Heads*dim, c.KVHeads*dim
	rows := func(of int, from, to int) window {
		return window{of, c.Hidden, shard.Range{From: from, To: to}, l.slicing.hidden}
	}
	switch l.policy.QKV {
	case QKVApart:
		return stacked(
			l.linear("attn.q", i, 0, rows(heads, q.From, q.To), c.Bias.QKV),
			l.linear("attn.k", i, 0, rows(kvs, kv.From, kv.To), c.Bias.QKV),
			l.linear("attn.v", i, 0, rows(kvs, kv.From, kv.To), c.Bias.QKV))
	case QKVByHead:
		y := l.linear("attn.qkv", i, 0, rows(3*heads, 3*q.From, 3*q.To), c.Bias.QKV)
		if l.err != nil || l.surveying {
			return y
		}
		y.Parts = byHead(y.Parts[0], own.Q.Len(), dim)
		if c.Bias.QKV {
			y.Bias = byHead(kernels.Matrix{DType: y.Bias[0].DType, Rows: 3 * q.Len(), Cols: 1, Data: y.Bias[0].Data}, own.Q.Len(), dim)
			for j := range y.Bias {
				y.Bias[j].Rows, y.Bias[j].Cols = 1, q.Len()
			}
		}
		return y
	}
	all := heads + 2*kvs
	if q.Len() == heads {
		return l.linear("attn.qkv", i, 0, l.whole(all, c.Hidden), c.Bias.QKV)
	}
	return stacked(
		l.linear("attn.qkv", i, 0, rows(all, q.From, q.To), c.Bias.QKV),
		l.linear("attn.qkv", i, 0, rows(all, heads+kv.From, heads+kv.To), c.Bias.QKV),
		l.linear("attn.qkv", i, 0, rows(all, heads+kvs+kv.From, heads+kvs+kv.To), c.Bias.QKV))
}

// stacked lays linear ops over one another.
func stacked(ops ...kernels.Linear) kernels.Linear {
	y := kernels.Linear{Transposed: ops[0].Transposed}
	for _, o := range ops {
		y.Parts, y.Bias = append(y.Parts, o.Parts...), append(y.Bias, o.Bias...)
	}
	return y
}

// byHead takes rows [heads, 3, dim] apart into q, k and v, [heads·dim] rows each.
func byHead(m kernels.Matrix, heads, dim int) []kernels.Matrix {
	parts := make([]kernels.Matrix, 3)
	size := dim * m.Cols * m.DType.Size()
	for j := range parts {
		data := make([]byte, 0, heads*size)
		for h := range heads {
			at := (h*3 + j) * size
			data = append(data, m.Data[at:at+size]...)
		}
		parts[j] = kernels.Matrix{DType: m.DType, Rows: heads * dim, Cols: m.Cols, Data: data}
	}
	return parts
}
