package kernels

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
)

// MXFP4 (OCP Microscaling Formats 1.0) is numbers of 4 bits, a sign, 2 bits of exponent and 1 of fraction, 32 of which share a
// scale: weight = number · 2^(scale − 127), a scale of 255 being NaN. bfloat16 holds each such product exactly, but for those
// beyond its range, which are infinite. So back ends that widen them where they multiply have the bits of weights that were
// widened before.

// MXFP4Inputs is how many inputs share a scale.
const MXFP4Inputs = 32

// ErrScales marks MXFP4 weights that Pack does not take as they are, since their scales are none of those that real models
// have: 2 to 127, or less where all 32 numbers are 0. Widened they can be packed as BF16.
var ErrScales = errors.New("scales of mxfp4 below 2 or above 127")

func (m Matrix) checkMXFP4() error {
	if m.DType != MXFP4 {
		return fmt.Errorf("a matrix of type %v among those of mxfp4; widen these", m.DType)
	}
	if m.Rows < 0 || m.Cols < 0 || m.Cols%MXFP4Inputs != 0 || int64(len(m.Data)) != int64(m.Rows)*int64(m.Cols/2) || len(m.Scales) != len(m.Data)*2/MXFP4Inputs {
		return fmt.Errorf("mxfp4 [%d, %d] in %d bytes and %d scales; want inputs in groups of 32", m.Rows, m.Cols, len(m.Data), len(m.Scales))
	}
	const low, high, two = 0x7f7f7f7f7f7f7f7f, 0x8080808080808080, 0x0202020202020202
	at := 0
	for ; at+8 <= len(m.Scales); at += 8 { // most are looked at 8 at a time
		eight := binary.LittleEndian.Uint64(m.Scales[at:])
		if eight&high != 0 || (eight&low|high)-two&high != high {
			if err := m.checkScales(at, at+8); err != nil {
				return err
			}
		}
	}
	return m.checkScales(at, len(m.Scales))
}

func (m Matrix) checkScales(from, to int) error {
	for at := from; at < to; at++ {
		s, magnitudes := m.Scales[at], byte(0)
		for _, two := range m.Data[at*MXFP4Inputs/2 : (at+1)*MXFP4Inputs/2] {
			magnitudes |= two & 0x77
		}
		if s > 127 || s < 2 && magnitudes != 0 {
			return fmt.Errorf("%w: %d in row %d", ErrScales, s, at/(m.Cols/MXFP4Inputs))
		}
	}
	return nil
}

// Widened is an MXFP4 matrix as BF16.
func (m Matrix) Widened() Matrix {
	pairs, y := mxfp4Pairs(), make([]byte, 4*len(m.Data))
	for group, scale := range m.Scales {
		of, from, to := &pairs[scale], m.Data[group*MXFP4Inputs/2:], y[group*MXFP4Inputs*2:]
		for i, two := range from[:MXFP4Inputs/2] {
			binary.LittleEndian.PutUint32(to[4*i:], of[two])
		}
	}
	return Matrix{DType: BF16, Rows: m.Rows, Cols: m.Cols, Data: y}
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
