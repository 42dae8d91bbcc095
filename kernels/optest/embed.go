package optest

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

func testEmbed(k *kit) {
	for _, act := range k.activations() {
		for _, d := range floatTypes {
			for _, c := range []struct {
				tokens, hidden, vocab, positions int
			}{{0, 8, 3, 0}, {1, 1, 1, 0}, {3, 17, 5, 4}, {17, 63, 100, 0}, {9, 300, 11, 9}, {65, 1030, 30, 40}} {
				table, at := k.normal(c.vocab*c.hidden, 1), k.normal(c.positions*c.hidden, 1)
				ids, pos := k.indices(c.tokens, c.vocab), k.indices(c.tokens, max(1, c.positions))
				y := k.output(act, c.tokens, c.hidden)
				tb := k.floats(d, c.vocab, c.hidden, table)
				var posT, posTable kernels.Tensor
				if c.positions > 0 {
					posT, posTable = k.vector(pos).Tensor, k.floats(d, c.positions, c.hidden, at).Tensor
				}
				k.stream.Embed(y.Tensor, k.vector(ids).Tensor, tb.Tensor, posT, posTable)
				want := make([]float64, c.tokens*c.hidden)
				for i := range want {
					t, j := i/c.hidden, i%c.hidden
					want[i] = table[int(ids[t])*c.hidden+j]
					if c.positions > 0 {
						want[i] += at[int(pos[t])*c.hidden+j]
					}
					want[i] = roundTo(act, want[i])
				}
				bound := 0.0
				if c.positions > 0 && act != kernels.F32 && d == kernels.F32 { // the sum may be rounded to float32 first
					bound = k.tol.of(act) * largestOf(want...)
				}
				k.nearBy(fmt.Sprintf("embed %v of %v %+v", act, d, c), k.values(y), want, bound)
				k.release()
			}
		}
	}
}
