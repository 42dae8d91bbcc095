package cpu

import (
	"math"
	"slices"
)

// ranking knows the tokens of one row in order of falling weight, ties by id, without sorting them all: they are
// counted into buckets of close weights, and only the buckets that a cut or a draw falls into are sorted.
type ranking struct {
	weight []float32 // of each token, the largest being 1
	count  []int32   // tokens of each bucket
	mass   []float64 // their sum

	list []candidate // the sorted tokens of bucket open, or a caller's
	open int         // -1: none
	raw  []candidate // logits before the penalty
}

// A bucket is the exponent and the first 5 bits of the fraction of weights in [0, 1].
const (
	bucketShift = 23 - 5
	bucketCount = (127<<23)>>bucketShift + 1
)

func bucketOf(weight float32) int { return int(math.Float32bits(weight) >> bucketShift) }

// rank takes the logits of a row; top is the largest.
func (r *ranking) rank(k *kernelSet, logits []float32, top, temperature float32) {
	if r.count == nil {
		r.count, r.mass = make([]int32, bucketCount), make([]float64, bucketCount)
	}
	clear(r.count)
	clear(r.mass)
	r.weight = slices.Grow(r.weight[:0], len(logits))[:len(logits)]
	r.open = -1
	k.tokenWeights(r.weight, logits, top, temperature)
	for _, w := range r.weight {
		b := bucketOf(w)
		r.count[b]++
		r.mass[b] += float64(w)
	}
}

// sorted is the tokens of a bucket in order.
func (r *ranking) sorted(bucket int) []candidate {
	if r.open != bucket {
		r.open, r.list = bucket, r.list[:0]
		for id, w := range r.weight {
			if bucketOf(w) == bucket {
				r.list = append(r.list, candidate{w, int32(id)})
			}
		}
		slices.SortFunc(r.list, falling)
	}
	return r.list
}

// cut is where a filter ends the ranking: all buckets above bucket are kept and the first n tokens of it, in all of
// the weight mass.
type cut struct {
	bucket, n int
	mass      float64
}

// drawFromBuckets draws among all tokens that the filters keep.
func (r *ranking) drawFromBuckets(f filters, u float64) int {
	c := r.all()
	if f.topK > 0 {
		c = r.first(f.topK, c)
	}
	if f.topP < 1 || f.minP > 0 {
		c = r.likely(f, c)
	}
	target := u * c.mass
	var sum float64
	for b := bucketCount - 1; b > c.bucket; b-- {
		if r.count[b] > 0 && sum+r.mass[b] > target {
			return int(walk(r.sorted(b), sum, target).id)
		}
		sum += r.mass[b]
	}
	return int(walk(r.sorted(c.bucket)[:c.n], sum, target).id)
}

// all keeps every token.
func (r *ranking) all() cut {
	c := cut{bucket: bucketCount}
	for b := bucketCount - 1; b >= 0; b-- {
		if r.count[b] > 0 {
			c = cut{b, int(r.count[b]), c.mass + r.mass[b]}
		}
	}
	return c
}

// first keeps the k first tokens of c.
func (r *ranking) first(k int, c cut) cut {
	var n int
	var mass float64
	for b := bucketCount - 1; b > c.bucket; b-- {
		if n+int(r.count[b]) >= k {
			return r.cutInside(b, k-n, mass)
		}
		n, mass = n+int(r.count[b]), mass+r.mass[b]
	}
	if n+c.n <= k {
		return c
	}
	return r.cutInside(c.bucket, k-n, mass)
}

// likely keeps the tokens of c that top-p and min-p keep.
func (r *ranking) likely(f filters, c cut) cut {
	var mass float64
	for b := bucketCount - 1; b > c.bucket; b-- {
		if r.count[b] == 0 {
			continue
		}
		inside := (f.topP >= 1 || mass+r.mass[b] < f.topP*c.mass) && bucketOf(float32(f.minP)) < b
		if !inside {
			if d := r.keepInside(f, b, len(r.sorted(b)), mass, c.mass); d.n < int(r.count[b]) {
				return d
			}
		}
		mass += r.mass[b]
	}
	return r.keepInside(f, c.bucket, c.n, mass, c.mass)
}

// keepInside keeps what the filters keep of the first n tokens of a bucket, before being the weight above it.
func (r *ranking) keepInside(f filters, bucket, n int, before, mass float64) cut {
	kept, sum := 0, before
	for _, c := range r.sorted(bucket)[:n] {
		if !f.keeps(c, sum, mass) {
			break
		}
		sum += float64(c.value)
		kept++
	}
	return cut{bucket, kept, sum}
}

// cutInside keeps the first n tokens of a bucket.
func (r *ranking) cutInside(bucket, n int, before float64) cut {
	sum := before
	for _, c := range r.sorted(bucket)[:n] {
		sum += float64(c.value)
	}
	return cut{bucket, n, sum}
}
