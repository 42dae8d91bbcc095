package ckpt

import (
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// Weights in MXFP4 (OCP Microscaling Formats 1.0) lie in a checkpoint as blocks U8 [outputs, inputs/32, 16], a byte two
// numbers of 4 bits, the lower half before the upper one, and scales U8 [outputs, inputs/32]: weight = number · 2^(scale − 127),
// a scale of 255 being NaN. They are presented as one tensor [outputs, inputs] of type BF16, which holds each such product
// exactly, but for those beyond its range, which are infinite.
const mxfp4Inputs = kernels.MXFP4Inputs

// inMXFP4 tells whether the facts say so of a model.
func (c *Checkpoint) inMXFP4() bool {
	said, _ := c.config.Values[quantizationKey].(map[string]any)
	return said["quant_method"] == "mxfp4"
}

// mxfp4 is how a tensor is stored.
type mxfp4 struct {
	blocks, scales Tensor
	from, to       int64 // of the inputs that blocks has, those that are shown
}

// newMXFP4 is the tensor that blocks and scales stand for.
func newMXFP4(name string, blocks, scales Tensor) (Tensor, error) {
	if len(blocks.Shape) != 3 || blocks.DType != U8 || blocks.Shape[2] != mxfp4Inputs/2 || scales.DType != U8 || !slices.Equal(scales.Shape, blocks.Shape[:2]) {
		return Tensor{}, damaged(blocks.file(), blocks.Name, "is %v %v with scales %v %v; MXFP4 is U8 [outputs, inputs/32, 16] with scales U8 [outputs, inputs/32]; copy the checkpoint again", blocks.DType, blocks.Shape, scales.DType, scales.Shape)
	}
	inputs := blocks.Shape[1] * mxfp4Inputs
	return Tensor{Name: name, DType: BF16, Shape: []int64{blocks.Shape[0], inputs}, src: blocks.src, coded: &mxfp4{blocks, scales, 0, inputs}}, nil
}

func (q mxfp4) slice(axis int, from, to int64) (coding, error) {
	if axis == 1 {
		from, to = q.from+from, q.from+to
		q.from, q.to = from%mxfp4Inputs, from%mxfp4Inputs+to-from
		from, to = from/mxfp4Inputs, (to+mxfp4Inputs-1)/mxfp4Inputs
		to = max(from, to)
	}
	var err error
	if q.blocks, err = q.blocks.Slice(axis, from, to); err == nil {
		q.scales, err = q.scales.Slice(axis, from, to)
	}
	return &q, err
}

func (q mxfp4) stored() (DType, int64) { return MXFP4, q.blocks.Size() + q.scales.Size() }

func (q mxfp4) release() {
	q.blocks.Release()
	q.scales.Release()
}

// numbers is the weights as bfloat16, little-endian.
func (q mxfp4) numbers() ([]byte, error) {
	blocks, err := q.blocks.Bytes()
	if err != nil {
		return nil, err
	}
	scales, err := q.scales.Bytes()
	if err != nil {
		return nil, err
	}
	rows, width := q.blocks.Shape[0], q.blocks.Shape[1]*mxfp4Inputs
	y := kernels.Matrix{DType: kernels.MXFP4, Rows: int(rows), Cols: int(width), Data: blocks, Scales: scales}.Widened().Data
	q.release()
	shown := q.to - q.from
	if shown == width {
		return y, nil
	}
	for r := range rows { // what is shown of a row, moved to the front
		copy(y[r*shown*2:(r+1)*shown*2], y[(r*width+q.from)*2:(r*width+q.to)*2])
	}
	return y[:rows*shown*2], nil
}

// InMXFP4 tells whether a tensor is stored so; it reads as BF16.
func (t Tensor) InMXFP4() bool {
	_, is := t.coded.(*mxfp4)
	return is
}

// MXFP4 is the blocks [outputs, inputs/32, 16] and the scales [outputs, inputs/32] that a tensor lies in; false where it is stored
// otherwise, or was cut inside a group of inputs that share a scale.
func (t Tensor) MXFP4() (blocks, scales Tensor, ok bool) {
	q, ok := t.coded.(*mxfp4)
	if !ok || q.from != 0 || q.to != q.blocks.Shape[1]*mxfp4Inputs {
		return t, t, false
	}
	blocks, scales = q.blocks, q.scales
	blocks.Name, scales.Name = t.Name, t.Name+" (scales)"
	return blocks, scales, true
}
