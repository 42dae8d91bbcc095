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
	y := make([]float32, t.Elements())
	for i := range y {
		switch t.DType {
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
	return y, nil
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
