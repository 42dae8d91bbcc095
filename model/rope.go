package model

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// ropeTables are cos and sin of position·frequency, times magnitude, [window, len(frequencies)] float32 from float64 angles.
func ropeTables(frequencies []float64, magnitude float64, window int) (cos, sin kernels.Matrix) {
	n := len(frequencies)
	table := func(f func(float64) float64) kernels.Matrix {
		data := make([]byte, 0, 4*window*n)
		for p := range window {
			for _, w := range frequencies {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(magnitude*f(float64(p)*w))))
			}
		}
		return kernels.Matrix{DType: kernels.F32, Rows: window, Cols: n, Data: data}
	}
	return table(math.Cos), table(math.Sin)
}

// rope fills the tables of cosines and sines, [window, dim/2], computed in float64.
func (l *loader) rope() *kernels.Rope {
	r := l.config.Rope
	frequencies, err := r.frequencies()
	if err != nil {
		l.fail(err)
	}
	if l.surveying {
		l.model.bytes += int64(2 * kernels.F32.Size() * l.config.Window * len(frequencies))
	}
	if l.err != nil || l.surveying {
		return nil
	}
	cos, sin := ropeTables(frequencies, r.magnitude(), l.config.Window)
	return &kernels.Rope{Dim: r.Dim, Interleaved: r.Interleaved,
		Cos: l.put("rotary cosines", kernels.F32, cos), Sin: l.put("rotary sines", kernels.F32, sin)}
}
