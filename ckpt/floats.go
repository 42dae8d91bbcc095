package ckpt

import (
	"encoding/binary"
	"math"
)

// Floats is the content as float32, converted from any floating-point type of 16 bits or more: for norms, biases, gates
// and tests. Large weights are better taken as Bytes in their own type.
func (t Tensor) Floats() ([]float32, error) {
	if !t.DType.Float() || t.DType.Size() < 2 {
		return nil, unsupported("checkpoint", t.Name, "has type %v where floating-point numbers of 16 bits or more are needed", t.DType)
	}
	b, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	return floats(t.DType, b), nil
}

// floats widens (F64: narrows) numbers of 16 bits or more.
func floats(d DType, b []byte) []float32 {
	y := make([]float32, int64(len(b))/d.Size())
	for i := range y {
		switch d {
		case F64:
			y[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		case F32:
			y[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		case BF16:
			y[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		default:
			y[i] = halfToFloat(binary.LittleEndian.Uint16(b[2*i:]))
		}
	}
	return y
}

// convert is b as the type that is written, rounded to nearest, ties to even. A finite number that the type cannot hold
// is an error.
func (o Output) convert(b []byte) ([]byte, error) {
	if o.dtype() == o.DType {
		return b, nil
	}
	if !o.DType.Float() || o.DType.Size() < 2 {
		return nil, unsupported(o.file(), o.Name, "has type %v, which cannot be converted to %v", o.DType, o.As)
	}
	values := floats(o.DType, b)
	y := make([]byte, 0, int64(len(values))*o.As.Size())
	for i, v := range values {
		exact := float64(v)
		if o.DType == F64 {
			exact = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
		}
		infinite := false
		switch o.As {
		case F32:
			infinite = math.IsInf(float64(v), 0)
			y = binary.LittleEndian.AppendUint32(y, math.Float32bits(v))
		case BF16:
			h := floatToBF16(v)
			infinite = h&0x7fff == 0x7f80
			y = binary.LittleEndian.AppendUint16(y, h)
		case F16:
			h := floatToHalf(v)
			infinite = h&0x7fff == 0x7c00
			y = binary.LittleEndian.AppendUint16(y, h)
		default:
			return nil, unsupported(o.file(), o.Name, "cannot be written as %v", o.As)
		}
		if infinite && !math.IsInf(exact, 0) {
			return nil, unsupported(o.file(), o.Name, "holds %g, which %v has no number for; choose a wider type", exact, o.As)
		}
	}
	return y, nil
}

// file is the first file that the tensor's bytes lie in.
func (t Tensor) file() string {
	if _, p, err := t.src.pieces(); err == nil && len(p) > 0 {
		return p[0].m.path
	}
	return "checkpoint"
}

// floatToBF16 rounds to nearest, ties to even; a NaN stays one.
func floatToBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// floatToHalf rounds to nearest, ties to even; what is too large becomes infinite, a NaN stays one.
func floatToHalf(x float32) uint16 {
	b := math.Float32bits(x)
	sign, b := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00
	case b >= 0x47800000: // 65536
		return sign | 0x7c00
	case b < 0x38800000: // below the least normal number: a multiple of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(b))*(1<<24)))
	}
	return sign | uint16((b-0x38000000+0xfff+b>>13&1)>>13)
}

// halfToFloat widens an IEEE 754 half, exactly.
func halfToFloat(h uint16) float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0: // zero and denormals: frac · 2^-24
		return math.Float32frombits(math.Float32bits(float32(frac)*(1.0/(1<<24))) | sign)
	case 0x1f: // infinities and NaNs
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
