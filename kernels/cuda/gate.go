package cuda

import "github.com/dsbatch/dsbatch/kernels"

type gateArgs struct {
	logits, expert, weight                   mat
	tokens, experts, k, sigmoid, renormalise int32
	scale                                    float32
}

// Gate chooses the K experts of the largest logits, ties to the lower index, a NaN below everything.
func (s *Stream) Gate(r kernels.Routing, logits kernels.Tensor, g kernels.Gate) {
	const op = opGate
	s.check(op, "logits", logits, kernels.F32, anySize, g.Experts)
	s.checkRouting(op, r, logits.Rows)
	s.check(op, "weight", r.Weight, kernels.F32, logits.Rows, r.K)
	if s.err == nil && (r.K != g.K || r.Experts != g.Experts || g.K > g.Experts) {
		s.fail("%s: %d of %d experts for a routing of %d of %d", op, g.K, g.Experts, r.K, r.Experts)
	}
	if s.err == nil && g.Score != kernels.Softmax && g.Score != kernels.Sigmoid {
		s.fail("%s: score %d is unknown", op, g.Score)
	}
	if s.err != nil || logits.Rows == 0 {
		return
	}
	a := gateArgs{logits: matOf(logits), expert: matOf(r.Expert), weight: matOf(r.Weight), tokens: int32(logits.Rows),
		experts: int32(g.Experts), k: int32(g.K), sigmoid: truth(g.Score == kernels.Sigmoid),
		renormalise: truth(g.Renormalise), scale: g.Scale}
	if a.scale == 0 {
		a.scale = 1
	}
	enqueue(s, op, kernelKey{program{file: "gate.cu"}, "gate"}, grid{x: ceilDiv(logits.Rows, 4), threads: 128}, &a)
}

func truth(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// checkRouting checks what all routing ops share: r.Expert is [tokens, K].
func (s *Stream) checkRouting(op opNumber, r kernels.Routing, tokens int) {
	if s.err == nil && (r.K < 1 || r.Experts < 1) {
		s.fail("%s: a routing of %d of %d experts", op, r.K, r.Experts)
	}
	s.check(op, "expert", r.Expert, kernels.I32, tokens, r.K)
}
