package cpu

import "github.com/dsbatch/dsbatch/kernels"

// Nanoseconds that a byte takes on one core, between the caches' rate and the memory's.
const byteTime = 0.04

// Write copies src, rows adjacent, to dst.
func (s *Stream) Write(dst kernels.Tensor, src []byte) {
	if s.note(rules.Bytes("write", dst, len(src))); s.err == nil && dst.Cols > 0 {
		n := dst.Cols * dst.DType.Size()
		for i := range dst.Rows {
			copy(bytesOf(dst, i), src[i*n:])
		}
	}
}

// Read copies src to dst, rows adjacent.
func (s *Stream) Read(dst []byte, src kernels.Tensor) {
	if s.note(rules.Bytes("read", src, len(dst))); s.err == nil && src.Cols > 0 {
		n := src.Cols * src.DType.Size()
		for i := range src.Rows {
			copy(dst[i*n:(i+1)*n], bytesOf(src, i))
		}
	}
}

// Copy converts among the float types, rounding to nearest even; other types are copied as they are.
func (s *Stream) Copy(dst, src kernels.Tensor) {
	if s.note(rules.Copy(dst, src)); s.err != nil || src.Cols == 0 {
		return
	}
	s.rows(src.Rows, float64(8*src.Cols)*byteTime, func(from, to int) {
		if dst.DType == src.DType {
			for i := from; i < to; i++ {
				copy(bytesOf(dst, i), bytesOf(src, i))
			}
			return
		}
		s.dev.kernels.convert(dst, src, from, to)
	})
}

// Add: y += x.
func (s *Stream) Add(y, x kernels.Tensor) {
	if s.note(rules.Add(y, x)); s.err != nil || x.Cols == 0 {
		return
	}
	ym, xm := view[float32](y), view[float32](x)
	s.rows(x.Rows, float64(12*x.Cols)*byteTime, func(from, to int) { s.dev.kernels.add(ym, xm, from, to) })
}

// addRows is the reference.
func addRows(y, x matrix[float32], from, to int) {
	for i := from; i < to; i++ {
		add(y.row(i), x.row(i))
	}
}

func add(y, x []float32) {
	x = x[:len(y)]
	for j := range y {
		y[j] += x[j]
	}
}
