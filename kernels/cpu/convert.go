package cpu

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

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

// convertRows is the reference: dst = src among float types.
func convertRows(dst, src kernels.Tensor, from, to int) {
	var block [256]float32
	for i := from; i < to; i++ {
		for c := 0; c < src.Cols; c += len(block) {
			end := min(c+len(block), src.Cols)
			widenRow(block[:end-c], src.ColRange(c, end), i)
			narrowRow(dst.ColRange(c, end), block[:end-c], i)
		}
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
