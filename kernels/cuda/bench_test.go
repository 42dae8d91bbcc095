package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// bench measures ops on the GPU, by events around graphs of them, beside the copy bandwidth of the same card.
type bench struct {
	testing.TB
	dev  *Device
	s    *Stream
	from handle
	to   handle
	copy float64 // bytes read and written a second
}

func newBench(t testing.TB) *bench {
	if os.Getenv("DSBATCH_FIGURES") == "" {
		t.Skip("set DSBATCH_FIGURES to measure")
	}
	b := &bench{TB: t, dev: open(t, Options{})}
	var err error
	if b.s, err = b.dev.newStream(); err != nil {
		t.Fatal(err)
	}
	if b.from, err = eventNew(b.dev.ctx); err != nil {
		t.Fatal(err)
	}
	if b.to, err = eventNew(b.dev.ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{eventFree(b.dev.ctx, b.from), eventFree(b.dev.ctx, b.to), b.s.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	const size = 1 << 30
	x, y := b.tensor(kernels.F32, 1<<10, size>>12), b.tensor(kernels.F32, 1<<10, size>>12)
	b.copy = 2 * size / b.seconds(4, func(int) { b.s.Copy(y, x) })
	x.Mem.Free()
	y.Mem.Free()
	fmt.Printf("%s: a copy moves %.2f TB/s\n", b.dev.Name(), b.copy/1e12)
	return b
}

// seconds is what one of n ops takes: the best of some graphs of n.
func (b *bench) seconds(n int, op func(i int)) float64 {
	b.Helper()
	best := math.Inf(1)
	for round := range 6 {
		for i := range n {
			op(i)
		}
		if err := eventRecord(b.dev.ctx, b.from, b.s.handle); err != nil {
			b.Fatal(err)
		}
		b.s.flush()
		if err := eventRecord(b.dev.ctx, b.to, b.s.handle); err != nil {
			b.Fatal(err)
		}
		ms, err := eventElapsed(b.dev.ctx, b.from, b.to)
		if err != nil {
			b.Fatal(err)
		}
		if err := b.s.Sync(); err != nil {
			b.Fatal(err)
		}
		if round > 1 { // compiled, and then made a graph of
			best = min(best, ms/1e3/float64(n))
		}
	}
	return best
}

// tensor is random values, a block of them repeated.
func (b *bench) tensor(d kernels.DType, rows, cols int) kernels.Tensor {
	b.Helper()
	t, err := b.dev.Alloc("benchmark", d, rows, cols)
	if err != nil {
		b.Fatal(err)
	}
	block := randomBytes(d, min(rows*cols, 1<<20))
	data := make([]byte, t.Bytes())
	for at := 0; at < len(data); at += len(block) {
		copy(data[at:], block)
	}
	if err := upload(b.dev.ctx, address(t), data); err != nil {
		b.Fatal(err)
	}
	return t
}

// randomBytes is n normal numbers of deviation 0.05, as the upper halves of float32s where d is narrower.
func randomBytes(d kernels.DType, n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]byte, 0, n*d.Size())
	for range n {
		bits := math.Float32bits(float32(0.05 * r.NormFloat64()))
		if d == kernels.F32 {
			out = append(out, byte(bits), byte(bits>>8))
		}
		out = append(out, byte(bits>>16), byte(bits>>24))
	}
	return out
}

func (b *bench) ints(values []int32) kernels.Tensor {
	b.Helper()
	t, err := b.dev.Alloc("benchmark", kernels.I32, 1, len(values))
	if err != nil {
		b.Fatal(err)
	}
	var data []byte
	for _, v := range values {
		data = append(data, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	if err := upload(b.dev.ctx, address(t), data); err != nil {
		b.Fatal(err)
	}
	return t
}

// weights are experts random matrices of bfloat16; gated ones have twice the rows.
func (b *bench) weights(experts, out, in int, gated bool) kernels.Weights {
	b.Helper()
	part := kernels.Matrix{DType: kernels.BF16, Rows: out, Cols: in, Data: randomBytes(kernels.BF16, out*in)}
	l := kernels.Linear{Parts: []kernels.Matrix{part}}
	if gated {
		l.Parts = append(l.Parts, part)
	}
	spec := kernels.WeightSpec{DType: kernels.BF16, Gated: gated}
	for range experts {
		spec.Experts = append(spec.Experts, l)
	}
	w, err := b.dev.Pack("benchmark", spec)
	if err != nil {
		b.Fatal(err)
	}
	return w
}

func (b *bench) report(what string, seconds, bytes, flops float64) {
	fmt.Printf("%-44s %9.1f µs %6.2f TB/s (%3.0f%% of a copy) %7.1f TFLOP/s\n", what, 1e6*seconds, bytes/seconds/1e12, 100*bytes/seconds/b.copy, flops/seconds/1e12)
}

// TestFiguresLinear measures the linear ops of OLMoE-1B-7B, weights beyond the cache.
func TestFiguresLinear(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ out, in int }{{6144, 2048}, {2048, 2048}, {50304, 2048}} {
		n := max(1, 160<<20/(c.out*c.in*2))
		var w []kernels.Weights
		for range n {
			w = append(w, b.weights(1, c.out, c.in, false))
		}
		for _, tokens := range []int{1, 16, 64, 256, 1024, 4096, 8192} {
			if c.out > 10000 && tokens > 1024 {
				continue
			}
			x, y := b.tensor(kernels.BF16, tokens, c.in), b.tensor(kernels.BF16, tokens, c.out)
			s := b.seconds(2*n, func(i int) { b.s.Linear(y, x, w[i%n], kernels.Epilogue{}) })
			b.report(fmt.Sprintf("linear %d ← %d, %d tokens", c.out, c.in, tokens), s, float64(2*(c.out*c.in+tokens*(c.in+c.out))), 2*float64(tokens)*float64(c.out)*float64(c.in))
			x.Mem.Free()
			y.Mem.Free()
		}
		for _, w := range w {
			w.Free()
		}
	}
	gate, err := b.dev.Pack("gate", kernels.WeightSpec{DType: kernels.F32, Experts: []kernels.Linear{{Parts: []kernels.Matrix{{DType: kernels.F32, Rows: 64, Cols: 2048, Data: randomBytes(kernels.F32, 64*2048)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tokens := range []int{1, 64, 1024, 8192} {
		x, y := b.tensor(kernels.BF16, tokens, 2048), b.tensor(kernels.F32, tokens, 64)
		s := b.seconds(20, func(int) { b.s.Linear(y, x, gate, kernels.Epilogue{}) })
		b.report(fmt.Sprintf("gate 64 ← 2048 fp32, %d tokens", tokens), s, float64(64*2048*4+tokens*2048*2), 2*float64(tokens)*64*2048)
	}
}

// TestFiguresGrouped measures an MoE layer's two grouped products with the routing of random logits.
func TestFiguresGrouped(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ experts, ffn int }{{64, 1024}, {128, 768}} {
		const hidden, k = 2048, 8
		up, down := b.weights(c.experts, c.ffn, hidden, true), b.weights(c.experts, hidden, c.ffn, false)
		for _, tokens := range []int{1, 8, 64, 256, 1024, 4096, 16384} {
			r, touched := b.routing(tokens, c.experts, k)
			x, inner, out := b.tensor(kernels.BF16, tokens, hidden), b.tensor(kernels.BF16, tokens*k, c.ffn), b.tensor(kernels.BF16, tokens*k, hidden)
			n := 2
			if tokens == 1 {
				n = 20
			}
			s := b.seconds(n, func(int) {
				b.s.Grouped(inner, x, up, r.Offsets, r.Choices, k, kernels.Epilogue{Act: kernels.SiLU})
				b.s.Grouped(out, inner, down, r.Offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
			})
			weights := float64(touched) * 3 * float64(c.ffn) * hidden * 2
			b.report(fmt.Sprintf("experts %d of %d, %d tokens", c.ffn, c.experts, tokens), s,
				weights+float64(tokens*hidden*2+tokens*k*(2*c.ffn+hidden)*2), 6*float64(tokens)*k*float64(c.ffn)*hidden)
			s = b.seconds(20, func(int) { b.s.Table(r); b.s.Combine(x, out, r) })
			fmt.Printf("%-44s %9.1f µs\n", "  table and combine", 1e6*s)
			for _, m := range []kernels.Tensor{x, inner, out} {
				m.Mem.Free()
			}
		}
		up.Free()
		down.Free()
	}
}

func (b *bench) routing(tokens, experts, k int) (kernels.Routing, int) {
	b.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	var expert []int32
	used := map[int]bool{}
	for range tokens {
		for _, e := range r.Perm(experts)[:k] {
			expert = append(expert, int32(e))
			used[e] = true
		}
	}
	n := tokens * k
	x := kernels.Routing{K: k, Experts: experts, Expert: b.ints(expert).Reshape(tokens, k), Weight: b.tensor(kernels.F32, tokens, k),
		Offsets: b.ints(make([]int32, experts+1)), Choices: b.ints(make([]int32, n)), Place: b.ints(make([]int32, n))}
	b.s.Table(x)
	if err := b.s.Sync(); err != nil {
		b.Fatal(err)
	}
	return x, len(used)
}

// TestFiguresAttention measures decode and prefill: heads of 128, with and without shared KV heads.
func TestFiguresAttention(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ heads, kv, seqs, context, fresh int }{
		{16, 16, 64, 256, 1}, {16, 16, 256, 1024, 1}, {32, 4, 64, 1024, 1}, {32, 4, 512, 1024, 1},
		{16, 16, 64, 128, 128}, {16, 16, 4, 2048, 2048}, {32, 4, 4, 2048, 2048},
	} {
		const dim, size = 128, 16
		blocks := c.context / size
		cache, err := b.dev.NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 1, Blocks: c.seqs * blocks, BlockTokens: size, KVHeads: c.kv, HeadDim: dim})
		if err != nil {
			t.Fatal(err)
		}
		tokens := c.seqs * c.fresh
		batch := kernels.Batch{Tokens: tokens, Seqs: c.seqs, MaxContext: c.context}
		var position, seq, table []int32
		start := []int32{0}
		for s := range c.seqs {
			for i := range c.fresh {
				position, seq = append(position, int32(c.context-c.fresh+i)), append(seq, int32(s))
			}
			start = append(start, int32(len(seq)))
			for i := range blocks {
				table = append(table, int32(i*c.seqs+s))
			}
		}
		batch.Position, batch.Seq, batch.Start, batch.Blocks = b.ints(position), b.ints(seq), b.ints(start), b.ints(table).Reshape(c.seqs, blocks)
		q, out := b.tensor(kernels.BF16, tokens, c.heads*dim), b.tensor(kernels.BF16, tokens, c.heads*dim)
		s := b.seconds(10, func(int) {
			b.s.Attention(out, q, cache, 0, batch, kernels.AttentionSpec{Heads: c.heads, KVHeads: c.kv, HeadDim: dim, Scale: 0.09, Causal: true})
		})
		seen := 0.0
		for _, p := range position {
			seen += float64(p + 1)
		}
		b.report(fmt.Sprintf("attention %d/%d heads, %d × %d new of %d", c.heads, c.kv, c.seqs, c.fresh, c.context), s,
			float64(c.seqs*c.context*c.kv*dim*4+tokens*c.heads*dim*4), 4*seen*float64(c.heads)*dim)
		q.Mem.Free()
		out.Mem.Free()
		cache.Free()
	}
}

// TestFiguresVocabulary measures drawing and scoring over a large vocabulary.
func TestFiguresVocabulary(t *testing.T) {
	b := newBench(t)
	const vocab = 151936
	for _, rows := range []int{64, 512} {
		logits := b.tensor(kernels.F32, rows, vocab)
		column := func(v float32) kernels.Tensor {
			var x []int32
			for range rows {
				x = append(x, int32(math.Float32bits(v)))
			}
			c := b.ints(x).Reshape(rows, 1)
			c.DType = kernels.F32
			return c
		}
		zeros := b.ints(make([]int32, rows)).Reshape(rows, 1)
		p := kernels.Sampling{Temperature: column(0), TopK: zeros, TopP: column(1), MinP: column(0), Penalty: column(1), U: column(0.4), Vocab: vocab,
			Token: b.ints(make([]int32, rows)).Reshape(rows, 1), Logprob: column(0)}
		bytes := float64(rows) * vocab * 4
		b.report(fmt.Sprintf("greedy, %d rows", rows), b.seconds(4, func(int) { b.s.Sample(logits, p) }), bytes, 0)
		p.Temperature = column(1)
		b.report(fmt.Sprintf("temperature, %d rows", rows), b.seconds(4, func(int) { b.s.Sample(logits, p) }), bytes, 0)
		p.TopP = column(0.9)
		b.report(fmt.Sprintf("top-p, %d rows", rows), b.seconds(4, func(int) { b.s.Sample(logits, p) }), bytes, 0)
		b.report(fmt.Sprintf("score, %d rows", rows), b.seconds(4, func(int) { b.s.Score(p.Logprob, p.Token, logits, zeros, vocab) }), bytes, 0)
	}
}
