package cpu

import (
	"cmp"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
)

// Drop marks the choices over capacity as -1, of weight 0.
func (s *Stream) Drop(r kernels.Routing, c kernels.Capacity) {
	const op = "drop"
	if s.note(rules.Drop(r, c)); s.err != nil {
		return
	}
	expert, weight := s.choices(op, r), view[float32](r.Weight)
	if s.err != nil {
		return
	}
	count := make([]int, r.Experts) // choices of each expert so far
	keep := func(t, k int) {
		if e := expert.row(t)[k]; e >= 0 {
			if count[e] >= c.C {
				expert.row(t)[k], weight.row(t)[k] = -1, 0
			}
			count[e]++
		}
	}
	switch {
	case c.Policy == kernels.DropByProbs:
		dropLeast(expert, weight, r, c.C)
	case c.SecondAfterFirst:
		for k := range r.K {
			for t := range r.Expert.Rows {
				keep(t, k)
			}
		}
	default:
		for t := range r.Expert.Rows {
			for k := range r.K {
				keep(t, k)
			}
		}
	}
	for t := 0; c.Renormalise && t < r.Expert.Rows; t++ {
		scaleToOne(weight.row(t))
		if c.Scale != 0 {
			for k := range weight.row(t) {
				weight.row(t)[k] *= c.Scale
			}
		}
	}
}

// choices opens r.Expert and checks its ids.
func (s *Stream) choices(op string, r kernels.Routing) matrix[int32] {
	if s.err != nil {
		return matrix[int32]{}
	}
	expert := view[int32](r.Expert)
	for t := range r.Expert.Rows {
		for k, e := range expert.row(t) {
			if e < -1 || int(e) >= r.Experts {
				s.fail("%s: expert %d of token %d, choice %d: there are %d", op, e, t, k, r.Experts)
				return expert
			}
		}
	}
	return expert
}

// dropLeast keeps the c choices of largest weight of each expert, the earlier of equals.
func dropLeast(expert matrix[int32], weight matrix[float32], r kernels.Routing, c int) {
	of := make([][]int32, r.Experts) // choices, token·K + k
	for t := range r.Expert.Rows {
		for k, e := range expert.row(t) {
			if e >= 0 {
				of[e] = append(of[e], int32(t*r.K+k))
			}
		}
	}
	at := func(i int32) *float32 { return &weight.row(int(i) / r.K)[int(i)%r.K] }
	for _, list := range of {
		if len(list) <= c {
			continue
		}
		slices.SortStableFunc(list, func(a, b int32) int { return cmp.Compare(*at(b), *at(a)) })
		for _, i := range list[c:] {
			expert.row(int(i) / r.K)[int(i)%r.K], *at(i) = -1, 0
		}
	}
}
