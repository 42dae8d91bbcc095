package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// KernelOptions of Kernels. The zero value measures every op.
type KernelOptions struct {
	Only string // groups whose names contain it; "": all
}

// kernelGroup measures the ops of one kind.
type kernelGroup struct {
	name, note string
	run        func(*Group)
}

// bench measures ops on one device. The first error ends it.
type bench struct {
	ctx     context.Context
	device  kernels.Device
	stream  kernels.Stream
	ceiling *ceilings
	random  *rand.Rand
	owned   []interface{ Free() } // of the group at hand
	groups  []Group
	err     error
}

// Kernels measures the ops of a device at sizes of real models.
func Kernels(ctx context.Context, d kernels.Device, o KernelOptions) ([]Group, error) {
	stream, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	ceiling, err := newCeilings(d)
	if err != nil {
		return nil, err
	}
	defer ceiling.close()
	b := &bench{ctx: ctx, device: d, stream: stream, ceiling: ceiling, random: rand.New(rand.NewPCG(1, 2))}
	groups := []kernelGroup{
		{"linear", "y = x·Wᵀ, N = K = 2048, weights from memory", b.linear},
		{"grouped", "16 experts with 1 to 64 tokens each, weights from memory; the bound is the larger of two times, both measured beside each round: reading the weights' bytes, and one linear op of all rows by one expert", b.grouped},
		{"attention", "over a paged cache of blocks of 16 tokens in random order", b.attention},
		{"routing", "1024 tokens of hidden 1024, 64 experts; each op's part of the whole MoE layer, which gathers tokens inside its grouped op", b.routing},
		{"memory", "1024 tokens of hidden 2048: ops that move and scale rows", b.memory},
		{"vocabulary", "64 rows of 50304 logits", func(g *Group) { b.vocabulary(g, 64, 50304) }},
	}
	if _, is := d.(*cuda.Device); is {
		groups = b.gpuGroups()
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	groups = slices.DeleteFunc(groups, func(g kernelGroup) bool { return !strings.Contains(g.name, o.Only) })
	if len(groups) == 0 {
		b.err = fmt.Errorf("no group of ops has %q in its name; they are %s", o.Only, strings.Join(names, ", "))
	}
	for _, g := range groups {
		if b.err == nil {
			b.err = ctx.Err()
		}
		if b.err != nil {
			continue
		}
		b.groups = append(b.groups, Group{Name: g.name, Note: g.note})
		g.run(&b.groups[len(b.groups)-1])
		b.free()
	}
	if b.err == nil {
		b.err = stream.Close()
	}
	if b.err != nil {
		return nil, b.err
	}
	return append([]Group{b.ceiling.group()}, b.groups...), nil
}

// op adds the figure of an op that does flops operations on weights of type w and touches bytes.
func (b *bench) op(g *Group, name string, w kernels.DType, flops, bytes float64, op func(call int)) {
	b.bounded(g, name, flops, bytes, op, func() (float64, string) {
		b.ceiling.measure(w, flops > 0)
		return b.ceiling.bound(flops, bytes)
	})
}

// bounded is op with a bound of its own.
func (b *bench) bounded(g *Group, name string, flops, bytes float64, op func(call int), bound func() (float64, string)) {
	if b.err == nil {
		b.err = b.ctx.Err()
	}
	if b.err != nil {
		return
	}
	all, err := timed(b.stream, op, bound)
	if err != nil {
		b.err = fmt.Errorf("%s, %s: %w", g.Name, name, err)
		return
	}
	unit, work := "GFLOP/s", flops/1e9
	if flops == 0 {
		unit, work = "GB/s", bytes/1e9
	}
	f := rate(name, unit, work, all...)
	if flops > 0 {
		f.Bytes = bytes / f.Seconds
	}
	g.Figures = append(g.Figures, f)
}

// Weights enough that no cache of a GPU holds them from one call to the next; coldWeights are enough for this machine's.
const coldBytes = 192 << 20

func coldWeights() int64 { return max(coldBytes, 2*lastCache()) }

var weightTypes = []kernels.DType{kernels.F32, kernels.BF16, kernels.I8, kernels.MXFP4}

func (b *bench) linear(g *Group) {
	const n = 2048
	for _, w := range weightTypes {
		weights := b.cold(w, 1, n, n, false)
		for _, m := range []int{1, 16, 64, 256} {
			x, y, next := b.floats(m, n), b.floats(m, n), inTurn(weights)
			b.op(g, fmt.Sprintf("%v M=%d", w, m), w, 2*float64(m)*n*n, b.bytes(weights), func(int) {
				b.stream.Linear(y, x, next(), kernels.Epilogue{})
			})
		}
		b.free()
	}
}

// inTurn gives the next of all, also from one round to the next, so that none is still in a cache.
func inTurn(all []kernels.Weights) func() kernels.Weights {
	i := -1
	return func() kernels.Weights {
		i++
		return all[i%len(all)]
	}
}

// grouped is the experts of an MoE layer whose tokens fall unevenly, at the sizes of small and middling models.
func (b *bench) grouped(g *Group) {
	const experts = 16
	offsets := []int32{0}
	for range experts {
		offsets = append(offsets, offsets[len(offsets)-1]+1+b.random.Int32N(64))
	}
	for _, n := range []int{1024, 2048} {
		for _, w := range weightTypes {
			b.groupedExperts(g, w, n, offsets)
			b.free()
		}
	}
}

// groupedExperts measures experts [n, n] whose rows begin at offsets, and tells both of their bounds.
func (b *bench) groupedExperts(g *Group, w kernels.DType, n int, offsets []int32) {
	experts, slots, at := len(offsets)-1, int(offsets[len(offsets)-1]), b.ints(offsets...)
	all, single := b.cold(w, experts, n, n, false), b.cold(w, 1, n, n, false)
	layer, expert := inTurn(all), inTurn(single)
	x, y, flops := b.floats(slots, n), b.floats(slots, n), 2*float64(slots)*float64(n)*float64(n)
	one := func(int) { b.stream.Linear(y, x, expert(), kernels.Epilogue{}) }
	b.op(g, fmt.Sprintf("%v %d×%d, one expert of %d tokens", w, n, n, slots), w, flops, b.bytes(single), one)
	var bytes, product []float64 // milliseconds of the two bounds
	b.bounded(g, fmt.Sprintf("%v %d×%d, %d experts", w, n, n, experts), flops, b.bytes(all), func(int) {
		b.stream.Grouped(y, x, layer(), at, kernels.Tensor{}, 1, kernels.Epilogue{})
	}, func() (least float64, by string) {
		b.ceiling.measure(w, false)
		least, by = b.ceiling.bound(0, b.bytes(all))
		begin := time.Now()
		one(0)
		b.err = b.stream.Sync()
		took := time.Since(begin).Seconds()
		bytes, product = append(bytes, 1e3*least), append(product, 1e3*took)
		if took > least {
			least, by = took, "by one op"
		}
		return least, by
	})
	if b.err == nil {
		g.Figures = append(g.Figures, several(fmt.Sprintf("  bound: %.0f MB of weights read", b.bytes(all)/1e6), "ms", bytes),
			several(fmt.Sprintf("  bound: one op of %d tokens", slots), "ms", product))
	}
}

func (b *bench) attention(g *Group) {
	cases := []attentionCase{
		{8, 512, 512, 16, 16, 64, kernels.BF16, 0},
		{8, 512, 512, 32, 8, 128, kernels.BF16, 0},
		{512, 1, 64, 6, 6, 32, kernels.BF16, 0}, // the bundled model in a job
		{64, 1, 512, 16, 16, 64, kernels.F32, 0},
		{64, 1, 512, 32, 8, 128, kernels.BF16, 0},
		{1, 1, 8192, 32, 8, 128, kernels.BF16, 0},
		{8, 1, 1024, 16, 1, 576, kernels.BF16, 512}, // DeepSeek-V2-Lite
	}
	for _, context := range []int{64, 512, 4096} {
		for _, seqs := range []int{1, 8, 32, 128} {
			cases = append(cases, attentionCase{seqs, 1, context, 16, 16, 64, kernels.BF16, 0})
		}
	}
	b.attentions(g, cases, kernels.F32)
}

// attentionCase is so many sequences with so many new tokens each, of a context.
type attentionCase struct {
	seqs, tokens, context, heads, kvHeads, dim int
	cache                                      kernels.DType
	latent                                     int // values of a key that are its value; 0: keys and values are apart
}

// attentions measures attention whose products are bounded like those of products' type.
func (b *bench) attentions(g *Group, cases []attentionCase, products kernels.DType) {
	const block = 16
	for _, c := range cases {
		if b.err != nil {
			return
		}
		// A layer a call, in turn, so that no cache holds K and V from one call to the next.
		spec := kernels.CacheSpec{DType: c.cache, Layers: 1, Blocks: c.seqs * c.context / block, BlockTokens: block,
			KVHeads: c.kvHeads, HeadDim: c.dim, Latent: c.latent}
		spec.Layers = int(coldBytes/spec.Bytes()) + 1
		cache, err := b.device.NewCache(spec)
		if err != nil {
			b.err = err
			return
		}
		kv := b.floats(c.context, c.kvHeads*c.dim)
		values, how := kv, fmt.Sprintf("%d", c.dim)
		if c.latent > 0 {
			values, how = kernels.Tensor{}, fmt.Sprintf("%d, the values in the keys,", c.dim)
		}
		for seq := range c.seqs {
			slots := b.each(c.context, func(i int) int32 { return int32(seq*c.context + i) })
			for layer := range spec.Layers {
				b.stream.Store(cache, layer, kv, kv, values, kernels.Batch{Tokens: c.context, Slot: slots}, kernels.StoreSpec{})
			}
		}
		n := c.seqs * c.tokens
		q, out := b.floats(n, c.heads*c.dim), b.floats(n, c.heads*spec.Values())
		table := make([]int32, 0, spec.Blocks)
		for _, i := range b.random.Perm(spec.Blocks) {
			table = append(table, int32(i))
		}
		batch := kernels.Batch{Tokens: n, Seqs: c.seqs, MaxContext: c.context,
			Blocks:   b.ints(table...).Reshape(c.seqs, c.context/block),
			Position: b.each(n, func(i int) int32 { return int32(c.context - c.tokens + i%c.tokens) }),
			Seq:      b.each(n, func(i int) int32 { return int32(i / c.tokens) }),
			Start:    b.each(c.seqs+1, func(i int) int32 { return int32(i * c.tokens) })}
		attention := kernels.AttentionSpec{Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Scale: 0.1, Causal: true}
		pairs := float64(n) * (float64(c.context) - float64(c.tokens-1)/2) // of a token and a position it sees
		b.op(g, fmt.Sprintf("%d×%d of %d, %d heads of %s over %d, %v", c.seqs, c.tokens, c.context, c.heads, how, c.kvHeads, c.cache),
			products, 2*pairs*float64(c.heads*(c.dim+spec.Values())), float64(spec.Bytes())/float64(spec.Layers), func(i int) {
				b.stream.Attention(out, q, cache, i%spec.Layers, batch, attention)
			})
		cache.Free()
		b.free()
	}
}

func (b *bench) memory(g *Group) {
	const tokens, hidden, heads, dim, choices = 1024, 2048, 16, 128, 2
	x, y, delta, weight := b.floats(tokens, hidden), b.floats(tokens, hidden), b.floats(tokens, hidden), b.f32s(1, hidden)
	half, wide := b.alloc(kernels.BF16, tokens, hidden), b.f32s(tokens, hidden)
	table := b.alloc(kernels.BF16, 50000, hidden)
	ids, positions := b.each(tokens, func(i int) int32 { return int32(i * 37 % 50000) }), b.count(tokens)
	coef := b.f32s(tokens, 2)
	if b.err != nil {
		return
	}
	cache, err := b.device.NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 1, Blocks: tokens / 16,
		BlockTokens: 16, KVHeads: heads, HeadDim: dim})
	if err != nil {
		b.err = err
		return
	}
	b.owned = append(b.owned, cache)
	batch := kernels.Batch{Tokens: tokens, Position: positions, Slot: positions}
	angles := b.f32s(tokens, dim/2)
	rope := &kernels.Rope{Cos: angles, Sin: angles, Dim: dim}
	act := float64(b.device.Activations(kernels.BF16).Size())
	s, row, none := b.stream, float64(tokens*hidden)*act, kernels.Tensor{}
	for _, c := range []struct {
		name  string
		bytes float64
		op    func()
	}{
		{"Embed, bf16 table", (1 + 2/act) * row, func() { s.Embed(y, ids, table, none, none) }},
		{"Norm, RMS", 2 * row, func() { s.Norm(y, x, none, kernels.Norm{Kind: kernels.RMSNorm, Weight: weight, Eps: 1e-5}) }},
		{"Norm, RMS of x + delta", 4 * row, func() { s.Norm(y, x, delta, kernels.Norm{Kind: kernels.RMSNorm, Weight: weight, Eps: 1e-5}) }},
		{"Norm, layer", 2 * row, func() { s.Norm(y, x, none, kernels.Norm{Weight: weight, Bias: weight, Eps: 1e-5}) }},
		{"Store, rotary, bf16 cache", (5 + 4/act) * row, func() { s.Store(cache, 0, x, y, delta, batch, kernels.StoreSpec{Rope: rope}) }},
		{"Add", 3 * row, func() { s.Add(y, delta) }},
		{"Mix", 3 * row, func() { s.Mix(y, x, delta, coef) }},
		{"Select", 2 * row, func() { s.Select(y, x, ids.Reshape(1, tokens), 50) }},
		{"Copy, fp32 to bf16", 6 * tokens * hidden, func() { s.Copy(half, wide) }},
	} {
		b.op(g, c.name, kernels.F32, 0, c.bytes, func(int) { c.op() })
	}
}

func (b *bench) vocabulary(g *Group, rows, vocab int) {
	logits, ids := b.f32s(rows, vocab), b.each(rows, func(i int) int32 { return int32(i * 700 % vocab) }).Reshape(rows, 1)
	column := func(v func() float32) kernels.Tensor {
		x := make([]float32, rows)
		for i := range x {
			x[i] = v()
		}
		return b.values(rows, 1, x)
	}
	all := func(v float32) kernels.Tensor { return column(func() float32 { return v }) }
	token, logprob, u := b.count(rows).Reshape(rows, 1), all(0), column(b.random.Float32)
	sample := func(temperature, topP float32, topK int32, top int) func() {
		draw := kernels.Sampling{Temperature: all(temperature), TopP: all(topP), MinP: all(0), Penalty: all(1), U: u,
			TopK: b.each(rows, func(int) int32 { return topK }).Reshape(rows, 1), Vocab: vocab, Top: top,
			Token: token, Logprob: logprob}
		if top > 0 {
			draw.TopID, draw.TopLogprob = b.count(rows*top).Reshape(rows, top), b.f32s(rows, top)
		}
		return func() { b.stream.Sample(logits, draw) }
	}
	for _, c := range []struct {
		name string
		op   func()
	}{
		{"Score", func() { b.stream.Score(logprob, token, logits, ids, vocab) }},
		{"Sample, greedy", sample(0, 1, 0, 0)},
		{"Sample, greedy, 20 reported", sample(0, 1, 0, 20)},
		{"Sample, top-k 40", sample(0.8, 1, 40, 0)},
		{"Sample, top-p 0.95", sample(0.8, 0.95, 0, 0)},
		{"Sample, no filter", sample(1, 1, 0, 0)},
	} {
		b.op(g, c.name, kernels.F32, 0, 4*float64(rows)*float64(vocab), func(int) { c.op() })
	}
}
