package cuda

import (
	"cmp"

	"github.com/dsbatch/dsbatch/kernels"
)

type dropArgs struct {
	expert, weight                            mat
	tokens, k, capacity, byProbs, rankedFirst int32
	scale                                     float32 // of what is renormalised
}

// Drop marks the choices over capacity as -1, of weight 0.
func (s *Stream) Drop(r kernels.Routing, c kernels.Capacity) {
	const op = opDrop
	s.note(rules.Drop(r, c))
	n := r.Expert.Rows * r.K
	if s.err != nil || n == 0 {
		return
	}
	a := dropArgs{expert: matOf(r.Expert), weight: matOf(r.Weight), tokens: int32(r.Expert.Rows), k: int32(r.K), capacity: int32(c.C),
		byProbs:     truth(c.Policy == kernels.DropByProbs),
		rankedFirst: truth(c.Policy == kernels.DropByPosition && c.SecondAfterFirst), scale: cmp.Or(c.Scale, 1)}
	key := kernelKey{program{file: "capacity.cu"}, "drop"}
	enqueue(s, op, key, grid{x: r.Experts, threads: min(1024, ceilDiv(n, 32)*32)}, &a)
	if c.Renormalise {
		key.name = "renormalise"
		enqueue(s, op, key, grid{x: ceilDiv(r.Expert.Rows, 128), threads: 128}, &a)
	}
}
