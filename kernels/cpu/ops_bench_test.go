package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// bench makes tensors of random numbers. Benchmarks take the level from DSBATCH_CPU.
type bench struct {
	*testing.B
	dev    *Device
	stream *Stream
	rng    *rand.Rand
}

func newBench(b *testing.B) *bench {
	d, s := benchDevice(b)
	return &bench{b, d, s, rand.New(rand.NewPCG(1, 2))}
}

func (b *bench) tensor(d kernels.DType, rows, cols int) kernels.Tensor {
	t, err := b.dev.Alloc("bench", d, rows, cols)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(t.Mem.Free)
	return t
}

func (b *bench) floats(rows, cols int) kernels.Tensor {
	t := b.tensor(kernels.F32, rows, cols)
	for i := range vector[float32](t) {
		vector[float32](t)[i] = float32(b.rng.NormFloat64())
	}
	return t
}

func (b *bench) ints(cols int, f func(i int) int) kernels.Tensor {
	t := b.tensor(kernels.I32, 1, cols)
	for i := range vector[int32](t) {
		vector[int32](t)[i] = int32(f(i))
	}
	return t
}

// BenchmarkAttention is prefill of whole prompts and decode steps of many sequences.
func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct {
		seqs, tokens, context, heads, kvHeads, dim, latent int
		cache                                              kernels.DType
	}{
		{8, 512, 512, 16, 16, 64, 0, kernels.F32},
		{8, 512, 512, 32, 8, 128, 0, kernels.F32},
		{8, 512, 512, 32, 8, 128, 0, kernels.BF16},
		{64, 1, 512, 16, 16, 64, 0, kernels.F32},
		{64, 1, 512, 32, 8, 128, 0, kernels.F32},
		{64, 1, 512, 32, 8, 128, 0, kernels.BF16},
		{1, 1, 8192, 32, 8, 128, 0, kernels.BF16},
		{2, 128, 128, 16, 1, 576, 512, kernels.BF16}, // DeepSeek's
		{16, 1, 512, 16, 1, 576, 512, kernels.BF16},
		{4, 1, 512, 128, 1, 576, 512, kernels.BF16},
	} {
		b.Run(fmt.Sprintf("%dx%d of %d, %d heads of %d over %d, %v", c.seqs, c.tokens, c.context, c.heads, c.dim, c.kvHeads, c.cache), func(b *testing.B) {
			const block = 16
			k := newBench(b)
			blocks := c.context / block
			cache, err := k.dev.NewCache(kernels.CacheSpec{DType: c.cache, Layers: 1, Blocks: c.seqs * blocks, BlockTokens: block, KVHeads: c.kvHeads, HeadDim: c.dim, Latent: c.latent})
			if err != nil {
				b.Fatal(err)
			}
			defer cache.Free()
			all := c.seqs * c.context
			kv := k.floats(all, c.kvHeads*c.dim)
			values, spec := kv, cache.Spec()
			if c.latent > 0 {
				values = kernels.Tensor{}
			}
			k.stream.Store(cache, 0, kv, kv, values, kernels.Batch{Tokens: all, Slot: k.ints(all, func(i int) int { return i })}, kernels.StoreSpec{})
			n := c.seqs * c.tokens
			q, out := k.floats(n, c.heads*c.dim), k.floats(n, c.heads*spec.Values())
			table := k.tensor(kernels.I32, c.seqs, blocks)
			for i, order := 0, k.rng.Perm(c.seqs*blocks); i < len(order); i++ {
				vector[int32](table)[i] = int32(order[i])
			}
			batch := kernels.Batch{Tokens: n, Seqs: c.seqs, Blocks: table, MaxContext: c.context,
				Position: k.ints(n, func(i int) int { return c.context - c.tokens + i%c.tokens }),
				Start:    k.ints(c.seqs+1, func(i int) int { return i * c.tokens })}
			how := kernels.AttentionSpec{Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Scale: 0.1, Causal: true}
			seen := float64(n) * (float64(c.context) - float64(c.tokens-1)/2) // pairs of a token and a position
			flops := 2 * seen * float64(c.heads*(c.dim+spec.Values()))
			benchCeilings(b, k.dev, kernels.F32, flops, float64(spec.Bytes()), func() { k.stream.Attention(out, q, cache, 0, batch, how) })
		})
	}
}

// BenchmarkMemoryOps are the ops that only move and scale rows.
func BenchmarkMemoryOps(b *testing.B) {
	const tokens, hidden, heads, dim = 1024, 2048, 16, 128
	k := newBench(b)
	x, y, delta, weight := k.floats(tokens, hidden), k.floats(tokens, hidden), k.floats(tokens, hidden), k.floats(1, hidden)
	table, ids := k.tensor(kernels.BF16, 50000, hidden), k.ints(tokens, func(i int) int { return i * 37 % 50000 })
	cos := k.floats(tokens, dim/2)
	cache, err := k.dev.NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 1, Blocks: tokens / 16, BlockTokens: 16, KVHeads: heads, HeadDim: dim})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Free()
	batch := kernels.Batch{Tokens: tokens, Position: k.ints(tokens, func(i int) int { return i }), Slot: k.ints(tokens, func(i int) int { return i })}
	rope := &kernels.Rope{Cos: cos, Sin: cos, Dim: dim}
	row := float64(tokens * hidden * 4)
	for _, c := range []struct {
		name  string
		bytes float64
		op    func()
	}{
		{"RMSNorm", 5 * row, func() { k.stream.Norm(y, x, delta, kernels.Norm{Kind: kernels.RMSNorm, Weight: weight, Eps: 1e-5}) }},
		{"LayerNorm", 2 * row, func() { k.stream.Norm(y, x, kernels.Tensor{}, kernels.Norm{Weight: weight, Bias: weight, Eps: 1e-5}) }},
		{"Store", 6 * row, func() { k.stream.Store(cache, 0, x, y, delta, batch, kernels.StoreSpec{Rope: rope}) }},
		{"Embed", 1.5 * row, func() { k.stream.Embed(y, ids, table, kernels.Tensor{}, kernels.Tensor{}) }},
		{"Add", 3 * row, func() { k.stream.Add(y, delta) }},
	} {
		b.Run(c.name, func(b *testing.B) { benchCeilings(b, k.dev, kernels.F32, 0, c.bytes, c.op) })
	}
}

// BenchmarkRouting is what an MoE layer of 1024 tokens, hidden 1024, 64 experts adds to its linear ops.
func BenchmarkRouting(b *testing.B) {
	const tokens, hidden, experts = 1024, 1024, 64
	for _, choices := range []int{1, 2, 8} {
		k := newBench(b)
		slots := tokens * choices
		x, y, logits := k.floats(tokens, hidden), k.floats(tokens, hidden), k.floats(tokens, experts)
		in, out := k.floats(slots, hidden), k.floats(slots, hidden)
		r := kernels.Routing{K: choices, Experts: experts, Expert: k.tensor(kernels.I32, tokens, choices), Weight: k.floats(tokens, choices),
			Offsets: k.ints(experts+1, func(int) int { return 0 }), Choices: k.ints(slots, func(int) int { return 0 }), Place: k.ints(slots, func(int) int { return 0 })}
		g := kernels.Gate{Experts: experts, K: choices, Renormalise: true}
		for _, c := range []struct {
			name  string
			bytes int
			op    func()
		}{
			{"Gate", 4 * tokens * experts, func() { k.stream.Gate(r, logits, g) }},
			{"Table", 4 * 3 * slots, func() { k.stream.Table(r) }},
			{"Select", 4 * 2 * slots * hidden, func() { k.stream.Select(in, x, r.Choices, choices) }},
			{"Combine", 4 * (slots + tokens) * hidden, func() { k.stream.Combine(y, out, r) }},
		} {
			b.Run(fmt.Sprintf("top-%d %s", choices, c.name), func(b *testing.B) { benchCeilings(b, k.dev, kernels.F32, 0, float64(c.bytes), c.op) })
		}
	}
}

// BenchmarkVocabulary is the ops over rows of logits.
func BenchmarkVocabulary(b *testing.B) {
	const rows, vocab = 64, 50304
	k := newBench(b)
	logits, u := k.floats(rows, vocab), k.tensor(kernels.F32, rows, 1)
	for i := range rows {
		vector[float32](u)[i] = k.rng.Float32()
	}
	column := func(x float32) kernels.Tensor {
		t := k.tensor(kernels.F32, rows, 1)
		for i := range rows {
			vector[float32](t)[i] = x
		}
		return t
	}
	id := func(x int) kernels.Tensor { return k.ints(rows, func(int) int { return x }).Reshape(rows, 1) }
	token, logprob := id(0), column(0)
	sample := func(temperature, topP float32, topK, top int) func() {
		s := kernels.Sampling{Temperature: column(temperature), TopK: id(topK), TopP: column(topP), MinP: column(0), Penalty: column(1), U: u,
			Vocab: vocab, Top: top, Token: token, Logprob: logprob, TopID: k.ints(rows*max(1, top), func(int) int { return 0 }).Reshape(rows, max(1, top)),
			TopLogprob: k.floats(rows, max(1, top))}
		return func() { k.stream.Sample(logits, s) }
	}
	for _, c := range []struct {
		name string
		op   func()
	}{
		{"Score", func() { k.stream.Score(logprob, token, logits, id(5), vocab) }},
		{"Sample greedy", sample(0, 1, 0, 0)},
		{"Sample greedy, top 20 reported", sample(0, 1, 0, 20)},
		{"Sample top-k 40", sample(0.8, 1, 40, 0)},
		{"Sample top-p 0.95", sample(0.8, 0.95, 0, 0)},
		{"Sample plain", sample(1, 1, 0, 0)},
	} {
		b.Run(c.name, func(b *testing.B) { benchCeilings(b, k.dev, kernels.F32, 0, 4*rows*vocab, c.op) })
	}
}
