package cuda

import "github.com/dsbatch/dsbatch/kernels"

type tableArgs struct {
	expert                        mat
	offsets, choices, place, flaw handle
	tokens, k, experts, op        int32
}

// Table sorts the kept choices by expert, stable in their order. Choices beyond the last slot become -1.
func (s *Stream) Table(r kernels.Routing) {
	const op = opTable
	s.note(rules.Table(r))
	n := r.Expert.Rows * r.K
	if s.err != nil {
		return
	}
	enqueue(s, op, kernelKey{program{file: "routing.cu"}, "table"},
		grid{x: r.Experts + 1, threads: min(1024, max(32, ceilDiv(n, 128)*32))}, &tableArgs{
			expert: matOf(r.Expert), offsets: address(r.Offsets), choices: address(r.Choices), place: address(r.Place),
			flaw:   s.dev.fault.address,
			tokens: int32(r.Expert.Rows), k: int32(r.K), experts: int32(r.Experts), op: int32(op)})
}
