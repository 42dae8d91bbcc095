package comm

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

// Sum runs the linear ops whose inputs are cut over a group of ranks: every rank multiplies its slices of x by its
// slices of the weights in float32, all get the partial results of all, and each adds them up in the order of the ranks,
// so that all hold the same bits. (A library's all-reduce changes its order with the size of the message.)
//
// The order is the balanced tree of kernels.Stream.Reduce. A rank that holds several slices adds its own first: with a
// power of two of slices in all, the same number on each rank, the bits do not depend on the number of ranks.
//
// Where the ranks' devices are a team they do it among themselves, as ops of the stream; else it goes through the hosts, which wait.
type Sum struct {
	group              mpi.World    // nil: this rank holds all slices
	team               kernels.Team // of the ranks' devices; nil: partial results go through the hosts
	slices             int          // of this rank
	rows               int          // at once
	cols               int
	own                kernels.Tensor // [slices·rows, cols] F32
	all                kernels.Tensor // [ranks·rows, cols] F32, or none where there is one rank
	summed             kernels.Tensor // [rows, cols] F32, where this rank's slices are several and the ranks too
	staging            Staging
	toBytes, fromBytes []int64 // of each rank's share
	traffic            Traffic
}

// sumBytes is about how much the partial results of one rank take that exist at a time: rows beyond are done after them.
const sumBytes = 16 << 20

// sumTensors are the rows done at once, and the rows of a Sum's three tensors.
func sumTensors(ranks, slices, rows, cols int) (once, own, all, summed int) {
	once = max(1, min(rows, sumBytes/(4*max(cols, 1)*slices)))
	own = slices * once
	if ranks > 1 {
		all = ranks * once
		if slices > 1 {
			summed = once
		}
	}
	return once, own, all, summed
}

// SumBytes is the memory that NewSum takes.
func SumBytes(group *Group, slices, rows, cols int) int64 {
	_, own, all, summed := sumTensors(group.size(), slices, rows, cols)
	return 4 * int64(own+all+summed) * int64(cols)
}

// NewSum takes the memory for results of up to [rows, cols], of which this rank has so many partial ones. group may be
// nil, for one rank.
func NewSum(d kernels.Device, group *Group, slices, rows, cols int) (*Sum, error) {
	s := &Sum{slices: slices, cols: cols}
	if group.size() > 1 {
		s.group, s.team = group.World, group.Team
	}
	once, own, all, summed := sumTensors(group.size(), slices, rows, cols)
	s.rows = once
	for _, t := range []struct {
		to   *kernels.Tensor
		rows int
	}{{&s.own, own}, {&s.all, all}, {&s.summed, summed}} {
		if t.rows == 0 {
			continue
		}
		made, err := d.Alloc("partial results", kernels.F32, t.rows, cols)
		if err != nil {
			s.Free()
			return nil, fmt.Errorf("partial results of %d ranks, %d slices each: %w", group.size(), slices, err)
		}
		*t.to = made
	}
	return s, nil
}

// size is the number of ranks; a nil group has one.
func (g *Group) size() int {
	if g == nil {
		return 1
	}
	return g.Size()
}

// Linear computes y = Σ x_i·W_iᵀ, or y +=, over the slices of all ranks: x [rows, in] holds this rank's columns, those of
// one slice after those of another, and w its slices' weights. y [rows, cols]. All ranks of the group call it together,
// with as many rows. A nil Sum is that of one rank with one slice: the plain linear op.
func (m *Sum) Linear(ctx context.Context, s kernels.Stream, y, x kernels.Tensor, w []kernels.Weights, add bool) error {
	if m == nil {
		s.Linear(y, x, w[0], kernels.Epilogue{Add: add})
		return nil
	}
	for from := 0; from < y.Rows; from += m.rows {
		to := min(from+m.rows, y.Rows)
		m.multiply(s, x.RowRange(from, to), w)
		if err := m.add(ctx, s, y.RowRange(from, to), add); err != nil {
			return fmt.Errorf("partial results: %w", err)
		}
	}
	return nil
}

// multiply fills own with the product of each slice.
func (m *Sum) multiply(s kernels.Stream, x kernels.Tensor, w []kernels.Weights) {
	at := 0
	for i, slice := range w {
		s.Linear(m.own.RowRange(i*x.Rows, (i+1)*x.Rows), x.ColRange(at, at+slice.In()), slice, kernels.Epilogue{})
		at += slice.In()
	}
}

// add adds the partial results in own, and those of the other ranks, to y.
func (m *Sum) add(ctx context.Context, s kernels.Stream, y kernels.Tensor, add bool) error {
	rows := y.Rows
	own := m.own.RowRange(0, m.slices*rows)
	if m.group == nil {
		s.Reduce(y, own, m.slices, add)
		return nil
	}
	if m.slices > 1 {
		summed := m.summed.RowRange(0, rows)
		s.Reduce(summed, own, m.slices, false)
		own = summed
	}
	ranks := m.group.Size()
	if ranks > 2 && own.Bytes() >= sharedBytes && y.Stride == y.Cols {
		return m.addShared(ctx, s, y, own, add)
	}
	all := m.all.RowRange(0, ranks*rows)
	m.traffic.Gathered(ranks, own.Bytes())
	if m.team != nil {
		m.team.Sum(s, y, own, all, add)
		return nil
	}
	err := m.staging.Move(s, all, own, func(to, from []byte) error { return m.group.AllGather(ctx, from, to) })
	if err != nil {
		return err
	}
	s.Reduce(y, all, ranks, add)
	return nil
}

// sharedBytes is from where on the bytes matter more than the number of messages.
const sharedBytes = 256 << 10

// addShared is add for many rows: each rank gets the partial results of its share of the rows alone, adds them up, and
// all get what came of it. Two messages to every other rank instead of one, but about 2/ranks of the bytes; the same
// tree, so the same bits.
func (m *Sum) addShared(ctx context.Context, s kernels.Stream, y, own kernels.Tensor, add bool) error {
	ranks, me := m.group.Size(), m.group.Rank()
	share := func(r int) (from, to int) { return r * y.Rows / ranks, (r + 1) * y.Rows / ranks }
	from, to := share(me)
	all, mine := m.all.RowRange(0, ranks*(to-from)), y.RowRange(from, to)
	m.count(own, share, func(int) (int, int) { return from, to })
	m.traffic.Sent += own.Bytes() - m.toBytes[me]
	m.traffic.Messages += int64(ranks - 1)
	m.traffic.Gathered(ranks, mine.Bytes())
	if m.team != nil {
		rows, parts := make([]int, ranks), make([]kernels.Tensor, ranks)
		for r := range parts {
			from, to := share(r)
			rows[r], parts[r] = to-from, y.RowRange(from, to)
		}
		m.team.Scatter(s, all, own, rows)
		s.Reduce(mine, all, ranks, add)
		m.team.Gather(s, parts, mine)
		return nil
	}
	err := m.staging.Move(s, all, own, func(to, from []byte) error {
		return m.group.AllToAllV(ctx, from, m.toBytes, to, m.fromBytes)
	})
	if err != nil {
		return err
	}
	s.Reduce(mine, all, ranks, add)
	m.count(y, share, share)
	return m.staging.MoveCopy(s, y, mine, func(to, from []byte) error { return m.group.AllGatherV(ctx, from, to, m.toBytes) })
}

// count fills toBytes and fromBytes with the bytes of the rows of t that go to each rank and come from it.
func (m *Sum) count(t kernels.Tensor, sends, gets func(r int) (from, to int)) {
	m.toBytes, m.fromBytes = m.toBytes[:0], m.fromBytes[:0]
	bytes := func(from, to int) int64 { return t.RowRange(from, to).Bytes() }
	for r := range m.group.Size() {
		m.toBytes, m.fromBytes = append(m.toBytes, bytes(sends(r))), append(m.fromBytes, bytes(gets(r)))
	}
}

// Traffic returns the partial results that this rank has sent.
func (m *Sum) Traffic() Traffic {
	if m == nil {
		return Traffic{}
	}
	return m.traffic
}

// Free gives the memory back.
func (m *Sum) Free() {
	if m == nil {
		return
	}
	for _, t := range []*kernels.Tensor{&m.own, &m.all, &m.summed} {
		if !t.None() {
			t.Mem.Free()
			*t = kernels.Tensor{}
		}
	}
}
