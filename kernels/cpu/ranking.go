package cpu

import (
	"math"
	"slices"
)

// ranking knows the tokens of one row in order of falling weight, ties by id, without sorting them all: they are
// counted into buckets of close weights, and only the buckets that a cut or a draw falls into are sorted.
type ranking struct {
	weight []float32 // of each token, the largest being 1
	bucket []bucket

	list []candidate // the sorted tokens of bucket open, or a caller's
	open int         // -1: none
	raw  []candidate // logits before the penalty
}

// A bucket is the exponent and the first 5 bits of the fraction of weights in [0, 1].
const (
	bucketShift = 23 - 5
	bucketCount = (127<<23)>>bucketShift + 1
)

// bucket counts tokens and sums their weights.
type bucket struct {
	mass  float64
	count int
	odd   struct { // those of odd ids, while they are counted: neighbours that are alike do not wait for each other
		mass  float64
		count int
	}
}

func bucketOf(weight float32) int { return int(math.Float32bits(weight) >> bucketShift) }

// rank takes the logits of a row; top is the largest.
func (r *ranking) rank(k *kernelSet, logits []float32, top, temperature float32) {
	if r.bucket == nil {
		r.bucket = make([]bucket, bucketCount)
	}
	clear(r.bucket)
	n := len(logits)
	r.weight = slices.Grow(r.weight[:0], n)[:n]
	r.open = -1
	k.tokenWeights(r.weight, logits, top, temperature)
	for i := 0; i < n-1; i += 2 {
		even, odd := r.weight[i], r.weight[i+1]
		b, c := &r.bucket[bucketOf(even)], &r.bucket[bucketOf(odd)].odd
		b.mass += float64(even)
		c.mass += float64(odd)
		b.count++
		c.count++
	}
	if n%2 == 1 {
		b := &r.bucket[bucketOf(r.weight[n-1])]
		b.mass += float64(r.weight[n-1])
		b.count++
	}
	for i := range r.bucket {
		b := &r.bucket[i]
		b.mass += b.odd.mass
		b.count += b.odd.count
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
		if r.bucket[b].count > 0 && sum+r.bucket[b].mass > target {
			return int(walk(r.sorted(b), sum, target).id)
		}
		sum += r.bucket[b].mass
	}
	return int(walk(r.sorted(c.bucket)[:c.n], sum, target).id)
}

// all keeps every token.
func (r *ranking) all() cut {
	c := cut{bucket: bucketCount}
	for b := bucketCount - 1; b >= 0; b-- {
		if r.bucket[b].count > 0 {
			c = cut{b, r.bucket[b].count, c.mass + r.bucket[b].mass}
		}
	}
	return c
}

// first keeps the k first tokens of c.
func (r *ranking) first(k int, c cut) cut {
	var n int
	var mass float64
	for b := bucketCount - 1; b > c.bucket; b-- {
		if n+r.bucket[b].count >= k {
			return r.cutInside(b, k-n, mass)
		}
		n, mass = n+r.bucket[b].count, mass+r.bucket[b].mass
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
		if r.bucket[b].count == 0 {
			continue
		}
		inside := (f.topP >= 1 || mass+r.bucket[b].mass < f.topP*c.mass) && bucketOf(float32(f.minP)) < b
		if !inside {
			if d := r.keepInside(f, b, len(r.sorted(b)), mass, c.mass); d.n < r.bucket[b].count {
				return d
			}
		}
		mass += r.bucket[b].mass
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
