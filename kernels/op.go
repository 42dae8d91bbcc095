// Package kernels is the op set of one transformer step: one interface, and below it the back ends that run it
// (cpu, cuda), which mirror each other op for op and pass the same cases (optest).
//
// A Device owns memory, packed weights and KV caches; a Stream is an ordered queue of ops on it. The package knows no
// model and no rank. Nothing of an activation or a weight crosses the interface as a Go slice in the hot path.
//
// Order of sums (promise 1): every op computes an output row from that row's inputs alone, in an order that depends
// neither on the number of rows, nor on the place of the row among them, nor on threads, tiles or the grid.
package kernels

// Device is one back end on one piece of hardware: a CPU with its instruction set, a GPU.
// Its methods may be called from one goroutine at a time.
type Device interface {
	// Name is for people: "cpu avx512, 2 threads", "cuda:0 NVIDIA H100 80GB HBM3".
	Name() string
	// Arch is what changes bits and so stands in a job's fingerprint: "cpu/avx512", "cuda/sm_90a".
	Arch() string
	// Memory is the free and the total memory in bytes.
	Memory() (free, total int64)
	// Activations is the type of the activations that a model with weights of type w computes in.
	Activations(w DType) DType

	// Alloc makes a tensor [rows, cols] with undefined contents. Out of memory is an error that says who wanted how
	// much; what names the tensor in it.
	Alloc(what string, d DType, rows, cols int) (Tensor, error)
	// Upload makes a tensor of type d from a host matrix, converting it. Where the host's own memory serves (a mapped
	// checkpoint on the CPU, same type) it is used in place: m.Data must then stay.
	Upload(what string, d DType, m Matrix) (Tensor, error)
	// Pack turns weights into the back end's own order, once, at load.
	Pack(what string, s WeightSpec) (Weights, error)
	// NewCache makes a paged KV cache.
	NewCache(s CacheSpec) (Cache, error)
	// NewStream makes a queue.
	NewStream() (Stream, error)
	Close() error
}

// CacheSpec describes a paged KV cache: Layers × Blocks blocks of BlockTokens tokens.
type CacheSpec struct {
	DType       DType
	Layers      int
	Blocks      int
	BlockTokens int
	KVHeads     int
	HeadDim     int
	// Latent values of a key, its last ones, are the value too, and stored once (multi-head latent attention, arXiv
	// 2405.04434); 0: values have HeadDim and are stored beside the keys.
	Latent int
}

// Bytes is the memory that the cache takes.
func (s CacheSpec) Bytes() int64 {
	return int64(s.Parts()) * int64(s.DType.Size()) * int64(s.Layers) * int64(s.Blocks) * int64(s.BlockTokens) * int64(s.KVHeads) * int64(s.HeadDim)
}

// Parts is how many times HeadDim a token's head takes: keys and values, or keys that hold the values.
func (s CacheSpec) Parts() int {
	if s.Latent > 0 {
		return 1
	}
	return 2
}

// Values is the size of a head's value, and so of its part of what Attention gives.
func (s CacheSpec) Values() int {
	if s.Latent > 0 {
		return s.Latent
	}
	return s.HeadDim
}

// Cache is a paged KV cache. The order inside a block is the back end's.
type Cache interface {
	Spec() CacheSpec
	Free()
}

// Warmer is a Cache whose memory the system gives when it is first used, which takes its time then. Warm has it given
// beforehand for the blocks [from, to) of all layers, a layer after the other, and calls each after every one. No op sees a
// difference.
type Warmer interface {
	Cache
	Warm(from, to int, each func())
}

// Activation is the function between the two linear ops of an MLP.
type Activation uint8

// The activations.
const (
	Identity Activation = iota
	GELUTanh            // 0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))
	GELUErf             // 0.5x(1 + erf(x/√2))
	SiLU                // x/(1 + e⁻ˣ)
	ReLU
	// ClampedSwiGLU (gpt-oss) is for gated weights alone, and says what becomes of both halves, each cut off at Limit:
	// g·sigmoid(1.702·g)·(u + 1), g = min(gate, Limit), u = min(max(up, −Limit), Limit).
	ClampedSwiGLU
)

// Epilogue is what a linear op does with x·Wᵀ + b before it is stored.
type Epilogue struct {
	Act   Activation // of the result, or of its gate half where the weights are gated
	Add   bool       // y += instead of y =
	Limit float32    // of ClampedSwiGLU, above 0
}

// NormKind is the kind of a normalisation.
type NormKind uint8

// The norms.
const (
	LayerNorm NormKind = iota
	RMSNorm
)

// Norm is y = norm(x)·Weight + Bias over each of Groups equal parts of a row.
type Norm struct {
	Kind   NormKind
	Weight Tensor // [1, cols/Groups] F32
	Bias   Tensor // the same, or none
	Eps    float32
	Groups int // 0 and 1: the whole row
}

// Rope is rotary positions by table: for position p and pair i, (a, b) becomes (a·cos − b·sin, b·cos + a·sin).
type Rope struct {
	Cos, Sin    Tensor // [positions, Dim/2] F32
	Dim         int    // rotated values of a head, its first ones
	Interleaved bool   // pairs (2i, 2i+1), else (i, i+Dim/2)
}

// StoreSpec is what Store does to q and k before K goes into the cache.
type StoreSpec struct {
	QNorm, KNorm *Norm // as Norm in place; nil: none
	Rope         *Rope // nil: none
}

// Batch tells the ops that look at positions how the tokens of a step form sequences. All tensors are I32.
type Batch struct {
	Tokens   int
	Seqs     int
	Position Tensor // [1, tokens] place in its sequence, from 0
	Slot     Tensor // [1, tokens] where the token's K and V go: block·BlockTokens + place in the block; -1: nowhere
	Seq      Tensor // [1, tokens] its sequence, ascending
	Start    Tensor // [1, seqs+1] first token of each sequence
	Blocks   Tensor // [seqs, most blocks] block table; Rows >= Seqs
	// MaxContext bounds the number of KV tokens that any sequence of the step looks at.
	MaxContext int
}

// AttentionSpec is the shape and kind of an attention.
type AttentionSpec struct {
	Heads   int
	KVHeads int // Heads is a multiple
	HeadDim int
	Scale   float32
	Causal  bool   // a token sees positions up to its own; else all Context tokens of its sequence
	Window  int    // 0, or how many last positions it sees, its own included
	Context Tensor // [1, seqs] I32: KV tokens of a sequence after this step's store; needed where not Causal
	// Slopes [1, Heads] F32, or none, is ALiBi (arXiv 2108.12409): of every score, once scaled, the head's slope is taken
	// off for each position that lies between the token and what it sees. Causal only.
	Slopes Tensor
	// Sinks [1, Heads] F32, or none, are logits, a head's one, that join the softmax of each of its tokens and have no value:
	// they take their share of the weight, and add nothing.
	Sinks Tensor
}

// GateScore is how a gate turns logits into weights.
type GateScore uint8

// The scores.
const (
	Softmax GateScore = iota
	Sigmoid
)

// Gate chooses the K of Experts with the largest logits for each token, in falling order. Ties go to the lower expert
// index; a NaN is below everything. A weight is the score of the expert's logit.
type Gate struct {
	Experts     int
	K           int
	Score       GateScore
	Renormalise bool    // the K weights are divided by their sum, at least 2⁻²³
	Scale       float32 // then multiplied by it; 0 stands for 1
	// Bias [1, Experts] F32, or none, is added to the scores that experts are chosen by, not to weights. Sigmoid only.
	Bias Tensor
	// Groups above 1 are equal runs of experts, TopGroups of which are looked at: those whose GroupBest best experts (1, or
	// with Sigmoid 2) have the largest sum of what they are chosen by. Ties go to the lower group.
	Groups, TopGroups, GroupBest int
}

// Limited tells whether experts are chosen by something else than their logits alone.
func (g Gate) Limited() bool { return g.Groups > 1 || !g.Bias.None() }

// Routing says which choice of which token goes to which expert. A choice is token·K + its rank among the token's
// experts; a slot is a kept choice, in expert order, stable in the order of choices. Tensors are I32 but Weight.
//
// Invariants after Stream.Table: Offsets ascends from 0 to the number of slots; Choices[i] ascends inside an expert,
// none stands twice and those beyond the slots are -1; Place[Choices[i]] = i and Place of a dropped choice is -1.
type Routing struct {
	K       int
	Experts int
	Expert  Tensor // [tokens, K] expert of each choice; -1: dropped
	Weight  Tensor // [tokens, K] F32
	Offsets Tensor // [1, Experts+1] first slot of each expert
	Choices Tensor // [1, tokens·K] choice of each slot
	Place   Tensor // [1, tokens·K] slot of each choice; -1: dropped
}

// DropPolicy tells which tokens an expert keeps when more than its capacity asked for it.
type DropPolicy uint8

// The policies: first come in token order, or the most probable.
const (
	DropByPosition DropPolicy = iota
	DropByProbs
)

// Capacity limits the slots of an expert. C, a number of slots, is the caller's (moe.Capacity.Limit).
type Capacity struct {
	C      int
	Policy DropPolicy
	// SecondAfterFirst: an expert's places go to all first choices before any second one, dropped ones counted
	// (DeepSpeed's top-2); else in token order, whatever the rank of the choice (its top-k).
	SecondAfterFirst bool
	Renormalise      bool    // the weights of a token's kept choices are divided by their sum, at least 2⁻²³ (DeepSpeed's clamp)
	Scale            float32 // and then multiplied by it, as Gate's are; 0 stands for 1
}

// Sampling is one draw for each row of logits. Tensors have a row an output row; all F32 but those marked I32.
type Sampling struct {
	Temperature Tensor // [rows, 1]; 0: argmax after the penalty, ties to the lower id; the filters are not looked at
	TopK        Tensor // [rows, 1] I32; 0: off
	TopP        Tensor // [rows, 1]; 1: off
	MinP        Tensor // [rows, 1]; 0: off
	Penalty     Tensor // [rows, 1] repetition penalty; 1: off
	U           Tensor // [rows, 1] the uniform number in [0, 1)
	SeenStart   Tensor // [1, rows+1] I32: where each row's tokens so far stand in Seen; none when no row has a penalty
	Seen        Tensor // [1, n] I32
	Ban         Tensor // [rows, 1] I32; not 0: none of Banned is drawn, which comes last, after the penalty; none: no row bans
	Banned      Tensor // [1, m] I32: ids of the vocabulary, not all of it
	Vocab       int    // real ids: columns beyond, padding of the embedding, are never chosen or reported
	Top         int    // how many most probable tokens to report, 0: none

	Token Tensor // [rows, 1] I32, result
	// Logprob [rows, 1], result: the model's own log-probability of Token, over all columns of the logits (as DeepSpeed
	// and transformers have it), before penalty, temperature and filters. TopLogprob likewise.
	Logprob    Tensor
	TopID      Tensor // [rows, Top] I32, result: in order of falling probability, ties by id
	TopLogprob Tensor // [rows, Top], result
}

// MaxParts is the most parts that Stream.Reduce adds up.
const MaxParts = 127

// Stream is an ordered queue of ops on a device. An op returns at once; its tensors must live until the work is
// done. The first error of an op (a wrong shape, a failed launch) sticks, ops after it do nothing, Sync returns it.
//
// T is the number of rows of an op's activations; nil-like arguments are zero Tensors. Activations have the device's
// activation type, y of Linear may be F32 instead. Rows or slots of zero are good everywhere.
type Stream interface {
	// Write copies src to dst, row by row, in dst's type; src may be changed when Write returns.
	Write(dst Tensor, src []byte)
	// Read copies src to dst, row by row; dst is valid after the next Sync.
	Read(dst []byte, src Tensor)
	// Copy: dst = src, of the same shape; the types may differ among F32, BF16 and F16.
	Copy(dst, src Tensor)
	// Submit has the device begin with what was enqueued, and waits for nothing: the host may do something else until
	// Sync, which submits too.
	Submit()
	// Sync waits until all that was enqueued is done and returns the first error.
	Sync() error
	Close() error

	// Embed: y[t] = table[ids[t]], plus positions[pos[t]] where given. table [vocab, hidden], ids and pos [1, T].
	Embed(y, ids, table, pos, positions Tensor)
	// Norm: y = n(x); with delta: x += delta first, in place, x then being the residual stream. y may be x where
	// delta is none. x, y, delta [T, hidden].
	Norm(y, x, delta Tensor, n Norm)
	// Linear: y = e(x·Wᵀ + b) for the only expert of w. x [T, in], y [T, out].
	Linear(y, x Tensor, w Weights, e Epilogue)
	// Grouped: for slot i of expert e (offsets[e] <= i < offsets[e+1]): y[i] = ep(x[index[i]/div]·W_eᵀ + b_e).
	// index none: x[i]. offsets [1, experts+1], index [1, slots], both I32 on the device; y.Rows bounds the slots.
	Grouped(y, x Tensor, w Weights, offsets, index Tensor, div int, ep Epilogue)

	// Store norms and rotates q and k as a says, q in place, and puts k and v into the cache's layer at b.Slot; what k then
	// holds is not said. The bits are those of Norm of q, Norm of k, each rounded to their type, and a Store that only rotates.
	// q [T, heads·dim], k and v [T, kvHeads·dim]; v is none for a cache of keys that hold the values.
	Store(c Cache, layer int, q, k, v Tensor, b Batch, a StoreSpec)
	// Attention: paged attention of every token over its sequence's KV. q [T, heads·dim], out [T, heads·Values].
	Attention(out, q Tensor, c Cache, layer int, b Batch, a AttentionSpec)

	// Gate fills r.Expert and r.Weight from logits [T, experts] F32.
	Gate(r Routing, logits Tensor, g Gate)
	// Drop marks the choices over capacity in r.Expert as -1, with weight 0. T tokens are seen together.
	Drop(r Routing, c Capacity)
	// Table fills r.Offsets, r.Choices and r.Place from r.Expert.
	Table(r Routing)
	// Combine: y[t] = Σ_c weight[t, c]·out[place[t, c]], c ascending, in float32; dropped choices add nothing.
	Combine(y, out Tensor, r Routing)
	// Mix is PR-MoE's: y[t] = moe[t]·c₀ + mlp[t]·c₁, c = softmax(coef[t]) in float32, coef [T, 2] F32; or, where coef is
	// [T, 1], that of a shared expert (Qwen2-MoE): y[t] = moe[t] + mlp[t]·sigmoid(coef[t]). y may be moe.
	Mix(y, moe, mlp, coef Tensor)
	// Add: y += x.
	Add(y, x Tensor)
	// Tanh: y = tanh(y), each value by itself, in place.
	Tanh(y Tensor)
	// Reduce adds the partial results of a linear op whose inputs are cut: y[t] = Σ_p parts[p·T + t], or y +=, for n
	// parts, 1 to MaxParts; parts [n·T, cols] F32. In float32, a balanced tree in the order of the parts, rounded once:
	// pairs of neighbours, pairs of pairs, and what is left over, smaller trees to the right. So the sum of 2ⁱ
	// neighbouring parts may have been made before, elsewhere. T is y.Rows.
	Reduce(y, parts Tensor, n int, add bool)

	// Select: dst[i] = src[index[i]/div]; index [1, rows] I32; -1 leaves the row as it is. Any type, I32 included.
	Select(dst, src, index Tensor, div int)
	// Score: logprob[i] = log softmax(logits[i])[target[i]], greedy[i] = 1 when target[i] is the argmax (ties to the
	// lower id), else 0. logits [T, >= vocab]; logprob [T, 1] F32; target, greedy [T, 1] I32. The sum is in an order
	// that vocab alone fixes.
	Score(logprob, greedy, logits, target Tensor, vocab int)
	// Sample draws a token for each row of logits [T, >= vocab], which it may overwrite.
	Sample(logits Tensor, s Sampling)
}
