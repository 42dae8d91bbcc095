package optest

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

func testScore(k *kit) {
	for _, kind := range []string{"normal", "ties", "equal", "extreme", "infinite"} {
		for _, c := range []struct{ rows, vocab, padding int }{{0, 5, 0}, {1, 1, 0}, {3, 3, 2}, {17, 17, 0}, {5, 1000, 24}, {9, 4099, 1}, {2, 50257, 47}} {
			if kind == "infinite" && c.vocab < 5 {
				continue
			}
			width := c.vocab + c.padding
			logits := k.logits(kind, c.rows*width)
			target := k.indices(c.rows, c.vocab)
			want, bound, greedy := make([]float64, c.rows), make([]float64, c.rows), make([]int32, c.rows)
			for i := range c.rows {
				row := logits[i*width:][:c.vocab]
				for j := range c.padding {
					logits[i*width+c.vocab+j] = 1e9 // would win
				}
				best := bestByDefinition(row)
				if i%2 == 0 {
					target[i] = int32(best)
				}
				if i%4 == 1 && kind == "ties" { // as large as the best, but after it
					target[i] = int32(c.vocab - 1)
					row[c.vocab-1] = row[best]
				}
				want[i] = row[target[i]] - logSumByDefinition(row)
				bound[i] = 8 * k.tol.F32 * (1 + math.Abs(row[best]) + math.Abs(row[target[i]]))
				if int(target[i]) == bestByDefinition(row) {
					greedy[i] = 1
				}
			}
			lb := k.floats(kernels.F32, c.rows, width, logits)
			logprob, isGreedy := k.output(kernels.F32, c.rows, 1), k.output(kernels.I32, c.rows, 1)
			k.stream.Score(logprob.Tensor, isGreedy.Tensor, lb.Tensor, k.ints(c.rows, 1, target).Tensor, c.vocab)
			what := fmt.Sprintf("score %s %+v", kind, c)
			k.near(what, k.values(logprob), want, bound)
			for i, g := range k.intValues(isGreedy) {
				if g != greedy[i] {
					k.Fatalf("%s: greedy %d in row %d, want %d", what, g, i, greedy[i])
				}
			}
			k.release()
		}
	}
}

func bestByDefinition(x []float64) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

func logSumByDefinition(x []float64) float64 {
	top, sum := x[bestByDefinition(x)], 0.0
	for _, v := range x {
		sum += math.Exp(v - top)
	}
	return top + math.Log(sum)
}
