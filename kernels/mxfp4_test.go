package kernels

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

// TestMXFP4Ends: scales whose products leave bfloat16, and the one that stands for no number.
func TestMXFP4Ends(t *testing.T) {
	for scale, want := range map[byte][2]float64{0: {6 * 0x1p-127, -0x1p-128}, 254: {math.Inf(1), -0x1p126}, 252: {6 * 0x1p125, -0x1p124}, 255: {math.NaN(), math.NaN()}} {
		m := Matrix{DType: MXFP4, Rows: 1, Cols: 32, Data: bytes.Repeat([]byte{0x97}, 16), Scales: []byte{scale}}.Widened() // 6, then −0.5
		for i := range 32 {
			v := math.Float32frombits(uint32(binary.LittleEndian.Uint16(m.Data[2*i:])) << 16)
			if w := want[i%2]; float64(v) != w && !(math.IsNaN(w) && math.IsNaN(float64(v))) {
				t.Errorf("scale %d, number %d: %g, want %g", scale, i, v, w)
			}
		}
	}
}

// TestMXFP4Scales: which scales weights may have that are packed as they are, wherever they stand.
func TestMXFP4Scales(t *testing.T) {
	const rows, in = 3, 7 * 32
	for scale := range 256 {
		for _, zero := range []bool{false, true} {
			for at := range rows * in / 32 {
				m := Matrix{DType: MXFP4, Rows: rows, Cols: in, Data: bytes.Repeat([]byte{0x10}, rows*in/2), Scales: bytes.Repeat([]byte{120}, rows*in/32)}
				m.Scales[at] = byte(scale)
				if zero {
					copy(m.Data[16*at:], bytes.Repeat([]byte{0x80}, 16)) // 0, −0
				}
				_, _, err := WeightSpec{DType: MXFP4, Experts: []Linear{{Parts: []Matrix{m}}}}.Shape()
				if good := scale < 128 && (scale >= 2 || zero); good != (err == nil) || err != nil && !errors.Is(err, ErrScales) {
					t.Fatalf("scale %d, all zero %v: %v", scale, zero, err)
				}
			}
		}
	}
}

// TestMXFP4Refusals: what is no such matrix, and what cannot be packed with one.
func TestMXFP4Refusals(t *testing.T) {
	good := Matrix{DType: MXFP4, Rows: 2, Cols: 64, Data: make([]byte, 64), Scales: make([]byte, 4)}
	for name, wrong := range map[string]func(m *Matrix, s *WeightSpec){
		"inputs":     func(m *Matrix, _ *WeightSpec) { m.Cols = 48 },
		"bytes":      func(m *Matrix, _ *WeightSpec) { m.Data = m.Data[1:] },
		"scales":     func(m *Matrix, _ *WeightSpec) { m.Scales = m.Scales[1:] },
		"transposed": func(_ *Matrix, s *WeightSpec) { s.Experts[0].Transposed = true },
		"packed":     func(_ *Matrix, s *WeightSpec) { s.DType = BF16 },
		"source":     func(m *Matrix, _ *WeightSpec) { *m = m.Widened() },
	} {
		s := WeightSpec{DType: MXFP4, Experts: []Linear{{Parts: []Matrix{good}}}}
		if _, _, err := s.Shape(); err != nil {
			t.Fatal(err)
		}
		wrong(&s.Experts[0].Parts[0], &s)
		if _, _, err := s.Shape(); err == nil || errors.Is(err, ErrScales) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
