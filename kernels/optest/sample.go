package optest

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// draw is what one row of Sample is asked for.
type draw struct {
	logits                              []float64
	temperature, topP, minP, penalty, u float64
	topK                                int32
	seen                                []int32
	banned                              []int32 // the same of all draws of a step that ban
}

// sampled is what a Sample gave.
type sampled struct {
	token, topID        []int32
	logprob, topLogprob []float64
}

// sample runs one Sample of all draws.
func (k *kit) sample(draws []draw, vocab, padding, top int) sampled {
	k.Helper()
	n, width := len(draws), vocab+padding
	var logits, temperature, topP, minP, penalty, u []float64
	var topK, seen, ban, banned []int32
	start := []int32{2} // Seen begins with tokens of nobody
	seen = append(seen, 0, 0)
	for _, d := range draws {
		logits = append(logits, d.logits...)
		logits = append(logits, d.padded(padding)...)
		temperature, topP, minP = append(temperature, d.temperature), append(topP, d.topP), append(minP, d.minP)
		penalty, u, topK = append(penalty, d.penalty), append(u, d.u), append(topK, d.topK)
		seen = append(seen, d.seen...)
		start = append(start, int32(len(seen)))
		ban = append(ban, int32(min(len(d.banned), 1)))
		if d.banned != nil {
			banned = d.banned
		}
	}
	column := func(x []float64) kernels.Tensor { return k.floats(kernels.F32, n, 1, x).Tensor }
	token, logprob := k.output(kernels.I32, n, 1), k.output(kernels.F32, n, 1)
	topID, topLogprob := k.output(kernels.I32, n, top), k.output(kernels.F32, n, top)
	s := kernels.Sampling{
		Temperature: column(temperature), TopP: column(topP), MinP: column(minP), Penalty: column(penalty), U: column(u),
		TopK: k.ints(n, 1, topK).Tensor, SeenStart: k.vector(start).Tensor, Seen: k.vector(seen).Tensor,
		Vocab: vocab, Top: top, Token: token.Tensor, Logprob: logprob.Tensor, TopID: topID.Tensor, TopLogprob: topLogprob.Tensor,
	}
	if banned != nil {
		s.Ban, s.Banned = k.ints(n, 1, ban).Tensor, k.vector(banned).Tensor
	}
	k.stream.Sample(k.floats(kernels.F32, n, width, logits).Tensor, s)
	return sampled{k.intValues(token), k.intValues(topID), k.values(logprob), k.values(topLogprob)}
}

// padded are columns beyond the vocabulary: they would win, and they count in the sum.
func (d draw) padded(n int) []float64 {
	padding := make([]float64, n)
	for i := range padding {
		padding[i] = roundTo(kernels.F32, slices.Max(d.logits)+1)
	}
	return padding
}

func testSample(k *kit) {
	for _, vocab := range []int{1, 3, 17, 129, 1000, 50257, 151936} {
		for _, kind := range []string{"normal", "ties", "equal", "extreme", "one", "infinite"} {
			rows := 40
			if vocab > 1<<16 && kind != "normal" && kind != "ties" {
				continue
			}
			switch {
			case vocab > 1<<16:
				rows = 2
			case vocab > 1000:
				rows = 12
			case vocab == 17:
				rows = 600 // more than a device has units
			}
			draws := make([]draw, rows)
			for i := range draws {
				draws[i] = k.draw(kind, vocab)
			}
			k.ban(draws, vocab)
			k.sampleCase(fmt.Sprintf("sample %s of %d", kind, vocab), draws, vocab, k.rng.IntN(5), min(k.rng.IntN(7), vocab))
		}
	}
	k.sampleFrequencies()
	k.sampleEdges()
	if got := k.sample(nil, 5, 0, 2); len(got.token) != 0 {
		k.Error("a token of no row")
	}
}

// draw makes a row with some of the filters on.
func (k *kit) draw(kind string, vocab int) draw {
	pick := func(x ...float64) float64 { return roundTo(kernels.F32, x[k.rng.IntN(len(x))]) }
	d := draw{
		logits: k.logits(kind, vocab), u: roundTo(kernels.F32, float64(k.rng.IntN(1<<24))/(1<<24)),
		temperature: pick(0, 0.001, 0.1, 0.8, 1, 1, 3), topP: pick(1, 1, 0.95, 0.5, 0.01), minP: pick(0, 0, 0.05, 0.5, 1),
		penalty: pick(1, 1, 1.3, 0.7), topK: int32(pick(0, 0, 1, 2, 5, 40, 2000, 1<<30)),
	}
	if vocab <= 1000 && k.rng.IntN(8) == 0 { // of more tokens, many weigh the same in float32
		d.temperature = 100
	}
	if k.rng.IntN(3) > 0 {
		d.seen = k.indices(k.rng.IntN(2*vocab)%500, vocab) // with doubles
	}
	return d
}

// ban has some of the draws ban the likeliest tokens of the first one, and others.
func (k *kit) ban(draws []draw, vocab int) {
	if vocab < 3 || k.rng.IntN(3) == 0 {
		return
	}
	ids := slices.Concat(byFalling(draws[0].logits)[:1+k.rng.IntN(vocab/2)], k.indices(k.rng.IntN(3), vocab)) // with doubles
	if len(ids) > 200 {
		ids = ids[:200]
	}
	slices.Sort(ids)
	if len(slices.Compact(slices.Clone(ids))) == vocab {
		return
	}
	for i := range draws {
		if k.rng.IntN(2) == 0 {
			draws[i].banned = ids
		}
	}
}

// sampleCase compares a step's draws with their definition, but for those that rounding may decide.
func (k *kit) sampleCase(what string, draws []draw, vocab, padding, top int) {
	k.Helper()
	got := k.sample(draws, vocab, padding, top)
	unsure := 0
	for i, d := range draws {
		finite := slices.DeleteFunc(slices.Clone(d.logits), func(x float64) bool { return math.IsInf(x, 0) })
		tol := 16 * k.tol.F32 * (1 + largestOf(finite...))
		sum := logSumByDefinition(append(d.padded(padding), d.logits...))
		row := fmt.Sprintf("%s: row %d, temperature %v, top-k %d, top-p %v, min-p %v, penalty %v, u %v", what, i, d.temperature, d.topK, d.topP, d.minP, d.penalty, d.u)
		token, sure := d.byDefinition(k.tol.F32)
		switch {
		case !sure:
			unsure++
			if got.token[i] < 0 || int(got.token[i]) >= vocab {
				k.Fatalf("%s: token %d", row, got.token[i])
			}
		case int(got.token[i]) != token:
			k.Fatalf("%s: token %d, want %d", row, got.token[i], token)
		}
		if want := d.logits[got.token[i]] - sum; !near(got.logprob[i], want, tol) {
			k.Fatalf("%s: logprob %v, want %v", row, got.logprob[i], want)
		}
		for j, id := range byFalling(d.logits)[:top] {
			if got.topID[i*top+j] != id {
				k.Fatalf("%s: top %v, want %d at %d", row, got.topID[i*top:(i+1)*top], id, j)
			}
			if want := d.logits[id] - sum; !near(got.topLogprob[i*top+j], want, tol) {
				k.Fatalf("%s: top logprob %v, want %v", row, got.topLogprob[i*top+j], want)
			}
		}
	}
	if unsure > len(draws)/2 { // equal weights often end just at top-p
		k.Errorf("%s: %d of %d draws are too close to call", what, unsure, len(draws))
	}
	k.release()
}

func near(got, want, bound float64) bool { return got == want || math.Abs(got-want) <= bound }

func byFalling(x []float64) []int32 {
	order := make([]int32, len(x))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(x[b], x[a]) })
	return order
}

// byDefinition sorts everything and applies one filter after the other. It is sure where no bound is so near that
// rounding may decide.
func (d draw) byDefinition(near float64) (token int, sure bool) {
	logits, seen := slices.Clone(d.logits), map[int]bool{}
	for _, id := range d.seen {
		seen[int(id)] = true
	}
	for id := range logits {
		if seen[id] {
			if logits[id] > 0 {
				logits[id] = roundTo(kernels.F32, logits[id]/d.penalty)
			} else {
				logits[id] = roundTo(kernels.F32, logits[id]*d.penalty)
			}
		}
	}
	order := slices.DeleteFunc(byFalling(logits), func(id int32) bool { return slices.Contains(d.banned, id) })
	if d.temperature == 0 {
		return int(order[0]), true
	}
	sure = true
	weight := make([]float64, len(order))
	for i, id := range order {
		weight[i] = math.Exp((logits[id] - logits[order[0]]) / d.temperature)
	}
	if d.topK > 0 && int(d.topK) < len(weight) {
		weight = weight[:d.topK]
	}
	total, before, n := sumOf(weight), 0.0, 0
	for n < len(weight) && (d.topP >= 1 || n == 0 || before < d.topP*total) {
		before += weight[n]
		n++
		if d.topP < 1 && math.Abs(before-d.topP*total) < near*total {
			sure = false
		}
	}
	weight = weight[:n]
	for n = 1; n < len(weight) && weight[n] >= d.minP; n++ {
	}
	if d.minP > 0 && d.minP != 1 { // a weight of 1 is exact
		for _, w := range weight {
			sure = sure && math.Abs(w-d.minP) > near*d.minP
		}
	}
	weight = weight[:n]
	total, before = sumOf(weight), 0
	chosen := -1
	for i, w := range weight {
		before += w
		sure = sure && (len(weight) == 1 || math.Abs(before-d.u*total) > near*total)
		if chosen < 0 && before > d.u*total {
			chosen = i
		}
	}
	return int(order[max(chosen, 0)]), sure && chosen >= 0
}

func sumOf(x []float64) (sum float64) {
	for _, v := range x {
		sum += v
	}
	return sum
}

// sampleFrequencies draws with evenly spread u: each token comes as often as it is probable.
func (k *kit) sampleFrequencies() {
	const vocab, n = 7, 1000
	logits := k.logits("normal", vocab)
	draws := make([]draw, n)
	for i := range draws {
		draws[i] = draw{logits: logits, temperature: 1, topP: 1, penalty: 1, u: (float64(i) + 0.5) / n}
	}
	count := make([]float64, vocab)
	for _, t := range k.sample(draws, vocab, 0, 0).token {
		count[t]++
	}
	for id, c := range count {
		want := n * math.Exp(logits[id]-logSumByDefinition(logits))
		if math.Abs(c-want) > 1.01 {
			k.Errorf("token %d came %v times of %d, want %.1f", id, c, n, want)
		}
	}
	k.release()
}

// besideMinP is logits of weights 1, 0.2, 0 and w.
func besideMinP(w float64) []float64 {
	return []float64{0, math.Log(0.2), -100, math.Log(w), -100}
}

// sampleEdges are draws whose answer is exact.
func (k *kit) sampleEdges() {
	const last = 1 - 0x1p-24
	base := draw{logits: []float64{1, 1, 3, 1, 3}, temperature: 1, topP: 1, penalty: 1}
	for name, c := range map[string]struct {
		edit func(*draw)
		want int32
	}{
		"u = 0 takes the first in order, ties by id": {func(*draw) {}, 2},
		"u = 0 with top-p 0 keeps one":               {func(d *draw) { d.topP, d.u = 0, last }, 2},
		"the last u takes the last in order":         {func(d *draw) { d.u = last }, 3},
		"top-k 2 cuts by id among equals":            {func(d *draw) { d.topK, d.u = 2, last }, 4},
		"top-k 3 cuts by id among equals":            {func(d *draw) { d.topK, d.u = 3, last }, 0},
		"min-p 1 keeps all of the largest":           {func(d *draw) { d.minP, d.u = 1, last }, 4},
		"a tiny temperature":                         {func(d *draw) { d.temperature, d.u = 1e-30, last }, 4},
		"greedy looks at no filter but the penalty":  {func(d *draw) { d.temperature, d.penalty, d.seen, d.u = 0, 10, []int32{2}, last }, 4},
		"a penalty lowers what is below 0": {func(d *draw) {
			d.temperature, d.penalty, d.seen, d.logits = 0, 1.5, []int32{1}, []float64{-2, -0.5, -0.7, -2, -2}
		}, 2},
		"min-p keeps what is just above":   {func(d *draw) { d.minP, d.u, d.logits = 0.05, last, besideMinP(0.0501) }, 3},
		"min-p drops what is just below":   {func(d *draw) { d.minP, d.u, d.logits = 0.05, last, besideMinP(0.0499) }, 1},
		"a banned token is never drawn":    {func(d *draw) { d.temperature, d.banned = 0, []int32{2, 4} }, 0},
		"a ban comes before the filters":   {func(d *draw) { d.topK, d.topP, d.u, d.banned = 2, 0.9, last, []int32{2, 4} }, 1},
		"one that the penalty raised, too": {func(d *draw) { d.temperature, d.penalty, d.seen, d.banned = 0, 0.1, []int32{3}, []int32{3} }, 2},
		"a penalty counts a token once":    {func(d *draw) { d.temperature, d.penalty, d.seen = 0, 1.5, []int32{2, 4, 4, 4, 2} }, 2},
	} {
		d := base
		d.logits = slices.Clone(base.logits)
		c.edit(&d)
		if got := k.sample([]draw{d}, 5, 3, 1); got.token[0] != c.want {
			k.Errorf("%s: token %d, want %d", name, got.token[0], c.want)
		}
	}
	k.release()
}
