package ckpt

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
)

// Weights in MXFP4 (OCP Microscaling Formats 1.0) lie in a checkpoint as blocks U8 [outputs, inputs/32, 16], a byte two
// numbers of 4 bits, the lower half before the upper one, and scales U8 [outputs, inputs/32]: weight = number · 2^(scale − 127),
// a scale of 255 being NaN. They are presented as one tensor [outputs, inputs] of type BF16, which holds each such product
// exactly, but for those beyond its range, which are infinite.
const mxfp4Inputs = 32 // that share a scale

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
	pairs, rows, groups := mxfp4Pairs(), q.blocks.Shape[0], q.blocks.Shape[1]
	row := make([]byte, groups*mxfp4Inputs*2)
	shown := row[2*q.from : 2*q.to]
	y := make([]byte, 0, rows*int64(len(shown)))
	for range rows {
		at := row
		for _, scale := range scales[:groups] {
			of := &pairs[scale]
			for _, two := range blocks[:mxfp4Inputs/2] {
				binary.LittleEndian.PutUint32(at, of[two])
				at = at[4:]
			}
			blocks = blocks[mxfp4Inputs/2:]
		}
		scales = scales[groups:]
		y = append(y, shown...)
	}
	q.release()
	return y, nil
}

// mxfp4Pairs is what each byte stands for under each scale: two numbers in bfloat16, the first one below.
var mxfp4Pairs = sync.OnceValue(func() *[256][256]uint32 {
	var pairs [256][256]uint32
	for scale := range pairs {
		var number [16]uint32
		for code := range number {
			magnitude := [8]float64{0, 0.5, 1, 1.5, 2, 3, 4, 6}[code&7] // 1 bit of sign, 2 of exponent, 1 of fraction
			v := float32(math.Ldexp(magnitude, scale-127))              // exact, or infinite
			if scale == 255 {
				v = float32(math.NaN())
			}
			number[code] = math.Float32bits(v)>>16 | uint32(code>>3)<<15
		}
		for two := range pairs[scale] {
			pairs[scale][two] = number[two>>4]<<16 | number[two&15]
		}
	}
	return &pairs
})
