package benchmarks

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// noise is n normally distributed numbers of a standard deviation, as bf16. They are drawn from a table of some
// thousand, since a model of billions would else take minutes to invent; each stands in it with its negative, since a mean
// other than 0, alike in all matrices, grows from layer to layer until all tokens are alike.
func noise(r *rand.Rand, n int, deviation float64) []byte {
	const kinds = 1 << 12
	var table [kinds]uint16
	for i := 0; i < kinds; i += 2 {
		table[i] = uint16(math.Float32bits(float32(r.NormFloat64()*deviation)) >> 16)
		table[i+1] = table[i] ^ 1<<15
	}
	data := make([]byte, 2*n)
	for i := 0; i < n; {
		for bits := r.Uint64(); i < n && bits != 0; bits >>= 12 {
			binary.LittleEndian.PutUint16(data[2*i:], table[bits%kinds])
			i++
		}
	}
	return data
}
