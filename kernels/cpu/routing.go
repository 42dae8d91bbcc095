package cpu

import "github.com/dsbatch/dsbatch/kernels"

// Table sorts the kept choices by expert, stable in their order: a counting sort, in O(tokens·K + experts).
// Choices beyond the last slot become -1.
func (s *Stream) Table(r kernels.Routing) {
	const op = "table"
	if s.note(rules.Table(r)); s.err != nil {
		return
	}
	n, expert := r.Expert.Rows*r.K, s.choices(op, r)
	if s.err != nil {
		return
	}
	offsets := vector[int32](r.Offsets)
	clear(offsets)
	for t := range r.Expert.Rows {
		for _, e := range expert.row(t) {
			if e >= 0 {
				offsets[e+1]++
			}
		}
	}
	for e := range r.Experts {
		offsets[e+1] += offsets[e]
	}
	if n == 0 {
		return
	}
	choices, place := vector[int32](r.Choices)[:n], vector[int32](r.Place)[:n]
	for i := int(offsets[r.Experts]); i < n; i++ {
		choices[i] = -1
	}
	// While the slots of e are given out, offsets[e] is its next one; at the end it is the first of e+1.
	for t := range r.Expert.Rows {
		for k, e := range expert.row(t) {
			i := t*r.K + k
			if e < 0 {
				place[i] = -1
				continue
			}
			place[i] = offsets[e]
			choices[offsets[e]] = int32(i)
			offsets[e]++
		}
	}
	copy(offsets[1:], offsets[:r.Experts])
	offsets[0] = 0
}
