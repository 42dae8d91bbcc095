package cpu

import (
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// attentionArgs is one checked Attention.
type attentionArgs struct {
	out, q   matrix[float32]
	cache    *cache
	data     []byte // of the layer
	position []int32
	start    []int32
	blocks   matrix[int32]
	context  []int32 // of each sequence; nil where causal
	group    int     // query heads of a KV head
	scale    float32
	window   int       // math.MaxInt32 where there is none
	slopes   []float32 // of the heads; nil: no ALiBi
	sinks    []float32 // of the heads; nil: none
}

// attentionItem is a piece of work: some tokens of a sequence, one KV head.
type attentionItem struct {
	seq, from, to, head int64 // as attention_item in cpu.h
}

// itemRows is about how many rows, query heads of tokens, one piece of work has: they share reads of K and V. It
// changes no bit.
const itemRows = 64

// Attention of every token over its sequence's KV.
func (s *Stream) Attention(out, q kernels.Tensor, kv kernels.Cache, layer int, b kernels.Batch, spec kernels.AttentionSpec) {
	const op = "attention"
	c := s.openCache(op, kv, layer)
	if s.err != nil {
		return
	}
	if s.note(rules.Attention(c.spec, out, q, b, spec)); s.err != nil || b.Tokens == 0 {
		return
	}
	a := &attentionArgs{
		out: view[float32](out), q: view[float32](q), cache: c, data: c.layerData(layer),
		position: vector[int32](b.Position)[:b.Tokens], start: vector[int32](b.Start)[:b.Seqs+1], blocks: view[int32](b.Blocks),
		group: spec.Heads / spec.KVHeads, scale: spec.Scale, window: math.MaxInt32,
	}
	if spec.Window > 0 {
		a.window = spec.Window
	}
	if !spec.Slopes.None() {
		a.slopes = vector[float32](spec.Slopes)
	}
	if !spec.Sinks.None() {
		a.sinks = vector[float32](spec.Sinks)
	}
	if !spec.Causal {
		a.context = vector[int32](spec.Context)[:b.Seqs]
	}
	if s.checkBatch(op, a, b); s.err == nil {
		s.attend(a)
	}
}

// attend shares the work out, longest pieces first as far as that is free: the last tokens of a sequence see most.
func (s *Stream) attend(a *attentionArgs) {
	items := s.items[:0]
	var seen int
	rows := itemRows
	if a.cache.spec.Latent > 0 {
		rows = 2 * itemRows // keys are unpacked for each item
	}
	block := max(1, rows/a.group) // tokens
	for seq := range len(a.start) - 1 {
		for to := int(a.start[seq+1]); to > int(a.start[seq]); to -= block {
			from := max(to-block, int(a.start[seq]))
			for t := from; t < to; t++ {
				lo, hi := a.span(seq, t)
				seen += max(0, hi-lo)
			}
			for head := range a.cache.spec.KVHeads {
				items = append(items, attentionItem{int64(seq), int64(from), int64(to), int64(head)})
			}
		}
	}
	s.items = items
	const valueTime = 0.1 // nanoseconds that a value of K and V and a query head take
	cost := valueTime * float64(seen) * float64(a.q.cols) / float64(len(items))
	s.rows(len(items), cost, func(from, to int) { s.dev.kernels.attention(a, items[from:to]) })
}

// span is the positions [lo, hi) that token t of sequence seq sees.
func (a *attentionArgs) span(seq, t int) (lo, hi int) {
	position := int(a.position[t])
	hi = position + 1
	if a.context != nil {
		hi = int(a.context[seq])
	}
	return max(0, position+1-a.window), hi
}

// checkBatch notes an error unless every position that a token sees has a block.
func (s *Stream) checkBatch(op string, a *attentionArgs, b kernels.Batch) {
	if a.start[0] != 0 || int(a.start[b.Seqs]) != b.Tokens {
		s.fail("%s: sequences take tokens %d to %d of %d", op, a.start[0], a.start[b.Seqs], b.Tokens)
		return
	}
	if b.Blocks.Rows < b.Seqs {
		s.fail("%s: blocks is %v, want a row for each of %d sequences", op, b.Blocks, b.Seqs)
		return
	}
	for seq := range b.Seqs {
		if a.start[seq] > a.start[seq+1] {
			s.fail("%s: sequence %d ends at token %d before it starts at %d", op, seq, a.start[seq+1], a.start[seq])
			return
		}
		lo, hi := math.MaxInt, 0
		for t := int(a.start[seq]); t < int(a.start[seq+1]); t++ {
			from, to := a.span(seq, t)
			lo, hi = min(lo, from), max(hi, to)
		}
		if hi > b.MaxContext {
			s.fail("%s: sequence %d looks at %d tokens, over the step's bound of %d", op, seq, hi, b.MaxContext)
			return
		}
		size := a.cache.spec.BlockTokens
		for i := lo / size; i*size < hi && lo < hi; i++ {
			if i >= b.Blocks.Cols || a.blocks.row(seq)[i] < 0 || int(a.blocks.row(seq)[i]) >= a.cache.spec.Blocks {
				s.fail("%s: sequence %d has no block for its token %d", op, seq, max(lo, i*size))
				return
			}
		}
	}
}

// attendItems is the reference: all scores first, then softmax, then the sum of V, positions ascending.
func attendItems(a *attentionArgs, items []attentionItem) {
	dim, values := a.cache.spec.HeadDim, a.cache.spec.Values()
	key, value := make([]float32, dim), make([]float32, values)
	var scores []float32
	for _, it := range items {
		for t := int(it.from); t < int(it.to); t++ {
			lo, hi := a.span(int(it.seq), t)
			for h := int(it.head) * a.group; h < (int(it.head)+1)*a.group; h++ {
				q, out := a.q.row(t)[h*dim:(h+1)*dim], a.out.row(t)[h*values:(h+1)*values]
				scores = scores[:0]
				for p := lo; p < hi; p++ {
					atK, _ := a.at(it, p)
					a.cache.get(key, a.data, atK, a.cache.width)
					scores = append(scores, dot(q, key)*a.scale)
				}
				if a.slopes != nil {
					for i := range scores {
						scores[i] += a.slopes[h] * float32(lo+i-int(a.position[t]))
					}
				}
				seen := len(scores)
				if a.sinks != nil {
					scores = append(scores, a.sinks[h])
				}
				softmax(scores)
				clear(out)
				for i, w := range scores[:seen] {
					_, atV := a.at(it, lo+i)
					a.cache.get(value, a.data, atV, 1)
					for d, v := range value {
						out[d] += w * v
					}
				}
			}
		}
	}
}

// at is where K and V of a position of an item's sequence lie.
func (a *attentionArgs) at(it attentionItem, position int) (k, v int) {
	size := a.cache.spec.BlockTokens
	return a.cache.at(int(a.blocks.row(int(it.seq))[position/size])*size+position%size, int(it.head))
}

// get reads elements at, at+stride, … of a layer's data into x.
func (c *cache) get(x []float32, data []byte, at, stride int) {
	if c.spec.DType == kernels.BF16 {
		src := elements[uint16](data)[at:]
		for i := range x {
			x[i] = fromBF16(src[i*stride])
		}
		return
	}
	src := elements[float32](data)[at:]
	for i := range x {
		x[i] = src[i*stride]
	}
}

func dot(x, y []float32) (sum float32) {
	y = y[:len(x)]
	for i := range x {
		sum += x[i] * y[i]
	}
	return sum
}

// softmax turns logits into probabilities in place. Of nothing it makes nothing.
func softmax(x []float32) {
	if len(x) == 0 {
		return
	}
	top := x[0]
	for _, v := range x {
		top = max(top, v)
	}
	var sum float32
	for i, v := range x {
		x[i] = float32(math.Exp(float64(v - top)))
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
}
