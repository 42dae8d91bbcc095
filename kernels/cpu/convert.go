package cpu

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

func isFloat(d kernels.DType) bool {
	return d == kernels.F32 || d == kernels.BF16 || d == kernels.F16
}

// widenRow reads row i of a checked float tensor into dst, which is as long.
func widenRow(dst []float32, t kernels.Tensor, i int) {
	switch src := bytesOf(t, i); t.DType {
	case kernels.F32:
		for j := range dst {
			dst[j] = math.Float32frombits(binary.NativeEndian.Uint32(src[4*j:]))
		}
	case kernels.BF16:
		for j := range dst {
			dst[j] = fromBF16(binary.NativeEndian.Uint16(src[2*j:]))
		}
	case kernels.F16:
		for j := range dst {
			dst[j] = fromF16(binary.NativeEndian.Uint16(src[2*j:]))
		}
	}
}

// convertRow copies row i among float types.
func convertRow(dst, src kernels.Tensor, i int) {
	if dst.DType == src.DType {
		copy(bytesOf(dst, i), bytesOf(src, i))
		return
	}
	var block [256]float32
	for at := 0; at < src.Cols; at += len(block) {
		to := min(at+len(block), src.Cols)
		part := block[:to-at]
		widenRow(part, src.ColRange(at, to), i)
		narrowRow(dst.ColRange(at, to), part, i)
	}
}

// narrowRow writes src to row i of a checked float tensor.
func narrowRow(t kernels.Tensor, src []float32, i int) {
	switch dst := bytesOf(t, i); t.DType {
	case kernels.F32:
		for j, x := range src {
			binary.NativeEndian.PutUint32(dst[4*j:], math.Float32bits(x))
		}
	case kernels.BF16:
		for j, x := range src {
			binary.NativeEndian.PutUint16(dst[2*j:], toBF16(x))
		}
	case kernels.F16:
		for j, x := range src {
			binary.NativeEndian.PutUint16(dst[2*j:], toF16(x))
		}
	}
}
