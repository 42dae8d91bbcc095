package engine

import (
	"encoding/binary"
	"math"
	"slices"
)

// ints is a host buffer of 32-bit values, integers or floats, little-endian.
type ints []byte

func (b *ints) put(v int) { *b = binary.LittleEndian.AppendUint32(*b, uint32(int32(v))) }

func (b *ints) float(v float32) { *b = binary.LittleEndian.AppendUint32(*b, math.Float32bits(v)) }

func (b ints) len() int { return len(b) / 4 }

func (b ints) at(i int) int { return int(intAt(b, i)) }

// row puts values, or the first of them, and zeros up to a width.
func (b *ints) row(values []int32, width int) {
	from := len(*b)
	*b = slices.Grow(*b, 4*width)[:from+4*width]
	to := (*b)[from:]
	values = values[:min(len(values), width)]
	for i, v := range values {
		binary.LittleEndian.PutUint32(to[4*i:], uint32(v))
	}
	clear(to[4*len(values):])
}

func intAt(b []byte, i int) int32 {
	return int32(binary.LittleEndian.Uint32(b[4*i:]))
}

func floatAt(b []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}
