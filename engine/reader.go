package engine

import (
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// reading is what a job reads of the last hidden states.
type reading struct {
	of     readout
	vocab  int // columns of logits of tokens; 0: none are made
	vector int // columns of what is read of a sequence; 0: nothing
	head   head
}

// head is what a vector goes through before it is read.
type head uint8

const (
	headPlain head = iota
	headPooler
	headLabels
)

// reading is what the job of an engine reads. A caller in Go has texts continued and scored.
func (e *Engine) reading() (r reading) {
	c := &e.shape
	if c.Vocabulary() && (e.job.OutputLogits || e.job.Task != config.Embed && e.job.Task != config.Classify) {
		r.vocab = c.Vocab
	}
	switch e.job.Task {
	case config.Embed:
		r.vector = c.Width()
		switch e.job.Pooling {
		case poolingPooler:
			r.of, r.head = readFirst, headPooler
		case poolingCLS:
			r.of = readFirst
		case poolingLast:
			r.of = readLast
		default:
			r.of = readSums
		}
	case config.Classify:
		r.of, r.vector, r.head = readFirst, len(c.Labels), headLabels
	case config.FillMask:
		r.of = readMasks
	}
	return r
}

// rows is how many vectors a step gives at most.
func (r reading) rows(z stepSize) int {
	switch r.of {
	case readFirst, readLast:
		return z.seqs
	case readSums:
		return ceil(z.tokens, blockTokens) + z.seqs
	}
	return 0
}

// bytes is the memory of a reader for steps of this size, beside those of its device's own.
func (r reading) bytes(z stepSize, c *model.Config) int64 {
	n := int64(r.rows(z))
	bytes := n * 4 * int64(r.vector)
	switch r.of {
	case readFirst, readLast:
		bytes += n * 4 * int64(2*c.Width()+1)
	case readSums:
		bytes += n*8*blockTokens + int64(z.tokens)*4*int64(c.Width())
	}
	return bytes
}

// reader makes vectors of hidden states: of one token of a sequence each, or sums over a block of tokens.
type reader struct {
	reading
	vectors       kernels.Tensor // [rows, vector] F32
	index         kernels.Tensor // [1, rows]: which tokens
	first, pooled kernels.Tensor // [rows, hidden]: their hidden states; the pooler's output
	place, weight kernels.Tensor // [1, rows·blockTokens], [rows, blockTokens] F32: which tokens are added up, all once
	wide          kernels.Tensor // [tokens, hidden] F32, where hidden states are not
	tensors       []kernels.Tensor
	places        ints
}

func (r *reader) allocate(m *model.Model, z stepSize) error {
	r.reading = z.read
	act, n, hidden := m.Device().Activations(m.DType), r.rows(z), m.Config.Width()
	alloc := func(to *kernels.Tensor, d kernels.DType, rows, cols int) error {
		t, err := m.Device().Alloc("vectors", d, rows, cols)
		if err != nil {
			return fmt.Errorf("vectors of a step: %w", err)
		}
		*to, r.tensors = t, append(r.tensors, t)
		return nil
	}
	type tensor struct {
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}
	var list []tensor
	switch r.of {
	case readFirst, readLast:
		list = []tensor{{&r.vectors, kernels.F32, n, r.vector}, {&r.index, kernels.I32, 1, n}, {&r.first, act, n, hidden}, {&r.pooled, act, n, hidden}}
	case readSums:
		list = []tensor{{&r.vectors, kernels.F32, n, r.vector}, {&r.place, kernels.I32, 1, n * blockTokens}, {&r.weight, kernels.F32, n, blockTokens}}
		if act != kernels.F32 {
			list = append(list, tensor{&r.wide, kernels.F32, z.tokens, hidden})
		}
	}
	for _, t := range list {
		if err := alloc(t.to, t.dtype, t.rows, t.cols); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) free() {
	for _, t := range r.tensors {
		t.Mem.Free()
	}
	r.tensors = nil
}

// read enqueues what makes the batch's vectors of the last hidden states, and their reading to data.
func (r *reader) read(m *model.Model, s kernels.Stream, hidden kernels.Tensor, b *batch, data []byte) error {
	n := b.readings()
	y := r.vectors.RowRange(0, n)
	if r.of == readSums {
		r.sum(s, y, hidden, b)
	} else if err := r.make(m, s, y, hidden, b); err != nil {
		return err
	}
	s.Read(data, y)
	return nil
}

// make is for vectors of one token each.
func (r *reader) make(m *model.Model, s kernels.Stream, y, hidden kernels.Tensor, b *batch) error {
	index, x := r.index.ColRange(0, y.Rows), r.first.RowRange(0, y.Rows)
	s.Write(index, b.reads)
	s.Select(x, hidden, index, 1)
	switch r.head {
	case headLabels:
		return m.Classify(s, y, x)
	case headPooler:
		pooled := r.pooled.RowRange(0, y.Rows)
		if err := m.Pool(s, pooled, x); err != nil {
			return err
		}
		x = pooled
	}
	s.Copy(y, x)
	return nil
}

// sum adds hidden states up, in float32, those of a block in their order.
func (r *reader) sum(s kernels.Stream, y, hidden kernels.Tensor, b *batch) {
	if !r.wide.None() {
		wide := r.wide.RowRange(0, hidden.Rows)
		s.Copy(wide, hidden)
		hidden = wide
	}
	r.places = r.places[:0]
	var ones ints
	for i := range y.Rows {
		from, to := b.sums.at(2*i), b.sums.at(2*i+1)
		for j := range blockTokens {
			if at := from + j; at < to {
				r.places.put(at)
			} else {
				r.places.put(-1)
			}
			ones.float(1)
		}
	}
	place, weight := r.place.ColRange(0, r.places.len()), r.weight.RowRange(0, y.Rows)
	s.Write(place, r.places)
	s.Write(weight, ones)
	s.Combine(y, hidden, kernels.Routing{K: blockTokens, Experts: 1, Place: place, Weight: weight})
}

// mean is the average of hidden states whose sums were read.
func (q *sequence) mean() []float32 {
	v := make([]float32, len(q.sums))
	for i, sum := range q.sums {
		v[i] = float32(sum / float64(len(q.tokens)))
	}
	return v
}

// argmax is the first of the largest values.
func argmax(x []float32) int {
	best, top := 0, float32(math.Inf(-1))
	for i, v := range x {
		if v > top {
			best, top = i, v
		}
	}
	return best
}
