package cpu

import "github.com/dsbatch/dsbatch/kernels"

// Select: dst[i] = src[index[i]/div]; rows of index -1 keep what they have.
func (s *Stream) Select(dst, src, index kernels.Tensor, div int) {
	const op = "select"
	if s.note(rules.Select(dst, src, index, div)); s.err != nil || dst.Rows == 0 || dst.Cols == 0 {
		return
	}
	at := vector[int32](index)[:dst.Rows]
	for i, from := range at {
		if from < -1 || int(from)/div >= src.Rows {
			s.fail("%s: index %d of row %d, over %d, is no row of %v", op, from, i, div, src)
			return
		}
	}
	s.rows(dst.Rows, float64(2*src.DType.Size()*src.Cols)*byteTime, func(from, to int) {
		for i := from; i < to; i++ {
			if at[i] >= 0 {
				copy(bytesOf(dst, i), bytesOf(src, int(at[i])/div))
			}
		}
	})
}
