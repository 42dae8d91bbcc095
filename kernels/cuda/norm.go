package cuda

import "github.com/dsbatch/dsbatch/kernels"

type normArgs struct {
	y, x, delta             mat
	weight, bias            handle
	rows, cols, groups, rms int32
	eps                     float32
	_                       int32
}

// The widest groups that half a warp, and a warp, normalise by themselves, and that a block holds in its registers.
const normHalf, normWarp, normHeld = 128, 1024, 8192

// normThreads is the block of a wide group: as many threads as have two chunks of 8 each, and more chunks beyond normHeld.
func normThreads(cols int) int { return min(512, ceilDiv(cols, 16*32)*32) }

// Norm: x += delta, then y = norm(x)·weight + bias.
func (s *Stream) Norm(y, x, delta kernels.Tensor, n kernels.Norm) {
	const op = opNorm
	if s.note(rules.Norm(y, x, delta, n)); s.err != nil || x.Cols == 0 || x.Rows == 0 {
		return
	}
	groups := max(1, n.Groups)
	a := normArgs{y: matOf(y), x: matOf(x), weight: address(n.Weight), rows: int32(x.Rows), cols: int32(x.Cols / groups),
		groups: int32(groups), eps: n.Eps}
	if !delta.None() {
		a.delta = matOf(delta)
	}
	if !n.Bias.None() {
		a.bias = address(n.Bias)
	}
	if n.Kind == kernels.RMSNorm {
		a.rms = 1
	}
	key, all := kernelKey{program{file: "norm.cu", a: x.DType}, "norm_warp"}, x.Rows*groups
	if a.cols <= normHalf {
		key.name = "norm_half"
		enqueue(s, op, key, grid{x: ceilDiv(all, 8), threads: 128}, &a)
		return
	}
	if a.cols <= normWarp {
		enqueue(s, op, key, grid{x: ceilDiv(all, 4), threads: 128}, &a)
		return
	}
	key.name = "norm_block"
	enqueue(s, op, key, grid{x: all, threads: normThreads(int(a.cols))}, &a)
}
