package ckpt

import (
	"maps"
	"math"
	"slices"
	"unsafe"
)

// Weights in FP8, as DeepSeek-V3 is published, lie in a checkpoint as the tensor itself, of type F8_E4M3, and beside it a scale
// for each block of it, F32, under its name with blockScaleSuffix: weight = scale · number, to the right and at the bottom of
// blocks that may be cut off. The facts name the size of blocks under quantizationKey. Such a pair is presented as one tensor of
// type F32.
const (
	blockScaleSuffix = "_scale_inv"
	fp8Quantization  = "fp8" // quant_method of transformers
)

// e4m3 is what the 256 numbers of 4 bits of exponent and 3 of fraction stand for: no infinities, and one NaN of each sign.
var e4m3 = func() (table [256]float32) {
	for b := range table {
		exponent, fraction := b>>3&15, float64(b&7)
		v := math.Ldexp(1+fraction/8, exponent-7)
		switch {
		case exponent == 0:
			v = math.Ldexp(fraction, -9)
		case b&127 == 127:
			v = math.NaN()
		}
		if b >= 128 {
			v = -v
		}
		table[b] = float32(v)
	}
	return table
}()

// fp8Pair is how a tensor in FP8 is stored.
type fp8Pair struct {
	values Tensor   // F8_E4M3 [rows, cols]
	scales Tensor   // F32, of the blocks that values meet
	block  [2]int64 // rows and columns of a block
	at     [2]int64 // where values begins in the first block
}

func (q fp8Pair) pair() (values, scales Tensor) { return q.values, q.scales }

func (q fp8Pair) stored() (DType, int64) { return F8E4M3, q.values.Size() + q.scales.Size() }

func (q fp8Pair) release() {
	q.values.Release()
	q.scales.Release()
}

// slice is the pair's part from..to along axis, with the blocks that it meets.
func (q fp8Pair) slice(axis int, from, to int64) (coding, error) {
	var err error
	if q.values, err = q.values.Slice(axis, from, to); err != nil {
		return q, err
	}
	size := q.block[axis]
	from, to = q.at[axis]+from, q.at[axis]+to
	q.at[axis] = from % size
	q.scales, err = q.scales.Slice(axis, from/size, (to+size-1)/size)
	return q, err
}

// numbers is the weights as float32, little-endian.
func (q fp8Pair) numbers() ([]byte, error) {
	values, err := q.values.Bytes()
	if err != nil {
		return nil, err
	}
	scales, err := q.scales.Floats()
	if err != nil {
		return nil, err
	}
	rows, cols, wide := q.values.Shape[0], q.values.Shape[1], q.scales.Shape[1]
	y := make([]float32, len(values))
	for r := range rows {
		of := scales[(q.at[0]+r)/q.block[0]*wide:][:wide]
		in, out := values[r*cols:(r+1)*cols], y[r*cols:(r+1)*cols]
		for c := int64(0); c < cols; {
			block := (q.at[1] + c) / q.block[1]
			to, scale := min((block+1)*q.block[1]-q.at[1], cols), of[block]
			for ; c < to; c++ {
				out[c] = e4m3[in[c]] * scale
			}
		}
	}
	q.release()
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(y))), 4*len(y)), nil
}

// pairFP8 presents the tensors in FP8 as what they stand for; said is what the facts say of them.
func (c *Checkpoint) pairFP8(said map[string]any) error {
	sizes, _ := said["weight_block_size"].([]any)
	format, named := said["fmt"].(string)
	var block [2]int64
	for i := range min(len(sizes), 2) {
		n, ok := number(sizes[i])
		if ok && n >= 1 && n <= 1<<20 && n == math.Trunc(n) {
			block[i] = int64(n)
		}
	}
	if len(sizes) != 2 || block[0] == 0 || block[1] == 0 || named && format != "e4m3" {
		return unsupported(c.config.Source, "", "%s tells of FP8 weights of fmt %v in blocks (weight_block_size) of %v; e4m3 in blocks of rows and columns, [128, 128], can be read", quantizationKey, said["fmt"], said["weight_block_size"])
	}
	for _, name := range slices.Sorted(maps.Keys(c.tensors)) {
		t := c.tensors[name]
		if t.DType != F8E4M3 {
			continue
		}
		scales, there := c.tensors[name+blockScaleSuffix]
		if !there || scales.DType != F32 || len(t.Shape) != 2 ||
			!slices.Equal(scales.Shape, []int64{(t.Shape[0] + block[0] - 1) / block[0], (t.Shape[1] + block[1] - 1) / block[1]}) {
			return damaged(t.file(), name, "is %v %v in FP8, but its scales %s are missing or none for each block of %v (%v %v); copy the checkpoint again",
				t.DType, t.Shape, name+blockScaleSuffix, block, scales.DType, scales.Shape)
		}
		delete(c.tensors, name+blockScaleSuffix)
		t.DType, t.coded = F32, fp8Pair{values: t, scales: scales, block: block}
		c.tensors[name] = t
	}
	return nil
}
