package optest

import (
	"encoding/binary"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// roundTo is the value of type d that is nearest to x, ties to even: by definition, digit counting.
func roundTo(d kernels.DType, x float64) float64 {
	if d == kernels.F32 || d == kernels.I32 || x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return float64(float32(x))
	}
	digits, least, largest := 8, -133, 0x1.fep127 // bfloat16
	if d == kernels.F16 {
		digits, least, largest = 11, -24, 65504
	}
	_, exponent := math.Frexp(x)
	unit := math.Ldexp(1, max(exponent-digits, least))
	y := math.RoundToEven(x/unit) * unit
	if math.Abs(y) > largest {
		return math.Inf(int(math.Copysign(1, x)))
	}
	return y
}

// encode writes values that d holds exactly.
func encode(d kernels.DType, values []float64) (b []byte) {
	for _, v := range values {
		switch d {
		case kernels.F32:
			b = binary.NativeEndian.AppendUint32(b, math.Float32bits(float32(v)))
		case kernels.BF16:
			b = binary.NativeEndian.AppendUint16(b, uint16(math.Float32bits(float32(v))>>16))
		case kernels.F16:
			b = binary.NativeEndian.AppendUint16(b, halfBits(v))
		}
	}
	return b
}

func decode(d kernels.DType, b []byte) (values []float64) {
	for i := 0; i < len(b); i += d.Size() {
		switch d {
		case kernels.F32:
			values = append(values, float64(math.Float32frombits(binary.NativeEndian.Uint32(b[i:]))))
		case kernels.BF16:
			values = append(values, float64(math.Float32frombits(uint32(binary.NativeEndian.Uint16(b[i:]))<<16)))
		case kernels.F16:
			values = append(values, halfValue(binary.NativeEndian.Uint16(b[i:])))
		case kernels.I32:
			values = append(values, float64(int32(binary.NativeEndian.Uint32(b[i:]))))
		}
	}
	return values
}

// halfValue is the value of an IEEE half, by its definition.
func halfValue(h uint16) float64 {
	sign, exponent, fraction := 1-2*float64(h>>15), int(h>>10&31), float64(h&1023)
	switch {
	case exponent == 31 && fraction != 0:
		return math.NaN()
	case exponent == 31:
		return math.Inf(int(sign))
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// halfBits finds the half that has a value that one has.
func halfBits(v float64) uint16 {
	sign := uint16(0)
	if math.Signbit(v) {
		sign, v = 0x8000, -v
	}
	switch {
	case math.IsNaN(v):
		return 0x7e00
	case math.IsInf(v, 0):
		return sign | 0x7c00
	}
	low, high := uint16(0), uint16(0x7bff) // halves ascend with their bits
	for low < high {
		mid := (low + high) / 2
		if halfValue(mid) < v {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return sign | low
}

func encodeInts(values []int32) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, uint32(v))
	}
	return b
}

func decodeInts(b []byte) (values []int32) {
	for ; len(b) > 0; b = b[4:] {
		values = append(values, int32(binary.NativeEndian.Uint32(b)))
	}
	return values
}
