package cuda

import "github.com/dsbatch/dsbatch/kernels"

type gateArgs struct {
	logits, expert, weight                   mat
	tokens, experts, k, sigmoid, renormalise int32
	scale                                    float32
	bias                                     handle
	groups, topGroups, groupBest, _          int32
}

// Gate chooses the K experts of the largest logits, ties to the lower index, a NaN below everything.
func (s *Stream) Gate(r kernels.Routing, logits kernels.Tensor, g kernels.Gate) {
	const op = opGate
	if s.note(rules.Gate(r, logits, g)); s.err != nil || logits.Rows == 0 {
		return
	}
	a := gateArgs{logits: matOf(logits), expert: matOf(r.Expert), weight: matOf(r.Weight), tokens: int32(logits.Rows),
		experts: int32(g.Experts), k: int32(g.K), sigmoid: truth(g.Score == kernels.Sigmoid),
		renormalise: truth(g.Renormalise), scale: g.Scale}
	if a.scale == 0 {
		a.scale = 1
	}
	key, launch := kernelKey{program{file: "gate.cu"}, "gate"}, grid{x: ceilDiv(logits.Rows, 4), threads: 128}
	if g.Experts <= 256 && g.K <= 32 {
		key.name = "gate_few"
	}
	if g.Limited() {
		a.groups, a.topGroups, a.groupBest = int32(max(g.Groups, 1)), int32(g.TopGroups), int32(g.GroupBest)
		if !g.Bias.None() {
			a.bias = address(g.Bias)
		}
		key.name, launch.shared = "gate_limited", 4*(g.Experts+2*int(a.groups))*4 // a warp's scores, its groups' sums and which of them count
	}
	enqueue(s, op, key, launch, &a)
}

func truth(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
