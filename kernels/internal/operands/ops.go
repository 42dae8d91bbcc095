package operands

import "github.com/dsbatch/dsbatch/kernels"

// The operands of the ops of kernels.Stream that are named so. Shapes are those of the interface.

// Copy: src of any type, dst alike or both floats.
func (r *Rules) Copy(dst, src kernels.Tensor) error {
	c := check{rules: r, op: "copy"}
	c.tensor("src", src, src.DType, Any, Any)
	c.tensor("dst", dst, dst.DType, src.Rows, src.Cols)
	if dst.DType != src.DType && !(dst.DType.IsFloat() && src.DType.IsFloat()) {
		c.fail("%v cannot become %v", src, dst)
	}
	return c.err
}

// Add: x and y of one shape.
func (r *Rules) Add(y, x kernels.Tensor) error {
	c := check{rules: r, op: "add"}
	c.activation("x", x, Any, Any)
	c.tensor("y", y, x.DType, x.Rows, x.Cols)
	return c.err
}

// Tanh: an activation of any shape.
func (r *Rules) Tanh(y kernels.Tensor) error {
	c := check{rules: r, op: "tanh"}
	c.activation("y", y, Any, Any)
	return c.err
}

// Select: an index for each row of dst.
func (r *Rules) Select(dst, src, index kernels.Tensor, div int) error {
	c := check{rules: r, op: "select"}
	c.tensor("src", src, src.DType, Any, Any)
	c.tensor("dst", dst, src.DType, Any, src.Cols)
	c.vector("index", index, dst.Rows)
	if div < 1 {
		c.fail("div %d, want at least 1", div)
	}
	return c.err
}

// Embed: tables of any float type; positions may be none.
func (r *Rules) Embed(y, ids, table, pos, positions kernels.Tensor) error {
	c := check{rules: r, op: "embed"}
	c.activation("y", y, Any, Any)
	c.float("table", table, Any, y.Cols)
	c.vector("ids", ids, y.Rows)
	if !positions.None() {
		c.float("positions", positions, Any, y.Cols)
		c.vector("pos", pos, y.Rows)
	}
	return c.err
}

// Norm: weights and biases for one group of x's columns; delta and the bias may be none.
func (r *Rules) Norm(y, x, delta kernels.Tensor, n kernels.Norm) error {
	c := check{rules: r, op: "norm"}
	c.activation("x", x, Any, Any)
	c.tensor("y", y, x.DType, x.Rows, x.Cols)
	if !delta.None() {
		c.tensor("delta", delta, x.DType, x.Rows, x.Cols)
	}
	c.norm("", n, x.Cols)
	return c.err
}

// norm is of a row of cols; of tells whose.
func (c *check) norm(of string, n kernels.Norm, cols int) {
	groups := max(1, n.Groups)
	if cols%groups != 0 {
		c.fail("%d columns do not fall into %d equal groups", cols, groups)
	}
	c.tensor(of+"weight", n.Weight, kernels.F32, 1, cols/groups)
	if !n.Bias.None() {
		c.tensor(of+"bias", n.Bias, kernels.F32, 1, cols/groups)
	}
	if n.Kind != kernels.LayerNorm && n.Kind != kernels.RMSNorm {
		c.fail("kind %d is unknown", n.Kind)
	}
}

// Store: the heads of q, k and v as the cache has them, no v where keys hold the values.
func (r *Rules) Store(cache kernels.CacheSpec, q, k, v kernels.Tensor, b kernels.Batch, a kernels.StoreSpec) error {
	c, dim, width := check{rules: r, op: "store"}, cache.HeadDim, cache.HeadDim*cache.KVHeads
	c.activation("q", q, b.Tokens, Any)
	c.tensor("k", k, q.DType, b.Tokens, width)
	switch {
	case cache.Latent == 0:
		c.tensor("v", v, q.DType, b.Tokens, width)
	case !v.None():
		c.fail("v is %v, for a cache of keys that hold the values", v)
	}
	c.vector("slot", b.Slot, b.Tokens)
	if q.Cols%dim != 0 {
		c.fail("q is %v, want heads of %d", q, dim)
	}
	if a.QNorm != nil {
		c.norm("q norm ", *a.QNorm, q.Cols)
	}
	if a.KNorm != nil {
		c.norm("k norm ", *a.KNorm, k.Cols)
	}
	if rope := a.Rope; rope != nil {
		if rope.Dim < 2 || rope.Dim%2 != 0 || rope.Dim > dim {
			c.fail("rope turns %d values of a head of %d, want an even number of them", rope.Dim, dim)
		}
		c.tensor("rope cos", rope.Cos, kernels.F32, Any, rope.Dim/2)
		c.tensor("rope sin", rope.Sin, kernels.F32, rope.Cos.Rows, rope.Dim/2)
		c.vector("position", b.Position, b.Tokens)
	}
	return c.err
}

// Attention: the heads of q and out over those of the cache; a context where not causal.
func (r *Rules) Attention(cache kernels.CacheSpec, out, q kernels.Tensor, b kernels.Batch, spec kernels.AttentionSpec) error {
	c := check{rules: r, op: "attention"}
	if spec.KVHeads != cache.KVHeads || spec.HeadDim != cache.HeadDim || spec.Heads < 1 || spec.Heads%cache.KVHeads != 0 {
		c.fail("%d heads of %d over %d of K and V; the cache has %d of %d", spec.Heads, spec.HeadDim, spec.KVHeads, cache.KVHeads, cache.HeadDim)
	}
	c.activation("q", q, b.Tokens, spec.Heads*spec.HeadDim)
	c.tensor("out", out, q.DType, b.Tokens, spec.Heads*cache.Values())
	c.vector("position", b.Position, b.Tokens)
	c.vector("start", b.Start, b.Seqs+1)
	if b.Tokens > 0 {
		c.tensor("blocks", b.Blocks, kernels.I32, Any, Any)
	}
	if !spec.Causal {
		c.vector("context", spec.Context, b.Seqs)
	}
	if !spec.Slopes.None() {
		c.tensor("slopes", spec.Slopes, kernels.F32, 1, spec.Heads)
		if !spec.Causal {
			c.fail("slopes of distances to tokens that may come later")
		}
	}
	if !spec.Sinks.None() {
		c.tensor("sinks", spec.Sinks, kernels.F32, 1, spec.Heads)
	}
	return c.err
}

// Epilogue: an activation that there is, and one of two halves where the weights have these.
func (r *Rules) Epilogue(op string, e kernels.Epilogue, gated bool) error {
	c := check{rules: r, op: op}
	switch {
	case e.Act > kernels.ClampedSwiGLU:
		c.fail("activation %d is unknown", e.Act)
	case e.Act == kernels.ClampedSwiGLU && !gated:
		c.fail("a clamped SwiGLU of weights that are not gated")
	case e.Act == kernels.ClampedSwiGLU && !(e.Limit > 0):
		c.fail("a clamped SwiGLU with the limit %g; it must be above 0", e.Limit)
	}
	return c.err
}

// routing is what all routing ops share: r.Expert is [tokens, K].
func (c *check) routing(r kernels.Routing, tokens int) {
	if r.K < 1 || r.Experts < 1 {
		c.fail("a routing of %d of %d experts", r.K, r.Experts)
	}
	c.tensor("expert", r.Expert, kernels.I32, tokens, r.K)
}

// Gate: logits of all experts, and a routing of as many choices of as many experts.
func (r *Rules) Gate(to kernels.Routing, logits kernels.Tensor, g kernels.Gate) error {
	c := check{rules: r, op: "gate"}
	c.tensor("logits", logits, kernels.F32, Any, g.Experts)
	c.routing(to, logits.Rows)
	c.tensor("weight", to.Weight, kernels.F32, logits.Rows, to.K)
	if to.K != g.K || to.Experts != g.Experts || g.K > g.Experts {
		c.fail("%d of %d experts for a routing of %d of %d", g.K, g.Experts, to.K, to.Experts)
	}
	if g.Score != kernels.Softmax && g.Score != kernels.Sigmoid {
		c.fail("score %d is unknown", g.Score)
	}
	if !g.Bias.None() {
		c.tensor("bias", g.Bias, kernels.F32, 1, g.Experts)
	}
	if g.Score == kernels.Softmax && (!g.Bias.None() || g.Groups > 1 && g.GroupBest != 1) {
		c.fail("experts chosen by probabilities with a bias, or groups by several; only by those of a sigmoid can be")
	}
	if g.Groups > 1 {
		each := g.Experts / g.Groups
		if g.Experts%g.Groups != 0 || g.TopGroups < 1 || g.TopGroups > g.Groups || g.GroupBest < 1 || g.GroupBest > min(2, each) || g.TopGroups*each < g.K {
			c.fail("%d of %d experts in %d of %d groups, by the best %d of each, cannot be chosen", g.K, g.Experts, g.TopGroups, g.Groups, g.GroupBest)
		}
	}
	return c.err
}

// Drop: a weight for each choice.
func (r *Rules) Drop(of kernels.Routing, capacity kernels.Capacity) error {
	c := check{rules: r, op: "drop"}
	c.routing(of, of.Expert.Rows)
	c.tensor("weight", of.Weight, kernels.F32, of.Expert.Rows, of.K)
	if capacity.C < 0 || capacity.Policy != kernels.DropByPosition && capacity.Policy != kernels.DropByProbs {
		c.fail("capacity %d, policy %d", capacity.C, capacity.Policy)
	}
	return c.err
}

// Table: an offset for each expert and the end, a slot and a place for each choice.
func (r *Rules) Table(of kernels.Routing) error {
	c, choices := check{rules: r, op: "table"}, of.Expert.Rows*of.K
	c.routing(of, of.Expert.Rows)
	c.tensor("offsets", of.Offsets, kernels.I32, 1, of.Experts+1)
	c.vector("choices", of.Choices, choices)
	c.vector("place", of.Place, choices)
	return c.err
}

// Combine: a weight and a place for each choice of the tokens of y.
func (r *Rules) Combine(y, out kernels.Tensor, by kernels.Routing) error {
	c := check{rules: r, op: "combine"}
	c.activation("y", y, Any, Any)
	c.tensor("out", out, y.DType, Any, y.Cols)
	c.tensor("weight", by.Weight, kernels.F32, y.Rows, by.K)
	c.vector("place", by.Place, y.Rows*by.K)
	if by.K < 1 {
		c.fail("%d choices a token", by.K)
	}
	return c.err
}

// Mix: two coefficients, or one, for each row of y, moe and mlp.
func (r *Rules) Mix(y, moe, mlp, coef kernels.Tensor) error {
	c := check{rules: r, op: "mix"}
	c.activation("moe", moe, Any, Any)
	c.tensor("y", y, moe.DType, moe.Rows, moe.Cols)
	c.tensor("mlp", mlp, moe.DType, moe.Rows, moe.Cols)
	c.tensor("coef", coef, kernels.F32, moe.Rows, Any)
	if c.err == nil && coef.Cols != 1 && coef.Cols != 2 {
		c.fail("coef is %v, want 1 or 2 columns", coef)
	}
	return c.err
}

// Reduce: n float32 parts of y's shape, one below the other.
func (r *Rules) Reduce(y, parts kernels.Tensor, n int) error {
	c := check{rules: r, op: "reduce"}
	if n < 1 || n > kernels.MaxParts {
		c.fail("%d parts, want 1 to %d", n, kernels.MaxParts)
	}
	c.activation("y", y, Any, Any)
	c.tensor("parts", parts, kernels.F32, n*y.Rows, y.Cols)
	return c.err
}

// Score: a target for each row of logits, of which the first vocab columns count.
func (r *Rules) Score(logprob, greedy, logits, target kernels.Tensor, vocab int) error {
	c := check{rules: r, op: "score"}
	c.tensor("logits", logits, kernels.F32, Any, Any)
	if vocab < 1 || logits.Cols < vocab {
		c.fail("%d of the columns of logits %v", vocab, logits)
	}
	c.tensor("logprob", logprob, kernels.F32, logits.Rows, 1)
	c.tensor("greedy", greedy, kernels.I32, logits.Rows, 1)
	c.tensor("target", target, kernels.I32, logits.Rows, 1)
	return c.err
}

// Sample: each setting for each row of logits. The lists of seen tokens, which may be none, are the back end's to check.
func (r *Rules) Sample(logits kernels.Tensor, p kernels.Sampling) error {
	c, n := check{rules: r, op: "sample"}, logits.Rows
	c.tensor("logits", logits, kernels.F32, Any, Any)
	if p.Vocab < 1 || logits.Cols < p.Vocab || p.Top < 0 || p.Top > p.Vocab {
		c.fail("vocabulary of %d, %d of it reported, for logits %v", p.Vocab, p.Top, logits)
	}
	c.tensor("temperature", p.Temperature, kernels.F32, n, 1)
	c.tensor("top-k", p.TopK, kernels.I32, n, 1)
	c.tensor("top-p", p.TopP, kernels.F32, n, 1)
	c.tensor("min-p", p.MinP, kernels.F32, n, 1)
	c.tensor("penalty", p.Penalty, kernels.F32, n, 1)
	c.tensor("u", p.U, kernels.F32, n, 1)
	if !p.Ban.None() && n > 0 {
		c.tensor("ban", p.Ban, kernels.I32, n, 1)
		c.tensor("banned", p.Banned, kernels.I32, 1, Any)
	}
	c.tensor("token", p.Token, kernels.I32, n, 1)
	c.tensor("logprob", p.Logprob, kernels.F32, n, 1)
	if p.Top > 0 {
		c.tensor("top id", p.TopID, kernels.I32, n, p.Top)
		c.tensor("top logprob", p.TopLogprob, kernels.F32, n, p.Top)
	}
	return c.err
}
