package ckpt

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unsafe"
)

// Weights in 8 bits lie in a checkpoint as the tensor itself, of type I8, and beside it the scales of its outputs, F32, under its
// name with scaleSuffix: weight = scale · number. The facts say so under quantizationKey, and along which axis outputs lie.
// Such a pair is presented as one tensor of type F32. A back end that packs that in 8 bits finds the very numbers and
// scales again: the largest number of an output is ±127, and 127·scale/127 is the scale in float32.
const (
	scaleSuffix     = "_scale"
	quantizationKey = "quantization_config"
	quantization    = "dsbatch" // its quant_method
)

// pair is a coding in 8 bits: numbers, and beside them scales.
type pair interface {
	coding
	pair() (values, scales Tensor)
}

// int8Pair is one of integers with a scale for each output.
type int8Pair struct {
	values Tensor // I8, of the tensor's shape
	scales Tensor // F32 [outputs]
	axis   int    // of the outputs
}

// Quantized tells whether the tensor is stored in 8 bits, integers with a scale for each output or FP8 with one for each block;
// it reads as F32.
func (t Tensor) Quantized() bool {
	_, is := t.coded.(pair)
	return is
}

// stored is the type and the bytes that a tensor has in its file.
func (t Tensor) stored() (DType, int64) {
	if t.coded != nil {
		return t.coded.stored()
	}
	return t.DType, t.Size()
}

// slice is the pair's part from..to along axis.
func (q int8Pair) slice(axis int, from, to int64) (coding, error) {
	var err error
	if q.values, err = q.values.Slice(axis, from, to); err == nil && axis == q.axis {
		q.scales, err = q.scales.Slice(0, from, to)
	}
	return &q, err
}

func (q int8Pair) pair() (values, scales Tensor) { return q.values, q.scales }

func (q int8Pair) stored() (DType, int64) { return I8, q.values.Size() + q.scales.Size() }

// numbers is the weights as float32, little-endian.
func (q int8Pair) numbers() ([]byte, error) {
	values, err := q.values.Bytes()
	if err != nil {
		return nil, err
	}
	scales, err := q.scales.Floats()
	if err != nil {
		return nil, err
	}
	y := make([]float32, len(values))
	eachOutput(q.values.Shape, q.axis, 0, len(y), func(output int64, from, to int) {
		scale := scales[output]
		for i, v := range values[from:to] {
			y[from+i] = float32(int8(v)) * scale
		}
	})
	q.release()
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(y))), 4*len(y)), nil
}

func (q int8Pair) release() {
	q.values.Release()
	q.scales.Release()
}

// eachOutput tells f of n elements of a matrix, from element at on in row-major order, run by run of one output, counted
// from the first of them. Outputs lie along axis 0 or 1.
func eachOutput(shape []int64, axis int, at int64, n int, f func(output int64, from, to int)) {
	cols := shape[1]
	for i := 0; i < n; {
		row, col := (at+int64(i))/cols, (at+int64(i))%cols
		to := min(n, i+int(cols-col))
		if axis == 0 {
			f(row, i, to)
			i = to
			continue
		}
		for ; i < to; i++ {
			f(col, i, i+1)
			col++
		}
	}
}

// pairQuantized presents the tensors in 8 bits as what they stand for, where the facts say that there are such.
func (c *Checkpoint) pairQuantized() error {
	said, _ := c.config.Values[quantizationKey].(map[string]any)
	switch said["quant_method"] {
	case fp8Quantization:
		return c.pairFP8(said)
	case quantization:
	default:
		return nil
	}
	axis, ok := number(said["axis"])
	if bits, _ := number(said["bits"]); bits != 8 || !ok || axis != 0 && axis != 1 {
		return unsupported(c.config.Source, "", "%s is not as dsbatch writes it (bits 8, axis 0 or 1); quantize the model anew", quantizationKey)
	}
	for _, name := range slices.Sorted(maps.Keys(c.tensors)) {
		t := c.tensors[name]
		if t.DType != I8 {
			continue
		}
		scales, there := c.tensors[name+scaleSuffix]
		if !there || scales.DType != F32 || len(t.Shape) != 2 || !slices.Equal(scales.Shape, t.Shape[int(axis):int(axis)+1]) {
			return damaged(t.file(), name, "is %v %v in 8 bits, but its scales %s are missing or none for each output (%v %v); copy the checkpoint again", t.DType, t.Shape, name+scaleSuffix, scales.DType, scales.Shape)
		}
		delete(c.tensors, name+scaleSuffix)
		t.DType, t.coded = F32, &int8Pair{values: t, scales: scales, axis: int(axis)}
		c.tensors[name] = t
	}
	return nil
}

// rowScales measures a weight and rounds it to 8 bits as kernels do that pack in 8 bits (kernels/cpu): the largest
// magnitude of an output's weights is 127 steps, to the nearest step, ties to even. An output too small to be told from 0
// is 0, scale and all; one with an infinity or a NaN is 0 with the scale NaN, so that what is computed from it is seen to be
// spoilt.
type rowScales struct {
	t    Tensor
	axis int
	most []uint32 // magnitudes, by output, nil until measured; they compare as their bits do, NaN above infinity
}

// smallestScaled is the least magnitude of an output that is told from 0.
const smallestScaled = 1e-30

// measure finds the largest magnitudes.
func (r *rowScales) measure(ctx context.Context) error {
	r.most = make([]uint32, r.t.Shape[r.axis])
	at := int64(0)
	return r.t.Parts(ctx, func(b []byte) error {
		values := floats(r.t.DType, b)
		eachOutput(r.t.Shape, r.axis, at, len(values), func(output int64, from, to int) {
			most := r.most[output]
			for _, v := range values[from:to] {
				most = max(most, math.Float32bits(v)&^(1<<31))
			}
			r.most[output] = most
		})
		at += int64(len(values))
		return nil
	})
}

// scale is an output's step, and 1 over it; 0 where all of it is 0.
func (r *rowScales) scale(output int64) (scale, inverse float32) {
	magnitude := math.Float32frombits(r.most[output])
	switch {
	case r.most[output] >= 0x7f800000:
		return float32(math.NaN()), 0
	case magnitude >= smallestScaled:
		return magnitude / 127, 127 / magnitude
	}
	return 0, 0
}

// writeScales measures, and hands on the scales.
func (r *rowScales) writeScales(ctx context.Context, write func([]byte) error) error {
	if err := r.measure(ctx); err != nil {
		return err
	}
	b := make([]byte, 0, 4*len(r.most))
	for output := range r.most {
		scale, _ := r.scale(int64(output))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(scale))
	}
	return write(b)
}

// writeValues hands on the weights in 8 bits; the scales have been written before.
func (r *rowScales) writeValues(ctx context.Context, write func([]byte) error) error {
	at := int64(0)
	err := r.t.Parts(ctx, func(b []byte) error {
		values := floats(r.t.DType, b)
		q := make([]byte, len(values))
		eachOutput(r.t.Shape, r.axis, at, len(values), func(output int64, from, to int) {
			_, inverse := r.scale(output)
			for i, v := range values[from:to] {
				if inverse != 0 {
					q[from+i] = byte(int8(math.RoundToEven(float64(v * inverse))))
				}
			}
		})
		at += int64(len(values))
		return write(q)
	})
	r.most = nil
	return err
}

// Quantize writes a checkpoint at to as Convert does, the tensors for which linear is true in 8 bits, with a scale for each of
// their outputs, which lie along axis. It keeps the scales of all of them in memory, four bytes an output.
func Quantize(ctx context.Context, c *Checkpoint, to string, linear func(name string) bool, axis int) error {
	if said := c.config.Values[quantizationKey]; said != nil && !c.inMXFP4() {
		return unsupported(c.config.Source, "", "says that the model is quantized already (%s); give the one that it was made from, or convert it to a wider type first (ckpt convert --dtype bf16)", quantizationKey)
	}
	var outputs []Output
	for _, name := range c.names {
		t := c.tensors[name]
		if !linear(name) {
			outputs = append(outputs, Output{Tensor: t})
			continue
		}
		if len(t.Shape) != 2 || !t.DType.Float() || t.DType.Size() < 2 || strings.HasSuffix(name, scaleSuffix) {
			return unsupported(t.file(), name, "is %v %v, no matrix that can be rounded to 8 bits", t.DType, t.Shape)
		}
		by := &rowScales{t: t, axis: axis}
		values, scales := t, t
		values.DType = I8
		scales.Name, scales.DType, scales.Shape = name+scaleSuffix, F32, t.Shape[axis:axis+1]
		outputs = append(outputs, Output{Tensor: scales, write: by.writeScales}, Output{Tensor: values, write: by.writeValues})
	}
	facts, err := c.quantizedFacts(axis)
	if err != nil {
		return err
	}
	return c.writeFolder(ctx, to, outputs, facts, 0)
}

// Stored is what a quantized tensor is stored as: its numbers in 8 bits, under its own name, and the scales of its outputs or
// blocks.
func (t Tensor) Stored() (values, scales Tensor) {
	values, scales = t.coded.(pair).pair()
	values.Name = t.Name
	return values, scales
}

// asStored are the outputs that write a tensor as it is stored.
func (t Tensor) asStored() []Output {
	if !t.Quantized() {
		return []Output{{Tensor: t}}
	}
	values, scales := t.Stored()
	return []Output{{Tensor: values}, {Tensor: scales}}
}

// quantizationFact is what the facts of a quantized model say of it.
func quantizationFact(axis int) map[string]any {
	return map[string]any{"quant_method": quantization, "bits": 8, "symmetric": true, "axis": axis,
		"scales": fmt.Sprintf("NAME%s, one for each output", scaleSuffix)}
}
