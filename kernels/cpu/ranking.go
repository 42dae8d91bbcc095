package cpu

import (
	"math"
	"slices"
)

// ranking knows the tokens of one row in order of falling weight, ties by id, without sorting them all: where a filter
// or a draw ends is searched for by weight, in windows that hold ever fewer tokens, and only the last one is sorted.
type ranking struct {
	weight []float32 // of each token, the largest being 1
	sum    float64   // of all weights
	window weighted  // tokens of a search
	list   []candidate
	raw    []candidate // logits before the penalty
}

// weighted is tokens with their weights; without ids, token i is at place i.
type weighted struct {
	weight []float32
	id     []int32
}

// place is a token's in the ranking.
type place struct {
	candidate
	mass float64 // the weights of all tokens up to this one and its own
}

// massesAbove is the sum and the number of the weights above each of three bounds.
type massesAbove struct {
	mass  [3]float64
	count [3]int64
}

const (
	windowSorted = 64 // tokens of a window that is sorted
	windowRoom   = 16 // lanes of a vector, which writes all of them
)

// weigh takes the logits of a row; top is the largest.
func (r *ranking) weigh(k *kernelSet, logits []float32, top, temperature float32) {
	n := len(logits)
	r.weight = slices.Grow(r.weight[:0], n)[:n]
	r.window.weight = slices.Grow(r.window.weight[:0], n+windowRoom)[:n+windowRoom]
	r.window.id = slices.Grow(r.window.id[:0], n+windowRoom)[:n+windowRoom]
	r.sum = k.tokenWeights(r.weight, logits, top, temperature)
}

// draw draws among all tokens that the filters keep.
func (r *ranking) draw(k *kernelSet, f filters, u float64) int {
	mass, last := r.sum, candidate{} // of what is kept; the last token of it where anything is left out
	if 0 < f.topK && f.topK < len(r.weight) {
		p := r.find(k, func(_ float64, count int) bool { return count >= f.topK })
		mass, last = p.mass, p.candidate
	}
	if f.topP < 1 {
		p := r.find(k, func(m float64, _ int) bool { return m >= f.topP*mass })
		mass, last = p.mass, p.candidate
	}
	if least := float32(f.minP); least > 0 && last.value < least {
		below := math.Nextafter32(least, 0)
		mass = max(k.massesAbove(r.weight, [3]float32{below, below, below}).mass[0], 1) // the first one stays
	}
	return int(r.find(k, func(m float64, _ int) bool { return m > u*mass }).id)
}

// find returns the first token, in order, by which enough of the weight and of the tokens have come; the last one where
// it is never enough. What is enough stays so.
func (r *ranking) find(k *kernelSet, enough func(mass float64, count int) bool) place {
	// The token's weight is in (low, high], as bits, which ascend as weights do. mass and count are of the tokens above
	// high, upTo is the number of those above low. in holds all of the window, and above it come what above tells.
	low, high := int64(-1), bitsOf(1)
	var mass float64
	var count int
	upTo := len(r.weight)
	in, above := weighted{weight: r.weight}, struct {
		mass  float64
		count int
	}{}
	bound := [3]int64{bitsOf(0x1p-12), bitsOf(0x1p-6), bitsOf(0x1p-3)} // texts mostly end there
	for upTo-count > windowSorted && high-low > 1 {
		got := k.massesAbove(in.weight, [3]float32{ofBits(bound[0]), ofBits(bound[1]), ofBits(bound[2])})
		for i := len(bound) - 1; i >= 0; i-- {
			m, n := above.mass+got.mass[i], above.count+int(got.count[i])
			if n > 0 && enough(m, n) {
				low, upTo = bound[i], n
				break
			}
			high, mass, count = bound[i], m, n
		}
		if upTo-count < len(in.weight)/2 {
			in = r.narrow(k, in, low, high)
			above.mass, above.count = mass, count
		}
		for i := range bound {
			bound[i] = low + (high-low)*int64(i+1)/4
		}
	}
	in = r.narrow(k, in, low, high)
	r.list = r.list[:0]
	for i, w := range in.weight {
		r.list = append(r.list, candidate{w, in.id[i]})
	}
	slices.SortFunc(r.list, falling)
	p := place{mass: mass}
	for _, c := range r.list {
		p.candidate = c
		p.mass += float64(c.value)
		count++
		if enough(p.mass, count) {
			break
		}
	}
	return p
}

// narrow is the tokens of in whose weights are in (low, high], in the same order.
func (r *ranking) narrow(k *kernelSet, in weighted, low, high int64) weighted {
	n := k.between(r.window, in, ofBits(low), ofBits(high))
	return weighted{r.window.weight[:n], r.window.id[:n]}
}

// bitsOf and ofBits turn weights into whole numbers of the same order, and back; -1 is below all weights.
func bitsOf(weight float32) int64 { return int64(math.Float32bits(weight)) }
func ofBits(bits int64) float32 {
	if bits < 0 {
		return -1
	}
	return math.Float32frombits(uint32(bits))
}

// massesOf is the reference.
func massesOf(w []float32, bound [3]float32) (m massesAbove) {
	for i, b := range bound {
		for _, x := range w {
			if x > b {
				m.mass[i] += float64(x)
				m.count[i]++
			}
		}
	}
	return m
}

// weightsBetween is the reference: puts the tokens of from whose weights are in (low, high] to the front of to, which
// may be from, and returns how many they are.
func weightsBetween(to, from weighted, low, high float32) (found int) {
	for i, w := range from.weight {
		if low < w && w <= high {
			id := int32(i)
			if from.id != nil {
				id = from.id[i]
			}
			to.weight[found], to.id[found] = w, id
			found++
		}
	}
	return found
}
