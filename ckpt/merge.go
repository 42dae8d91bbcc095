package ckpt

import (
	"maps"
	"slices"
	"strings"
)

// joiner puts the shards of tensor-parallel ranks together. Nothing is read: the whole tensor is pieces of the shards,
// laid end to end.
type joiner struct {
	file    string  // to name in errors
	version float64 // of the checkpoint: the order of the rows of query_key_value
	heads   int64   // of attention, 0 where unknown
	ffn     int64   // width of the MLPs, 0 where unknown
}

// join makes one tensor of its shards, in the order of the ranks.
func (j joiner) join(shards []Tensor) (Tensor, error) {
	t, tp := shards[0], int64(len(shards))
	how, mlp := cutOf(t.Name)
	if how != whole && len(t.Shape) == 0 || how == columns && len(t.Shape) < 2 {
		return t, mismatch(j.file, t.Name, "has shape %v, which cannot be cut for tensor parallelism", t.Shape)
	}
	axis := 0
	if how == columns {
		axis = 1
	}
	for r, s := range shards {
		if s.DType != t.DType || !slices.Equal(s.Shape, t.Shape) {
			return t, mismatch(j.file, t.Name, "is %v %v in the file of mp_rank 0, but %v %v in that of mp_rank %d; the files are not of one checkpoint", t.DType, t.Shape, s.DType, s.Shape, r)
		}
	}
	if how == whole || tp == 1 && how != qkv {
		return t, nil
	}
	if mlp && tp > 1 {
		switch size := t.Shape[axis]; {
		case j.ffn == 0:
			return t, mismatch(j.file, t.Name, "may be whole or cut in %d, and nothing says which; give ffn_hidden_size in a model.json beside the checkpoint", tp)
		case size == j.ffn:
			return t, nil // the same whole tensor on every rank
		case size*tp != j.ffn:
			return t, mismatch(j.file, t.Name, "has shape %v, neither the whole nor 1/%d of ffn_hidden_size %d", t.Shape, tp, j.ffn)
		}
	}
	var all []piece
	for _, s := range shards {
		_, p, err := s.src.pieces()
		if err == nil && how == qkv {
			p, err = j.inHeads(s, p[0], tp)
		}
		if err != nil {
			return t, err
		}
		all = append(all, p...)
	}
	t.Shape = slices.Clone(t.Shape)
	t.Shape[axis] *= tp
	t.src = laid{axis, all}
	return t, nil
}

// inHeads cuts one rank's query_key_value into pieces that, end to end, have rows [heads, 3, head_dim], the order of
// versions 2.0 and 3.0. Version 0 wrote [3, heads, head_dim], version 1.0 [heads, head_dim, 3], both of the rank's own
// heads. Source: Megatron's checkpointing.py, which reorders so on load.
func (j joiner) inHeads(t Tensor, p piece, tp int64) ([]piece, error) {
	if j.version >= 2 {
		return []piece{p}, nil
	}
	if j.heads == 0 {
		return nil, mismatch(j.file, t.Name, "has its rows in the order of version %v, which cannot be told without the number of heads; give num_attention_heads in a model.json beside the checkpoint", j.version)
	}
	heads, n := j.heads/tp, t.Shape[0]
	if j.heads%tp != 0 || n%(3*heads) != 0 {
		return nil, mismatch(j.file, t.Name, "has %d rows, not 3 times %d heads over %d ranks", n, j.heads, tp)
	}
	dim := n / (3 * heads)
	row := p.strides[0]
	out := make([]piece, 0, 3*heads)
	for h := range heads {
		for part := range int64(3) {
			first, step := (part*heads+h)*dim, int64(1) // version 0
			if j.version >= 1 {
				first, step = h*dim*3+part, 3
			}
			q := piece{p.m, p.at + first*row*t.DType.Size(), slices.Clone(p.shape), slices.Clone(p.strides)}
			q.shape[0], q.strides[0] = dim, step*row
			out = append(out, q)
		}
	}
	return out, nil
}

// qkvOrder is how model.json writes the order of a version's rows.
func qkvOrder(version float64) string {
	switch {
	case version >= 2:
		return "[heads, 3, head_dim]"
	case version >= 1:
		return "[heads, head_dim, 3]"
	}
	return "[3, heads, head_dim]"
}

// stages numbers the layers of pipeline stages through: each stage counts its own from 0, or (some) all of them.
// It returns the tensors of all stages by name, and how many layers there are.
func stages(perStage []map[string]Tensor, paths []string) (map[string]Tensor, int, error) {
	all := map[string]Tensor{}
	before := 0
	for s, tensors := range perStage {
		low, high := -1, -1
		for name := range tensors {
			if l, _, ok := layerOf(name); ok {
				high = max(high, l)
				if low < 0 || l < low {
					low = l
				}
			}
		}
		shift := before
		if s > 0 && low == before {
			shift = 0
		}
		for _, name := range slices.Sorted(maps.Keys(tensors)) {
			t := tensors[name]
			if l, rest, ok := layerOf(name); ok {
				t.Name = inLayer(l+shift, rest)
			}
			if old, twice := all[t.Name]; twice {
				if !tied(t.Name) || !slices.Equal(old.Shape, t.Shape) || old.DType != t.DType {
					return nil, 0, mismatch(paths[s], t.Name, "stands in an earlier pipeline stage too; the files are not of one checkpoint")
				}
				continue
			}
			all[t.Name] = t
		}
		if high >= 0 {
			before = high + 1 + shift
		}
	}
	return all, before, nil
}

// tied tells whether the last stage may hold a copy of a tensor of the first.
func tied(name string) bool { return strings.HasPrefix(name, "language_model.embedding.") }
