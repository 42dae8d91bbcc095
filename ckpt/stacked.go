package ckpt

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// The files of gpt-oss hold the experts of a layer in one tensor. Each expert is presented by itself, under the names and in
// the shapes that the files of other families have:
//
//	experts.gate_up_proj [experts, hidden, 2·ffn]   experts.E.{gate,up}_proj.weight [ffn, hidden], of even and of odd columns
//	experts.down_proj [experts, ffn, hidden]        experts.E.down_proj.weight [hidden, ffn]
//	experts.{gate_up,down}_proj_bias                experts.E.{gate,up,down}_proj.bias
//	experts.{gate_up,down}_proj_{blocks,scales}     as the first two, in MXFP4, outputs before inputs
var stackedName = regexp.MustCompile(`^(.+\.experts)\.(gate_up|down)_proj(|_bias|_blocks|_scales)$`)

// stackedParts are the projections that lie in a tensor: every step-th of its outputs, from first on.
var stackedParts = map[string][]struct {
	name        string
	first, step int64
}{"gate_up": {{"gate", 0, 2}, {"up", 1, 2}}, "down": {{"down", 0, 1}}}

// mostStacked bounds the experts that are listed of one tensor; models have some hundred.
const mostStacked = 1 << 16

// unstack presents the experts of gpt-oss one by one.
func (c *Checkpoint) unstack() error {
	if c.config.Values["model_type"] != "gpt_oss" {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.tensors)) {
		m := stackedName.FindStringSubmatch(name)
		if m == nil || m[3] == "_scales" {
			continue
		}
		t := c.tensors[name]
		output, axes := map[string]int{"": 2, "_bias": 1, "_blocks": 1}[m[3]], map[string]int{"": 3, "_bias": 2, "_blocks": 4}[m[3]]
		parts := stackedParts[m[2]]
		if len(t.Shape) != axes || t.Shape[output]%int64(len(parts)) != 0 || t.Elements() == 0 || t.Shape[0] > mostStacked {
			return mismatch(t.file(), name, "has shape %v, which is not that of gpt-oss's experts; copy the checkpoint again", t.Shape)
		}
		scales, there := c.tensors[m[1]+"."+m[2]+"_proj_scales"]
		if m[3] == "_blocks" && (!there || len(scales.Shape) != 3 || scales.Shape[0] != t.Shape[0] || scales.Shape[1] != t.Shape[1]) {
			return damaged(t.file(), name, "has %v numbers of 4 bits, but its scales %s are missing or none for each 32 of them; copy the checkpoint again", t.Shape, m[2]+"_proj_scales")
		}
		for e := range t.Shape[0] {
			for _, p := range parts {
				one, err := t.every(e, output, p.first, p.step)
				if err != nil {
					return err
				}
				switch one.Name = fmt.Sprintf("%s.%d.%s_proj.weight", m[1], e, p.name); m[3] {
				case "":
					one = one.turned()
				case "_bias":
					one.Name = fmt.Sprintf("%s.%d.%s_proj.bias", m[1], e, p.name)
				case "_blocks":
					its, err := scales.every(e, output, p.first, p.step)
					if err == nil {
						one, err = newMXFP4(one.Name, one, its)
					}
					if err != nil {
						return err
					}
				}
				if _, twice := c.tensors[one.Name]; twice {
					return damaged(t.file(), one.Name, "is there by itself and in %s; remove the file that does not belong to the checkpoint", name)
				}
				c.tensors[one.Name] = one
			}
		}
		delete(c.tensors, name)
		if m[3] == "_blocks" {
			delete(c.tensors, scales.Name)
		}
	}
	return nil
}

// every is the e-th part of a tensor along axis 0, which it has no more, and of that every step-th along axis, counted with axis 0,
// from first on.
func (t Tensor) every(e int64, axis int, first, step int64) (Tensor, error) {
	_, p, err := t.src.pieces()
	if err == nil && (len(p) != 1 || t.from != nil) {
		err = unsupported(t.file(), t.Name, "lies in pieces; give the checkpoint that it was cut from")
	}
	if err != nil {
		return t, err
	}
	one := piece{p[0].m, p[0].at + (e*p[0].strides[0]+first*p[0].strides[axis])*t.DType.Size(), slices.Clone(p[0].shape[1:]), slices.Clone(p[0].strides[1:])}
	one.shape[axis-1] /= step
	one.strides[axis-1] *= step
	t.Shape, t.src = slices.Clone(one.shape), laid{0, []piece{one}}
	return t, nil
}

// turned is a whole matrix of one piece with its axes exchanged.
func (t Tensor) turned() Tensor {
	p := t.src.(laid).p[0]
	p.shape, p.strides = []int64{p.shape[1], p.shape[0]}, []int64{p.strides[1], p.strides[0]}
	t.Shape, t.src = slices.Clone(p.shape), laid{0, []piece{p}}
	return t
}
