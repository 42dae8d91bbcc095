package benchmarks

import (
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// gpuGroups are the ops at the sizes that a GPU meets.
func (b *bench) gpuGroups() []kernelGroup {
	return []kernelGroup{
		{"linear", "y = x·Wᵀ, weights from memory; bytes are those of weights, x and y", b.gpuLinear},
		{"experts", "the two grouped ops of an MoE layer, hidden 2048, bf16, top-8 of random logits, gather and SiLU in them; bytes are those of the experts that are chosen and of all rows", b.gpuExperts},
		{"gpt-oss", "the two grouped ops of an MoE layer of gpt-oss-20b (32 experts, hidden and ffn 2880, top-4 of random logits), biases and clamped SwiGLU in them; bytes as of experts", b.gpuGPTOSS},
		{"attention", "over a paged cache of blocks of 16 tokens in random order", b.gpuAttention},
		{"gating", "64 experts, top-8, hidden 2048; bytes of the rows", b.gpuGating},
		{"rows", "hidden 2048; heads of 128, normed each by itself (32 over 4, as Qwen3-30B-A3B has them) or all together (16 over 16, OLMoE), turned and stored; bytes are those that one pass moves", b.gpuRows},
		{"memory", "1024 tokens of hidden 2048: ops that move and scale rows", b.memory},
		{"vocabulary", "64 rows of 50304 logits", func(g *Group) { b.vocabulary(g, 64, 50304) }},
		{"vocabulary, large", "512 rows of 151936 logits", func(g *Group) { b.vocabulary(g, 512, 151936) }},
	}
}

func (b *bench) gpuLinear(g *Group) {
	for _, c := range []struct {
		w       kernels.DType
		out, in int
		rows    []int
	}{
		{kernels.BF16, 6144, 2048, []int{1, 16, 64, 256, 1024, 4096, 8192}},
		{kernels.BF16, 2048, 2048, []int{1, 16, 64, 256, 1024, 4096, 8192}},
		{kernels.BF16, 50304, 2048, []int{1, 16, 64}},
		{kernels.I8, 6144, 2048, []int{1, 64, 1024, 8192}},
		{kernels.F32, 2048, 2048, []int{1, 64, 1024}},
		{kernels.F32, 64, 2048, []int{1, 64, 1024, 8192}}, // a gate
	} {
		weights := b.cold(c.w, 1, c.out, c.in, false)
		for _, m := range c.rows {
			x, y := b.floats(m, c.in), b.floats(m, c.out)
			for _, by := range b.multipliers(weights, y) {
				b.multiply(by)
				b.op(g, fmt.Sprintf("%v %d ← %d, %d rows%s", c.w, c.out, c.in, m, by.note), c.w, 2*float64(m)*float64(c.out)*float64(c.in),
					b.bytes(weights)+float64(x.Bytes()+y.Bytes()), func(i int) {
						b.stream.Linear(y, x, weights[i%len(weights)], kernels.Epilogue{})
					})
			}
			b.multiply(multiplier{by: cuda.Faster})
		}
		b.free()
	}
}

// multiplier makes the products of one matrix, note for people.
type multiplier struct {
	by   cuda.Multiplier
	note string
}

// multipliers are those that could make y, and of two which of them makes it.
func (b *bench) multipliers(w []kernels.Weights, y kernels.Tensor) []multiplier {
	d, is := b.device.(*cuda.Device)
	if !is || b.err != nil {
		return []multiplier{{}}
	}
	d.MultiplyBy(cuda.CuBLASLt)
	possible := d.MultipliedBy(w[0], y.DType, y.Rows)
	d.MultiplyBy(cuda.Faster)
	if possible == cuda.Own {
		return []multiplier{{}}
	}
	taken := d.MultipliedBy(w[0], y.DType, y.Rows)
	all := []multiplier{{by: cuda.Own}, {by: cuda.CuBLASLt}}
	for i, m := range all {
		all[i].note = ", by " + m.by.String()
		if m.by == cuda.Own {
			all[i].note = ", by our own kernel"
		}
		if m.by == taken {
			all[i].note += ", as in a job"
		}
	}
	return all
}

func (b *bench) multiply(m multiplier) {
	if d, is := b.device.(*cuda.Device); is {
		d.MultiplyBy(m.by)
	}
}

// experts that a choice of k of them falls upon, for each token, drawn without weights.
func (b *bench) choices(tokens, experts, k int) (expert []int32, touched int) {
	used := map[int32]bool{}
	for range tokens {
		for _, e := range b.random.Perm(experts)[:k] {
			expert = append(expert, int32(e))
			used[int32(e)] = true
		}
	}
	return expert, len(used)
}

func (b *bench) routed(tokens, experts, k int) (r kernels.Routing, touched int) {
	chosen, touched := b.choices(tokens, experts, k)
	n := tokens * k
	r = kernels.Routing{K: k, Experts: experts, Expert: b.ints(chosen...).Reshape(tokens, k), Weight: b.f32s(tokens, k),
		Offsets: b.count(experts + 1), Choices: b.count(n), Place: b.count(n)}
	if b.err == nil {
		b.stream.Table(r)
	}
	return r, touched
}

func (b *bench) gpuExperts(g *Group) {
	const hidden, k = 2048, 8
	for _, c := range []struct{ experts, ffn int }{{64, 1024}, {64, 1408}, {128, 768}, {128, 1408}} {
		up, down := b.weights(kernels.BF16, c.experts, c.ffn, hidden, true), b.weights(kernels.BF16, c.experts, hidden, c.ffn, false)
		kept := b.owned
		for _, tokens := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384} {
			b.owned = nil
			r, touched := b.routed(tokens, c.experts, k)
			x, inner, out := b.floats(tokens, hidden), b.alloc(kernels.BF16, tokens*k, c.ffn), b.alloc(kernels.BF16, tokens*k, hidden)
			slots := float64(tokens * k)
			weights := float64(touched) * 3 * float64(c.ffn) * hidden * 2
			b.op(g, fmt.Sprintf("E=%d, ffn %d, %d tokens", c.experts, c.ffn, tokens), kernels.BF16, 6*slots*float64(c.ffn)*hidden,
				weights+float64(tokens)*hidden*2+slots*(2*float64(c.ffn)+hidden)*2, func(int) {
					b.stream.Grouped(inner, x, up, r.Offsets, r.Choices, k, kernels.Epilogue{Act: kernels.SiLU})
					b.stream.Grouped(out, inner, down, r.Offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
				})
			b.free()
		}
		b.owned = kept
		b.free()
	}
}

func (b *bench) gpuGPTOSS(g *Group) {
	const hidden, ffn, experts, k = 2880, 2880, 32, 4
	for _, d := range []kernels.DType{kernels.BF16, kernels.MXFP4} {
		up, down := b.biased(d, experts, ffn, hidden, true, true), b.biased(d, experts, hidden, ffn, false, true)
		kept := b.owned
		for _, tokens := range []int{1, 4, 16, 64, 256, 512, 1024, 8192} {
			if b.err != nil {
				return
			}
			b.owned = nil
			r, touched := b.routed(tokens, experts, k)
			x, inner, out := b.floats(tokens, hidden), b.alloc(kernels.BF16, tokens*k, ffn), b.alloc(kernels.BF16, tokens*k, hidden)
			slots := float64(tokens * k)
			weights := float64(touched) / experts * float64(up.Bytes()+down.Bytes())
			b.op(g, fmt.Sprintf("%v, %d tokens", d, tokens), d, 6*slots*ffn*hidden, weights+float64(tokens)*hidden*2+slots*(2*ffn+hidden)*2, func(int) {
				b.stream.Grouped(inner, x, up, r.Offsets, r.Choices, k, kernels.Epilogue{Act: kernels.ClampedSwiGLU, Limit: 7})
				b.stream.Grouped(out, inner, down, r.Offsets, kernels.Tensor{}, 1, kernels.Epilogue{})
			})
			b.free()
		}
		b.owned = kept
		b.free()
	}
}

func (b *bench) gpuAttention(g *Group) {
	const dim, key, latent = 128, 576, 512
	b.attentions(g, []attentionCase{
		{64, 1, 256, 16, 16, dim, kernels.BF16, 0},
		{256, 1, 1024, 16, 16, dim, kernels.BF16, 0},
		{64, 1, 1024, 32, 4, dim, kernels.BF16, 0},
		{512, 1, 1024, 32, 4, dim, kernels.BF16, 0},
		{1, 1, 32768, 32, 4, dim, kernels.BF16, 0},
		{1, 1, 32768, 32, 4, dim, kernels.F32, 0},
		{64, 128, 128, 16, 16, dim, kernels.BF16, 0},
		{16, 512, 512, 16, 16, dim, kernels.BF16, 0},
		{16, 512, 512, 32, 4, dim, kernels.BF16, 0},
		{4, 2048, 2048, 16, 16, dim, kernels.BF16, 0},
		{4, 2048, 2048, 32, 4, dim, kernels.BF16, 0},
		{64, 1, 1024, 16, 1, key, kernels.BF16, latent}, // DeepSeek-V2-Lite
		{256, 1, 1024, 16, 1, key, kernels.BF16, latent},
		{16, 512, 512, 16, 1, key, kernels.BF16, latent},
		{2, 4096, 4096, 16, 1, key, kernels.BF16, latent},
		{64, 1, 1024, 128, 1, key, kernels.BF16, latent}, // DeepSeek-V3
		{64, 1, 4096, 128, 1, key, kernels.BF16, latent},
		{4, 512, 512, 128, 1, key, kernels.BF16, latent},
		{1, 4096, 4096, 128, 1, key, kernels.BF16, latent},
	}, kernels.BF16)
}

func (b *bench) gpuGating(g *Group) {
	const hidden, experts, k = 2048, 64, 8
	for _, tokens := range []int{64, 1024, 8192} {
		r, _ := b.routed(tokens, experts, k)
		logits := b.f32s(tokens, experts)
		out, y := b.floats(tokens*k, hidden), b.floats(tokens, hidden)
		gate := kernels.Gate{Experts: experts, K: k}
		choices := float64(tokens * k)
		for _, c := range []struct {
			name  string
			bytes float64
			op    func(int)
		}{
			{"Table", 12 * choices, func(int) { b.stream.Table(r) }},
			{"Combine", (choices + float64(tokens)) * hidden * 2, func(int) { b.stream.Combine(y, out, r) }},
			{"Gate", float64(tokens)*experts*4 + 8*choices, func(int) { b.stream.Gate(r, logits, gate) }},
		} {
			b.op(g, fmt.Sprintf("%s, %d tokens", c.name, tokens), kernels.F32, 0, c.bytes, c.op)
		}
		b.free()
	}
}

func (b *bench) gpuRows(g *Group) {
	const hidden, dim, block = 2048, 128, 16
	rms := func(cols, groups int) *kernels.Norm {
		return &kernels.Norm{Kind: kernels.RMSNorm, Weight: b.f32s(1, cols), Eps: 1e-6, Groups: groups}
	}
	for _, tokens := range []int{64, 512, 8192} {
		x, y, delta, row := b.floats(tokens, hidden), b.floats(tokens, hidden), b.floats(tokens, hidden), float64(tokens*hidden*2)
		n, at, angles := rms(hidden, 1), b.count(tokens), b.f32s(tokens, dim/2)
		if b.err != nil {
			return
		}
		name := func(what string) string { return fmt.Sprintf("%s, %d tokens", what, tokens) }
		b.op(g, name("Norm"), kernels.F32, 0, 2*row, func(int) { b.stream.Norm(y, x, kernels.Tensor{}, *n) })
		b.op(g, name("Norm of x + delta"), kernels.F32, 0, 4*row, func(int) { b.stream.Norm(y, x, delta, *n) })
		batch := kernels.Batch{Tokens: tokens, Position: at, Slot: at}
		rope := &kernels.Rope{Cos: angles, Sin: angles, Dim: dim}
		for _, c := range []struct {
			name      string
			heads, kv int
			how       kernels.StoreSpec
		}{
			{"Store, 32 heads over 4, normed each", 32, 4, kernels.StoreSpec{QNorm: rms(dim, 32), KNorm: rms(dim, 4), Rope: rope}},
			{"Store, 32 heads over 4", 32, 4, kernels.StoreSpec{Rope: rope}},
			{"Store, 16 heads over 16, normed together", 16, 16, kernels.StoreSpec{QNorm: rms(16*dim, 1), KNorm: rms(16*dim, 1), Rope: rope}},
			{"Store, 16 heads over 16", 16, 16, kernels.StoreSpec{Rope: rope}},
		} {
			cache, err := b.device.NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 1, Blocks: tokens / block, BlockTokens: block, KVHeads: c.kv, HeadDim: dim})
			if err != nil {
				b.err = err
				return
			}
			b.owned = append(b.owned, cache)
			qkv := b.floats(tokens, (c.heads+2*c.kv)*dim)
			if b.err != nil {
				return
			}
			q, k, v := qkv.ColRange(0, c.heads*dim), qkv.ColRange(c.heads*dim, (c.heads+c.kv)*dim), qkv.ColRange((c.heads+c.kv)*dim, (c.heads+2*c.kv)*dim)
			b.op(g, name(c.name), kernels.F32, 0, float64(tokens*(2*c.heads+4*c.kv)*dim*2), func(int) { b.stream.Store(cache, 0, q, k, v, batch, c.how) })
		}
		b.free()
	}
}
