package cpu

import (
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// sampleArgs is one checked Sample.
type sampleArgs struct {
	logits                              matrix[float32] // all columns
	vocab                               int             // those that may be chosen
	temperature, topP, minP, penalty, u []float32
	topK, seenStart, seen               []int32
	ban, banned                         []int32
	token, topID                        matrix[int32]
	logprob, topLogprob                 matrix[float32]
	top                                 int
}

// Sample draws a token for each row of logits.
func (s *Stream) Sample(logits kernels.Tensor, p kernels.Sampling) {
	const op = "sample"
	n := logits.Rows
	if s.note(rules.Sample(logits, p)); s.err != nil || n == 0 {
		return
	}
	a := &sampleArgs{
		logits: view[float32](logits), vocab: p.Vocab, top: p.Top,
		temperature: column(view[float32](p.Temperature), n), topK: column(view[int32](p.TopK), n),
		topP: column(view[float32](p.TopP), n), minP: column(view[float32](p.MinP), n),
		penalty: column(view[float32](p.Penalty), n), u: column(view[float32](p.U), n),
		token: view[int32](p.Token), logprob: view[float32](p.Logprob),
		topID: view[int32](p.TopID), topLogprob: view[float32](p.TopLogprob),
	}
	if !p.Ban.None() {
		a.ban, a.banned = column(view[int32](p.Ban), n), vector[int32](p.Banned)
		s.checkIndex(op, "banned", a.banned, p.Vocab)
	}
	if s.openSeen(op, a, p); s.err == nil {
		s.rows(n, float64(p.Vocab), func(from, to int) {
			r, ok := s.rankings.Get().(*ranking)
			if !ok {
				r = new(ranking)
			}
			for i := from; i < to; i++ {
				s.dev.kernels.sampleRow(a, r, i)
			}
			s.rankings.Put(r)
		})
	}
}

// openSeen checks the lists of tokens that the penalties look at.
func (s *Stream) openSeen(op string, a *sampleArgs, p kernels.Sampling) {
	if p.SeenStart.None() {
		for i, x := range a.penalty {
			if x != 1 {
				s.fail("%s: row %d has a penalty of %v and no tokens to look at", op, i, x)
				return
			}
		}
		return
	}
	n := len(a.penalty)
	if s.note(rules.Vector(op, "seen start", p.SeenStart, n+1)); s.err != nil {
		return
	}
	a.seenStart = vector[int32](p.SeenStart)[:n+1]
	if a.seenStart[n] == a.seenStart[0] { // nothing was seen, and Seen may be none
		a.seenStart = nil
		return
	}
	if s.note(rules.Vector(op, "seen", p.Seen, int(a.seenStart[n]))); s.err != nil {
		return
	}
	a.seen = vector[int32](p.Seen)
	for i := range n {
		if from, to := a.seenStart[i], a.seenStart[i+1]; from < 0 || from > to {
			s.fail("%s: the tokens of row %d stand at %d to %d", op, i, from, to)
			return
		}
	}
	s.checkIndex(op, "seen", a.seen[a.seenStart[0]:a.seenStart[n]], p.Vocab)
}

// mostSorted is the largest top-k that is met by keeping a heap of that many tokens; beyond it and without a top-k
// the ends of the filters are searched for.
const mostSorted = 1024

// sampleRow draws the token of row i.
func (k *kernelSet) sampleRow(a *sampleArgs, r *ranking, i int) {
	best, sum := k.logSum(a.logits.row(i))
	logits := a.logits.row(i)[:a.vocab]
	if best >= a.vocab {
		best = argmax(logits)
	}
	if a.top > 0 {
		r.list = k.largestOf(r.list[:0], logits, a.top)
		for j, c := range r.list {
			a.topID.row(i)[j] = c.id
			a.topLogprob.row(i)[j] = float32(float64(c.value) - sum)
		}
	}
	r.raw = r.raw[:0]
	if a.penalty[i] != 1 && a.seenStart != nil {
		r.penalise(logits, a.seen[a.seenStart[i]:a.seenStart[i+1]], a.penalty[i])
		best = argmax(logits)
	}
	if a.ban != nil && a.ban[i] != 0 {
		for _, id := range a.banned {
			logits[id] = float32(math.Inf(-1))
		}
		best = argmax(logits)
	}
	token := best
	if t := a.temperature[i]; t > 0 {
		f := filters{temperature: t, topK: int(a.topK[i]), topP: float64(a.topP[i]), minP: float64(a.minP[i])}
		if 0 < f.topK && f.topK <= mostSorted && f.topK < len(logits) {
			token = r.drawFromList(k, logits, f, float64(a.u[i]))
		} else {
			r.weigh(k, logits, logits[best], t)
			token = r.draw(k, f, float64(a.u[i]))
		}
	}
	a.token.row(i)[0] = int32(token)
	a.logprob.row(i)[0] = float32(float64(r.rawLogit(logits, token)) - sum)
}

// filters are a row's, after the penalty.
type filters struct {
	temperature float32
	topK        int     // 0: off
	topP, minP  float64 // 1 and 0: off
}

// candidate is a token with its logit or its weight.
type candidate struct {
	value float32
	id    int32
}

// before is the order of falling values, ties by id.
func (c candidate) before(d candidate) bool {
	return c.value > d.value || c.value == d.value && c.id < d.id
}

func falling(c, d candidate) int {
	switch {
	case c.before(d):
		return -1
	case d.before(c):
		return 1
	}
	return 0
}

// penalise applies a repetition penalty once to each distinct token of seen.
func (r *ranking) penalise(logits []float32, seen []int32, penalty float32) {
	for _, id := range seen {
		r.raw = append(r.raw, candidate{logits[id], id})
	}
	for _, c := range r.raw { // of the raw logits, so that a token seen twice is penalised once
		if c.value > 0 {
			logits[c.id] = c.value / penalty
		} else {
			logits[c.id] = c.value * penalty
		}
	}
}

// rawLogit is a token's logit as the model gave it.
func (r *ranking) rawLogit(logits []float32, token int) float32 {
	for _, c := range r.raw {
		if int(c.id) == token {
			return c.value
		}
	}
	return logits[token]
}

// largestOf appends the n first of x in falling order; a NaN counts as −∞.
func (k *kernelSet) largestOf(list []candidate, x []float32, n int) []candidate {
	n = min(n, len(x))
	for i, v := range x[:n] {
		list = append(list, candidate{orLowest(v), int32(i)})
	}
	for i := n/2 - 1; i >= 0; i-- {
		sink(list, i)
	}
	for i := n; n > 0; i++ {
		if i = k.nextAbove(x, i, list[0].value); i == len(x) {
			break
		}
		list[0] = candidate{x[i], int32(i)}
		sink(list, 0)
	}
	slices.SortFunc(list, falling)
	return list
}

func orLowest(v float32) float32 {
	if v != v {
		return float32(math.Inf(-1))
	}
	return v
}

// sink restores a heap whose root is the last in falling order, after entry i was changed.
func sink(heap []candidate, i int) {
	for {
		last := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(heap); child++ {
			if heap[last].before(heap[child]) {
				last = child
			}
		}
		if last == i {
			return
		}
		heap[i], heap[last] = heap[last], heap[i]
		i = last
	}
}

// drawFromList draws among the f.topK largest logits.
func (r *ranking) drawFromList(k *kernelSet, logits []float32, f filters, u float64) int {
	r.list = k.largestOf(r.list[:0], logits, f.topK)
	top, mass := r.list[0].value, 0.0
	for i := range r.list {
		c := &r.list[i]
		c.value = weightOf(c.value, top, f.temperature)
		mass += float64(c.value)
	}
	var kept float64
	n := 0
	for n < len(r.list) && f.keeps(r.list[n], kept, mass) {
		kept += float64(r.list[n].value)
		n++
	}
	return int(walk(r.list[:n], u*kept).id)
}

// keeps tells whether top-p and min-p keep the next candidate, those before it having the weight sum before, all that
// top-k left having mass. The first one stays whatever they say. The largest weight is 1.
func (f filters) keeps(c candidate, before, mass float64) bool {
	return before == 0 || (f.topP >= 1 || before < f.topP*mass) && float64(c.value) >= f.minP
}

// walk is the first candidate whose cumulative weight exceeds target; the last one where rounding keeps all from it.
func walk(list []candidate, target float64) candidate {
	sum := 0.0
	for _, c := range list {
		if sum += float64(c.value); sum > target {
			return c
		}
	}
	return list[len(list)-1]
}

// weightOf is a token's probability over that of the most probable one, whose logit is top.
func weightOf(logit, top, temperature float32) float32 {
	if w := float32(math.Exp(float64((logit - top) / temperature))); w > 0 {
		return w
	}
	return 0 // of a NaN too
}

// tokenWeights is the reference: dst[i] = weightOf(logits[i]).
func tokenWeights(dst, logits []float32, top, temperature float32) (sum float64) {
	for i, x := range logits {
		dst[i] = weightOf(x, top, temperature)
		sum += float64(dst[i])
	}
	return sum
}
