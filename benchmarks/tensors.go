package benchmarks

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// free gives back what the group at hand has made.
func (b *bench) free() {
	for _, o := range b.owned {
		o.Free()
	}
	b.owned = nil
}

func (b *bench) alloc(d kernels.DType, rows, cols int) kernels.Tensor {
	if b.err != nil {
		return kernels.Tensor{}
	}
	t, err := b.device.Alloc("benchmark", d, rows, cols)
	if err != nil {
		b.err = err
		return kernels.Tensor{}
	}
	b.owned = append(b.owned, t.Mem)
	return t
}

// values is a tensor [rows, cols] of type F32.
func (b *bench) values(rows, cols int, x []float32) kernels.Tensor {
	t := b.alloc(kernels.F32, rows, cols)
	if b.err == nil {
		data := make([]byte, 0, 4*len(x))
		for _, v := range x {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		b.stream.Write(t, data)
	}
	return t
}

// f32s is a tensor of normally distributed numbers.
func (b *bench) f32s(rows, cols int) kernels.Tensor {
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(b.random.NormFloat64())
	}
	return b.values(rows, cols, x)
}

// floats is f32s in the device's activation type.
func (b *bench) floats(rows, cols int) kernels.Tensor {
	t := b.f32s(rows, cols)
	if act := b.device.Activations(kernels.BF16); b.err == nil && act != kernels.F32 {
		narrow := b.alloc(act, rows, cols)
		if b.err == nil {
			b.stream.Copy(narrow, t)
		}
		return narrow
	}
	return t
}

// ints is a vector of 32-bit integers.
func (b *bench) ints(x ...int32) kernels.Tensor {
	t := b.alloc(kernels.I32, 1, len(x))
	if b.err == nil {
		data := make([]byte, 0, 4*len(x))
		for _, v := range x {
			data = binary.LittleEndian.AppendUint32(data, uint32(v))
		}
		b.stream.Write(t, data)
	}
	return t
}

// each is the vector f(0) … f(n-1), count the vector 0 … n-1.
func (b *bench) each(n int, f func(i int) int32) kernels.Tensor {
	x := make([]int32, n)
	for i := range x {
		x[i] = f(i)
	}
	return b.ints(x...)
}

func (b *bench) count(n int) kernels.Tensor { return b.each(n, func(i int) int32 { return int32(i) }) }

// weights are random weights [out, in] of so many experts, as gated pairs where asked for.
func (b *bench) weights(d kernels.DType, experts, out, in int, gated bool) kernels.Weights {
	return b.biased(d, experts, out, in, gated, false)
}

// biased is weights with a bias of each output, or none.
func (b *bench) biased(d kernels.DType, experts, out, in int, gated, bias bool) kernels.Weights {
	if b.err != nil {
		return nil
	}
	parts := 1
	if gated {
		parts = 2
	}
	matrix := kernels.Matrix{DType: kernels.BF16, Rows: out, Cols: in, Data: noise(b.random, out*in, 1/math.Sqrt(float64(in)))}
	if d == kernels.MXFP4 {
		matrix = kernels.Matrix{DType: d, Rows: out, Cols: in, Data: matrix.Data[:out*in/2], Scales: make([]byte, out*in/kernels.MXFP4Inputs)}
		for i := range matrix.Scales { // which make the weights about as large
			matrix.Scales[i] = byte(125 - int(math.Log2(float64(in))/2) - b.random.IntN(3))
		}
	}
	one := kernels.Linear{Parts: []kernels.Matrix{matrix, matrix}[:parts]}
	if bias {
		vector := kernels.Matrix{DType: kernels.BF16, Rows: 1, Cols: out, Data: noise(b.random, out, 0.1)}
		one.Bias = []kernels.Matrix{vector, vector}[:parts]
	}
	spec := kernels.WeightSpec{DType: d, Gated: gated}
	for range experts {
		spec.Experts = append(spec.Experts, one)
	}
	w, err := b.device.Pack("benchmark", spec)
	if err != nil {
		b.err = err
		return nil
	}
	b.owned = append(b.owned, w)
	return w
}

// cold is weights enough that one used in its turn comes from memory.
func (b *bench) cold(d kernels.DType, experts, out, in int, gated bool) (all []kernels.Weights) {
	for total := int64(0); total < coldWeights() && b.err == nil; {
		w := b.weights(d, experts, out, in, gated)
		if b.err == nil {
			all, total = append(all, w), total+w.Bytes()
		}
	}
	return all
}

// bytes is the size of one of several alike; 0 after an error.
func (b *bench) bytes(all []kernels.Weights) float64 {
	if len(all) == 0 {
		return 0
	}
	return float64(all[0].Bytes())
}
