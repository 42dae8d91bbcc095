package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// scoreArgs is one checked Score.
type scoreArgs struct {
	logits  matrix[float32] // vocab columns
	target  []int32
	logprob matrix[float32]
	greedy  matrix[int32]
}

// Score gathers log-probabilities of targets.
func (s *Stream) Score(logprob, greedy, logits, target kernels.Tensor, vocab int) {
	const op = "score"
	if s.note(rules.Score(logprob, greedy, logits, target, vocab)); s.err != nil || logits.Rows == 0 {
		return
	}
	a := &scoreArgs{
		logits: view[float32](logits.ColRange(0, vocab)), logprob: view[float32](logprob), greedy: view[int32](greedy),
		target: column(view[int32](target), logits.Rows),
	}
	s.checkIndex(op, "target", a.target, vocab)
	if s.err == nil {
		s.rows(logits.Rows, 0.5*float64(vocab), func(from, to int) { s.dev.kernels.score(a, from, to) })
	}
}

// column is the only column of m.
func column[T any](m matrix[T], rows int) []T {
	if m.stride == 1 || rows <= 1 {
		return m.data[:min(rows, len(m.data))]
	}
	x := make([]T, rows)
	for i := range x {
		x[i] = m.data[i*m.stride]
	}
	return x
}

// scoreRows is the reference.
func scoreRows(a *scoreArgs, from, to int) {
	for i := from; i < to; i++ {
		logits, at := a.logits.row(i), a.target[i]
		best, sum := logSumOf(logits)
		a.logprob.row(i)[0] = float32(float64(logits[at]) - sum)
		a.greedy.row(i)[0] = 0
		if int32(best) == at {
			a.greedy.row(i)[0] = 1
		}
	}
}

// logSumOf is the argmax of x, and log Σ exp(x).
func logSumOf(x []float32) (best int, logSum float64) {
	best = argmax(x)
	top, sum := x[best], 0.0
	for _, v := range x {
		sum += math.Exp(float64(v - top))
	}
	return best, float64(top) + math.Log(sum)
}

// argmax is the index of the largest of x, the lowest of equals; a NaN is below everything.
func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] || x[best] != x[best] && v == v {
			best = i
		}
	}
	return best
}

// nextAbove is the reference: the first index from on whose value is above bound, or len(x).
func nextAbove(x []float32, from int, bound float32) int {
	for i := from; i < len(x); i++ {
		if x[i] > bound {
			return i
		}
	}
	return len(x)
}
