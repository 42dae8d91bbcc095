//go:build cgo

package cpu

// #cgo noescape cpu_norm
// #cgo nocallback cpu_norm
// #cgo noescape cpu_convert
// #cgo nocallback cpu_convert
// #cgo noescape cpu_embed
// #cgo nocallback cpu_embed
// #cgo noescape cpu_store
// #cgo nocallback cpu_store
// #cgo noescape cpu_attention
// #cgo nocallback cpu_attention
// #cgo noescape cpu_gate
// #cgo nocallback cpu_gate
// #cgo noescape cpu_combine
// #cgo nocallback cpu_combine
// #cgo noescape cpu_mix
// #cgo nocallback cpu_mix
// #cgo noescape cpu_add
// #cgo nocallback cpu_add
// #cgo noescape cpu_reduce
// #cgo nocallback cpu_reduce
// #cgo noescape cpu_score
// #cgo nocallback cpu_score
// #cgo noescape cpu_log_sum
// #cgo nocallback cpu_log_sum
// #cgo noescape cpu_token_weights
// #cgo nocallback cpu_token_weights
// #cgo noescape cpu_next_above
// #cgo nocallback cpu_next_above
// #cgo noescape cpu_masses_above
// #cgo nocallback cpu_masses_above
// #cgo noescape cpu_weights_between
// #cgo nocallback cpu_weights_between
// #include "cpu.h"
import "C"

import (
	"sync"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// native calls the C functions of one level. Structs go over by value: they may hold pointers to Go's memory, whose
// elements are numbers.
type native struct {
	level   C.int
	scratch sync.Pool // *[]float32 for attention, *[]int32 for the gate
}

// nativeKernels is the set of a level above Reference.
func nativeKernels(l Level) kernelSet {
	n := &native{level: C.CPU_AVX512}
	switch l {
	case Generic:
		n.level = C.CPU_GENERIC
	case AVX2:
		n.level = C.CPU_AVX2
	}
	return kernelSet{
		norm:         n.norm,
		convert:      n.convert,
		embed:        n.embed,
		store:        n.store,
		attention:    n.attention,
		gate:         n.gate,
		combine:      n.combine,
		mix:          n.mix,
		add:          n.add,
		reduce:       n.reduce,
		score:        n.score,
		logSum:       n.logSum,
		tokenWeights: n.tokenWeights,
		nextAbove:    n.nextAbove,
		massesAbove:  n.massesAbove,
		between:      n.between,
	}
}

func floats(x []float32) *C.float { return (*C.float)(unsafe.SliceData(x)) }
func ints(x []int32) *C.int32_t   { return (*C.int32_t)(unsafe.SliceData(x)) }

// raw is where a checked tensor begins.
func raw(t kernels.Tensor) unsafe.Pointer {
	if t.None() || t.Rows == 0 || t.Cols == 0 {
		return nil
	}
	return unsafe.Pointer(&t.Mem.(*memory).data[t.Offset])
}

func typeOf(d kernels.DType) C.int32_t {
	switch d {
	case kernels.BF16:
		return C.CPU_BF16
	case kernels.F16:
		return C.CPU_F16
	}
	return C.CPU_F32
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

func (n *native) norm(a *normArgs, from, to int) {
	C.cpu_norm(n.level, C.norm_args{
		x: floats(a.x.data), y: floats(a.y.data), delta: floats(a.delta.data), weight: floats(a.weight), bias: floats(a.bias),
		x_stride: C.int64_t(a.x.stride), y_stride: C.int64_t(a.y.stride), delta_stride: C.int64_t(a.delta.stride),
		cols: C.int64_t(a.x.cols), groups: C.int64_t(a.groups), eps: C.float(a.eps), rms: flag(a.rms),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) convert(dst, src kernels.Tensor, from, to int) {
	C.cpu_convert(n.level, C.convert_args{
		dst: raw(dst), src: raw(src), dst_stride: C.int64_t(dst.Stride), src_stride: C.int64_t(src.Stride),
		cols: C.int64_t(src.Cols), dst_type: typeOf(dst.DType), src_type: typeOf(src.DType),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) embed(a *embedArgs, from, to int) {
	C.cpu_embed(n.level, C.embed_args{
		y: floats(a.y.data), table: raw(a.table), positions: raw(a.positions), ids: ints(a.ids), pos: ints(a.pos),
		y_stride: C.int64_t(a.y.stride), table_stride: C.int64_t(a.table.Stride), positions_stride: C.int64_t(a.positions.Stride),
		cols: C.int64_t(a.y.cols), table_type: typeOf(a.table.DType), positions_type: typeOf(a.positions.DType),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) store(a *storeArgs, from, to int) {
	s := a.cache.spec
	C.cpu_store(n.level, C.store_args{
		q: floats(a.q.data), k: floats(a.k.data), v: floats(a.v.data), cos: floats(a.cos.data), sin: floats(a.sin.data),
		data: unsafe.Pointer(unsafe.SliceData(a.data)), position: ints(a.position), slot: ints(a.slot),
		q_stride: C.int64_t(a.q.stride), k_stride: C.int64_t(a.k.stride), v_stride: C.int64_t(a.v.stride),
		cos_stride: C.int64_t(a.cos.stride), sin_stride: C.int64_t(a.sin.stride), q_cols: C.int64_t(a.q.cols),
		block_tokens: C.int64_t(s.BlockTokens), width: C.int64_t(a.cache.width), kv_heads: C.int64_t(s.KVHeads),
		dim: C.int64_t(s.HeadDim), rotated: C.int64_t(a.rotated), _type: typeOf(s.DType), interleaved: flag(a.interleaved),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) attention(a *attentionArgs, items []attentionItem) {
	s := a.cache.spec
	scratch := borrow[float32](&n.scratch, C.CPU_ATTENTION_SCRATCH*s.HeadDim)
	defer n.scratch.Put(scratch)
	C.cpu_attention(n.level, C.attention_args{
		out: floats(a.out.data), q: floats(a.q.data), data: unsafe.Pointer(unsafe.SliceData(a.data)),
		position: ints(a.position), blocks: ints(a.blocks.data), context: ints(a.context), slopes: floats(a.slopes), sinks: floats(a.sinks),
		out_stride: C.int64_t(a.out.stride), q_stride: C.int64_t(a.q.stride), blocks_stride: C.int64_t(a.blocks.stride),
		block_tokens: C.int64_t(s.BlockTokens), width: C.int64_t(a.cache.width), kv_heads: C.int64_t(s.KVHeads),
		dim: C.int64_t(s.HeadDim), group: C.int64_t(a.group), window: C.int64_t(a.window),
		values: C.int64_t(s.Values()), head_step: C.int64_t(a.cache.headStep()), value_step: C.int64_t(a.cache.valueStep()),
		scale: C.float(a.scale), _type: typeOf(s.DType),
	}, (*C.attention_item)(unsafe.Pointer(unsafe.SliceData(items))), C.int64_t(len(items)), floats(*scratch))
}

// borrow takes a slice of n elements from a pool, which gets it back by Put.
func borrow[T any](p *sync.Pool, n int) *[]T {
	if x, ok := p.Get().(*[]T); ok && cap(*x) >= n {
		*x = (*x)[:n]
		return x
	}
	x := make([]T, n)
	return &x
}

func (n *native) gate(a *gateArgs, from, to int) {
	const most = 16 // lanes of a vector
	room := (a.logits.cols + most - 1) / most * most
	if a.limited {
		room += room + a.groups
	}
	key := make([]int32, room)
	C.cpu_gate(n.level, C.gate_args{
		logits: floats(a.logits.data), bias: floats(a.bias), expert: ints(a.expert.data), weight: floats(a.weight.data),
		logits_stride: C.int64_t(a.logits.stride), expert_stride: C.int64_t(a.expert.stride),
		weight_stride: C.int64_t(a.weight.stride),
		experts:       C.int64_t(a.logits.cols), k: C.int64_t(a.expert.cols), scale: C.float(a.scale),
		groups: C.int64_t(a.groups), top_groups: C.int64_t(a.topGroups), group_best: C.int64_t(a.groupBest),
		sigmoid: flag(a.sigmoid), renormalise: flag(a.renormalise), limited: flag(a.limited),
	}, C.int64_t(from), C.int64_t(to), ints(key))
}

func (n *native) combine(a *combineArgs, from, to int) {
	C.cpu_combine(n.level, C.combine_args{
		y: floats(a.y.data), out: floats(a.out.data), weight: floats(a.weight.data), place: ints(a.place),
		y_stride: C.int64_t(a.y.stride), out_stride: C.int64_t(a.out.stride), weight_stride: C.int64_t(a.weight.stride),
		cols: C.int64_t(a.y.cols), k: C.int64_t(a.k),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) mix(a *mixArgs, from, to int) {
	C.cpu_mix(n.level, C.mix_args{
		y: floats(a.y.data), moe: floats(a.moe.data), mlp: floats(a.mlp.data), coef: floats(a.coef.data),
		y_stride: C.int64_t(a.y.stride), moe_stride: C.int64_t(a.moe.stride), mlp_stride: C.int64_t(a.mlp.stride),
		coef_stride: C.int64_t(a.coef.stride), cols: C.int64_t(a.y.cols), shared: flag(a.coef.cols == 1),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) add(y, x matrix[float32], from, to int) {
	C.cpu_add(n.level, C.add_args{
		y: floats(y.data), x: floats(x.data), y_stride: C.int64_t(y.stride), x_stride: C.int64_t(x.stride), cols: C.int64_t(y.cols),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) reduce(a *reduceArgs, from, to int) {
	C.cpu_reduce(n.level, C.reduce_args{
		y: floats(a.y.data), parts: floats(a.parts.data), y_stride: C.int64_t(a.y.stride), parts_stride: C.int64_t(a.parts.stride),
		rows: C.int64_t(a.rows), cols: C.int64_t(a.y.cols), count: C.int64_t(a.n), add: flag(a.add),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) score(a *scoreArgs, from, to int) {
	C.cpu_score(n.level, C.score_args{
		logits: floats(a.logits.data), target: ints(a.target), logprob: floats(a.logprob.data), greedy: ints(a.greedy.data),
		logits_stride: C.int64_t(a.logits.stride), logprob_stride: C.int64_t(a.logprob.stride),
		greedy_stride: C.int64_t(a.greedy.stride), vocab: C.int64_t(a.logits.cols),
	}, C.int64_t(from), C.int64_t(to))
}

func (n *native) logSum(logits []float32) (argmax int, logSum float64) {
	var sum C.double
	at := C.cpu_log_sum(n.level, floats(logits), C.int64_t(len(logits)), &sum)
	return int(at), float64(sum)
}

func (n *native) tokenWeights(dst, logits []float32, top, temperature float32) float64 {
	return float64(C.cpu_token_weights(n.level, floats(dst), floats(logits), C.int64_t(len(logits)), C.float(top),
		C.float(temperature)))
}

func (n *native) massesAbove(w []float32, bound [3]float32) (m massesAbove) {
	C.cpu_masses_above(n.level, floats(w), C.int64_t(len(w)), floats(bound[:]), (*C.double)(&m.mass[0]), (*C.int64_t)(&m.count[0]))
	return m
}

func (n *native) between(to, from weighted, low, high float32) int {
	return int(C.cpu_weights_between(n.level, floats(to.weight), ints(to.id), floats(from.weight), ints(from.id),
		C.int64_t(len(from.weight)), C.float(low), C.float(high)))
}

func (n *native) nextAbove(x []float32, from int, bound float32) int {
	return int(C.cpu_next_above(n.level, floats(x), C.int64_t(from), C.int64_t(len(x)), C.float(bound)))
}
