package engine

import "math/bits"

// draw is the uniform number in [0, 1) of one sampled token: Philox4x32-10 (Salmon et al., SC 2011) with the seed as
// key and (row low, row high, sample, position) as counter; the first word's upper 24 bits, so that float32 holds it
// exactly. row is the global row number, position the place of the drawn token in its sequence, prompt included.
func draw(seed uint64, row int64, sample, position uint32) float32 {
	const (
		m0, m1 = 0xD2511F53, 0xCD9E8D57
		w0, w1 = 0x9E3779B9, 0xBB67AE85
	)
	c := [4]uint32{uint32(row), uint32(uint64(row) >> 32), sample, position}
	k0, k1 := uint32(seed), uint32(seed>>32)
	for range 10 {
		h0, l0 := bits.Mul32(m0, c[0])
		h1, l1 := bits.Mul32(m1, c[2])
		c = [4]uint32{h1 ^ c[1] ^ k0, l1, h0 ^ c[3] ^ k1, l0}
		k0, k1 = k0+w0, k1+w1
	}
	return float32(c[0]>>8) / (1 << 24)
}
