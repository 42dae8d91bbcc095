package optest

import (
	"bytes"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// invariant is an op whose rows must have the same bits whatever rows it works on beside them.
type invariant struct {
	name  string
	check func(*kit) error
}

// invariants have one case for each op that sums.
var invariants = []invariant{
	{"Norm", invariantNorm},
	{"Linear", invariantLinear},
	{"Grouped", invariantGrouped},
	{"Attention", invariantAttention},
	{"Context", invariantContext},
	{"Store", invariantStore},
	{"Gate", invariantGate},
	{"Combine", invariantCombine},
	{"Mix", invariantMix},
	{"Score", invariantScore},
	{"Sample", invariantSample},
}

// sameRows runs an op on rows 0 to n-1 at once, then on subsets: each alone, the first ones of every number, all in
// another order, some twice. run gives the bits of each row that it was asked for.
func sameRows(k *kit, what string, n int, run func(rows []int) [][]byte) error {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	want := run(all)
	subsets := [][]int{k.rng.Perm(n), append(k.rng.Perm(n), k.rng.Perm(n)...)}
	for i := range n {
		subsets = append(subsets, []int{i})
		if i < 40 {
			subsets = append(subsets, all[:i], all[n-i:])
		}
	}
	for _, rows := range subsets {
		for i, got := range run(rows) {
			if !bytes.Equal(got, want[rows[i]]) {
				return fmt.Errorf("%s: row %d has other bits as row %d of %d than as one of %d in order", what, rows[i], i, len(rows), n)
			}
		}
		if k.Failed() {
			return nil
		}
		k.release()
	}
	return nil
}

// pick is the chosen rows of x, which has width values a row.
func pick[T any](x []T, width int, rows []int) (y []T) {
	for _, r := range rows {
		y = append(y, x[r*width:(r+1)*width]...)
	}
	return y
}

// rowsOf cuts a buffer's bits into rows.
func (k *kit) rowsOf(b *buffer) (rows [][]byte) {
	all := k.bits(b)
	n := b.Cols * b.DType.Size()
	for i := range b.Rows {
		rows = append(rows, all[i*n:(i+1)*n])
	}
	return rows
}

// uneven is normal numbers, in each row some far larger and some far smaller, so that any other order of a sum shows.
func (k *kit) uneven(n int) []float64 {
	x := k.normal(n, 1)
	for i := range x {
		x[i] = roundTo(kernels.F32, math.Ldexp(x[i], k.rng.IntN(12)-6))
	}
	return x
}

func invariantNorm(k *kit) error {
	for _, act := range k.activations() {
		for _, kind := range []kernels.NormKind{kernels.LayerNorm, kernels.RMSNorm} {
			const n, cols = 67, 1027
			x, delta, weight := k.uneven(n*cols), k.uneven(n*cols), k.normal(cols, 1)
			err := sameRows(k, fmt.Sprintf("norm %v %d", act, kind), n, func(rows []int) [][]byte {
				y, m := k.output(act, len(rows), cols), len(rows)
				k.stream.Norm(y.Tensor, k.floats(act, m, cols, pick(x, cols, rows)).Tensor,
					k.floats(act, m, cols, pick(delta, cols, rows)).Tensor,
					kernels.Norm{Kind: kind, Eps: 1e-6, Weight: k.floats(kernels.F32, 1, cols, weight).Tensor})
				return k.rowsOf(y)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func invariantLinear(k *kit) error {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8, kernels.MXFP4} {
		for _, c := range []linearCase{
			{in: 515, parts: []int{70}, bias: true, act: kernels.GELUTanh},
			{in: 256, parts: []int{96, 96}, gated: true, act: kernels.SiLU},
			{in: 160, parts: []int{40, 40}, gated: true, bias: true, act: kernels.ClampedSwiGLU, limit: 1},
			{in: 768, parts: []int{72}},
		} {
			c.dtype, c.source = d, kernels.F32
			if d == kernels.MXFP4 {
				c.source, c.in = d, (c.in+31)/32*32
			}
			k.aligned = !c.bias && !c.gated
			w, _ := k.pack(c, 1)
			act := k.dev.Activations(d)
			const n = 71
			x := k.uneven(n * c.in)
			err := sameRows(k, fmt.Sprintf("linear %v", d), n, func(rows []int) [][]byte {
				y := k.output(act, len(rows), c.out())
				k.stream.Linear(y.Tensor, k.floats(act, len(rows), c.in, pick(x, c.in, rows)).Tensor, w, c.epilogue())
				return k.rowsOf(y)
			})
			w.Free()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// invariantGrouped gives each row an expert of its own choice.
func invariantGrouped(k *kit) error {
	for _, d := range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8, kernels.MXFP4} {
		const n, experts = 61, 5
		c := linearCase{dtype: d, source: kernels.F32, in: 200, parts: []int{72, 72}, gated: true, act: kernels.SiLU}
		if d == kernels.MXFP4 {
			c.source, c.in = d, 224
		}
		w, _ := k.pack(c, experts)
		act := k.dev.Activations(d)
		x, expert := k.uneven(n*c.in), k.indices(n, experts)
		err := sameRows(k, fmt.Sprintf("grouped %v", d), n, func(rows []int) [][]byte {
			y, offsets := k.output(act, len(rows), c.out()), []int32{0}
			var index []int32
			slot := make([]int, len(rows)) // of each row
			for e := range int32(experts) {
				for i, r := range rows {
					if expert[r] == e {
						slot[i] = len(index)
						index = append(index, int32(i))
					}
				}
				offsets = append(offsets, int32(len(index)))
			}
			k.stream.Grouped(y.Tensor, k.floats(act, len(rows), c.in, pick(x, c.in, rows)).Tensor, w,
				k.vector(offsets).Tensor, k.vector(index).Tensor, 1, kernels.Epilogue{Act: c.act})
			got := k.rowsOf(y)
			out := make([][]byte, len(rows))
			for i := range rows {
				out[i] = got[slot[i]]
			}
			return out
		})
		w.Free()
		if err != nil {
			return err
		}
	}
	return nil
}

func invariantStore(k *kit) error {
	for _, c := range []storeCase{
		{heads: 3, dim: 40, rotated: 40},
		{heads: 3, dim: 128, rotated: 128, norm: "heads", kind: kernels.RMSNorm},
		{heads: 10, dim: 128, rotated: 128, norm: "rows", kind: kernels.RMSNorm},
	} {
		if err := k.sameStored(c); err != nil {
			return err
		}
	}
	return nil
}

func (k *kit) sameStored(of storeCase) error {
	const n, positions = 37, 64
	heads, dim := of.heads, of.dim
	angle := k.normal(positions*dim/2, 1)
	cos, sin := make([]float64, len(angle)), make([]float64, len(angle))
	for i, a := range angle {
		sin[i], cos[i] = math.Sincos(a)
	}
	for _, act := range k.activations() {
		q, weight, position := k.uneven(n*heads*dim), k.normal(heads*dim, 1), k.indices(n, positions)
		err := sameRows(k, fmt.Sprintf("store %v %+v", act, of), n, func(rows []int) [][]byte {
			c := k.newCache(kernels.CacheSpec{DType: kernels.F32, Layers: 1, Blocks: 1, BlockTokens: 16, KVHeads: heads, HeadDim: dim})
			defer c.Free()
			slots := make([]int32, len(rows))
			for i := range slots {
				slots[i] = -1
			}
			qb := k.floats(act, len(rows), heads*dim, pick(q, heads*dim, rows))
			kb := k.floats(act, len(rows), heads*dim, pick(q, heads*dim, rows))
			how := kernels.StoreSpec{Rope: &kernels.Rope{Dim: dim, Cos: k.floats(kernels.F32, positions, dim/2, cos).Tensor,
				Sin: k.floats(kernels.F32, positions, dim/2, sin).Tensor}}
			if of.norm != "" {
				how.QNorm = k.normOf(of, heads*dim)
				k.stream.Write(how.QNorm.Weight, encode(kernels.F32, weight[:how.QNorm.Weight.Cols]))
			}
			k.stream.Store(c, 0, qb.Tensor, kb.Tensor, kb.Tensor,
				kernels.Batch{Tokens: len(rows), Position: k.vector(pick(position, 1, rows)).Tensor, Slot: k.vector(slots).Tensor}, how)
			return k.rowsOf(qb)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func invariantGate(k *kit) error {
	for _, score := range []kernels.GateScore{kernels.Softmax, kernels.Sigmoid} {
		const n, experts = 53, 65
		g := kernels.Gate{Experts: experts, K: 6, Score: score, Renormalise: true}
		logits := k.uneven(n * experts)
		err := sameRows(k, "gate", n, func(rows []int) [][]byte {
			r := k.routing(len(rows), g.K, experts)
			k.stream.Gate(r.Routing, k.floats(kernels.F32, len(rows), experts, pick(logits, experts, rows)).Tensor, g)
			return join(k.rowsOf(r.expert), k.rowsOf(r.weight))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// join appends the rows of b to those of a.
func join(a, b [][]byte) [][]byte {
	for i := range a {
		a[i] = append(bytes.Clone(a[i]), b[i]...)
	}
	return a
}

func invariantCombine(k *kit) error {
	for _, act := range k.activations() {
		const n, choices, experts, cols = 43, 4, 9, 131
		expert, weight, out := k.distinct(n, choices, experts, 0.2), k.uneven(n*choices), k.uneven(n*choices*cols)
		err := sameRows(k, "combine", n, func(rows []int) [][]byte {
			r := k.routing(len(rows), choices, experts)
			k.fill(r, pick(expert, choices, rows), pick(weight, choices, rows))
			k.stream.Table(r.Routing)
			place := k.intValues(r.place)
			slots := make([]float64, len(rows)*choices*cols)
			for i, row := range rows { // what each choice's expert gave
				for c := range choices {
					if at := int(place[i*choices+c]); at >= 0 {
						copy(slots[at*cols:(at+1)*cols], out[(row*choices+c)*cols:])
					}
				}
			}
			y := k.output(act, len(rows), cols)
			k.stream.Combine(y.Tensor, k.floats(act, len(rows)*choices, cols, slots).Tensor, r.Routing)
			return k.rowsOf(y)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func invariantMix(k *kit) error {
	for _, act := range k.activations() {
		for coefs := 1; coefs <= 2; coefs++ {
			const n, cols = 41, 67
			moe, mlp, coef := k.uneven(n*cols), k.uneven(n*cols), k.normal(coefs*n, 2)
			err := sameRows(k, "mix", n, func(rows []int) [][]byte {
				m, y := len(rows), k.output(act, len(rows), cols)
				k.stream.Mix(y.Tensor, k.floats(act, m, cols, pick(moe, cols, rows)).Tensor,
					k.floats(act, m, cols, pick(mlp, cols, rows)).Tensor,
					k.floats(kernels.F32, m, coefs, pick(coef, coefs, rows)).Tensor)
				return k.rowsOf(y)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func invariantScore(k *kit) error {
	const n, vocab = 19, 5003
	logits, target := k.normal(n*vocab, 3), k.indices(n, vocab)
	return sameRows(k, "score", n, func(rows []int) [][]byte {
		m := len(rows)
		logprob, greedy := k.output(kernels.F32, m, 1), k.output(kernels.I32, m, 1)
		k.stream.Score(logprob.Tensor, greedy.Tensor, k.floats(kernels.F32, m, vocab, pick(logits, vocab, rows)).Tensor,
			k.ints(m, 1, pick(target, 1, rows)).Tensor, vocab)
		return join(k.rowsOf(logprob), k.rowsOf(greedy))
	})
}

func invariantSample(k *kit) error {
	const n, vocab, top = 24, 3001, 4
	draws := make([]draw, n)
	for i := range draws {
		draws[i] = k.draw("normal", vocab)
	}
	return sameRows(k, "sample", n, func(rows []int) [][]byte {
		got := k.sample(pick(draws, 1, rows), vocab, 0, top)
		out := make([][]byte, len(rows))
		for i := range rows {
			out[i] = append(encodeInts(got.topID[i*top:(i+1)*top]), encode(kernels.F32, got.topLogprob[i*top:(i+1)*top])...)
			out[i] = append(append(out[i], encodeInts(got.token[i:i+1])...), encode(kernels.F32, got.logprob[i:i+1])...)
		}
		return out
	})
}
