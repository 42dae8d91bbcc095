package moe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/mpi"
)

// travelling is an exchange whose buffers hold nonsense while rows travel: what a layer reads of them before Finish is
// not a number, what it writes is gone or sent.
type travelling struct {
	comm.AllToAll
	patience         int  // pieces of spare work that are done in each wait
	late             bool // the rows are those that lie in send at Finish, not those at the begin
	begin            func(ctx context.Context, recv, send []byte, rowBytes int) error
	recv, send, rows []byte // what send held
	rowBytes         int
	asked            int
}

func (v *travelling) Dispatch(_ context.Context, recv, send []byte, rowBytes int) error {
	return v.depart(v.AllToAll.Dispatch, recv, send, rowBytes)
}

func (v *travelling) Combine(_ context.Context, recv, send []byte, rowBytes int) error {
	return v.depart(v.AllToAll.Combine, recv, send, rowBytes)
}

func (v *travelling) depart(begin func(ctx context.Context, recv, send []byte, rowBytes int) error, recv, send []byte, rowBytes int) error {
	v.begin, v.recv, v.send, v.rowBytes, v.rows = begin, recv, send, rowBytes, slices.Clone(send)
	v.poison(recv)
	if !v.late {
		v.poison(send)
	}
	return nil
}

func (v *travelling) poison(b []byte) {
	for i := range b {
		b[i] = 0xFF
	}
}

// Ready is true once a wait's share of spare work is done.
func (v *travelling) Ready() bool {
	v.asked++
	return v.asked > v.patience
}

func (v *travelling) Counted(ctx context.Context) ([][]int, error) {
	v.asked = 0
	return v.AllToAll.Counted(ctx)
}

func (v *travelling) Finish(ctx context.Context) error {
	if len(bytes.TrimLeft(v.recv, "\xff")) > 0 {
		return errors.New("somebody has written where rows are to arrive")
	}
	if !v.late {
		copy(v.send, v.rows)
	} else if !bytes.Equal(v.send, v.rows) {
		return errors.New("somebody has written over rows that leave")
	}
	v.asked = 0
	if err := v.begin(ctx, v.recv, v.send, v.rowBytes); err != nil {
		return err
	}
	return v.AllToAll.Finish(ctx)
}

// TestPanicWhileRowsTravel: a rank that breaks in what it computes while it waits is told of with the section that it broke in,
// not with the one that it waited in.
func TestPanicWhileRowsTravel(t *testing.T) {
	layers, rng := pyramid(false)[:1], rand.New(rand.NewPCG(3, 6))
	x := random(rng, 61, layers[0].hidden(), 1)
	parts := cut(x, []int{30, 31})
	for broken := range 3 { // sections of experts that rank 1 comes through
		var last string
		err := mpi.Run(2, func(world mpi.World) (err error) {
			r, m := world.Rank(), newMachine(t, 1)
			w, in := m.workspace(61, layers...), m.tensor(parts[r])
			l := m.layer(layers[0], &moe.Exchange{Rank: r, Ranks: 2, Rows: &travelling{AllToAll: comm.NewFlat(world), patience: 3}, Apart: 1})
			out := m.tensor(matrix{parts[r].rows, x.cols, make([]float32, len(parts[r].v))})
			w.Begin(0)
			if r == 1 {
				left := broken
				w.Enter = func(section string) {
					if last = section; section == moe.Experts {
						if left--; left < 0 {
							panic("broken")
						}
					}
				}
				defer func() {
					if p := recover(); p != nil {
						err = fmt.Errorf("%v", p)
					}
				}()
			}
			return l.Forward(t.Context(), m.stream, out, in, w)
		})
		if err == nil || last != moe.Experts {
			t.Errorf("a rank that broke in section %d of experts is said to be in %q (%v)", broken, last, err)
		}
	}
}

// TestBranchLeavesTravellingRowsAlone: a residual layer computes its dense branch while rows travel, and any layer its
// experts for its own tokens, as many pieces of these in each wait as it lasts, differently on each rank, and neither reads nor writes them: its results have the bits that they have on one rank without an exchange.
func TestBranchLeavesTravellingRowsAlone(t *testing.T) {
	layers, rng := pyramid(false), rand.New(rand.NewPCG(3, 5))
	x := random(rng, 61, layers[0].hidden(), 1)
	m := newMachine(t, 1)
	var whole []*moe.Layer
	for _, d := range layers {
		whole = append(whole, m.layer(d, nil))
	}
	want := m.forward(m.workspace(x.rows, layers...), x, whole...)
	for _, tokens := range [][]int{{61}, {30, 31}, {0, 61}, {20, 0, 37, 4}} {
		for n := range 16 {
			late, apart, patience := n%2 > 0, n/2%2, n/4
			parts, wants := cut(x, tokens), cut(want, tokens)
			err := mpi.Run(len(tokens), func(world mpi.World) error {
				r, m := world.Rank(), newMachine(t, 1)
				w, in := m.workspace(61, layers...), m.tensor(parts[r])
				w.Begin(0)
				for _, d := range layers {
					group, err := world.Split(t.Context(), 0, r)
					if err != nil {
						return err
					}
					l := m.layer(d, &moe.Exchange{Rank: r, Ranks: len(tokens), Rows: &travelling{AllToAll: comm.NewFlat(group), late: late, patience: (patience + r) % 4}, Apart: apart})
					out := m.tensor(matrix{parts[r].rows, x.cols, make([]float32, len(parts[r].v))})
					if err := l.Forward(t.Context(), m.stream, out, in, w); err != nil {
						return err
					}
					in = out
				}
				if !sameBits(m.read(in).v, wants[r].v) {
					return fmt.Errorf("rank %d differs from one rank alone", r)
				}
				return nil
			})
			if err != nil {
				t.Errorf("tokens %v, late %t, apart from %d rows, %d pieces a wait: %v", tokens, late, apart, patience, err)
			}
		}
	}
}

// TestBranchThatFailsFinishesTheExchange: rows that travel are waited for whatever happens meanwhile, since other ranks
// read them.
func TestBranchThatFailsFinishesTheExchange(t *testing.T) {
	d, m := pyramid(false)[0], newMachine(t, 1)
	x := m.tensor(random(rand.New(rand.NewPCG(1, 1)), 9, 12, 1))
	way := &counted{AllToAll: comm.NewFlat(mpi.Alone())}
	l := m.layer(d, &moe.Exchange{Ranks: 1, Rows: way})
	down := l.Residual.Down
	for n, breaks := range []func(){
		func() { l.Residual.Down = nil },                   // panics
		func() { l.Residual.Down = down; way.full = true }, // a Dispatch that fails has begun nothing
	} {
		breaks()
		w := m.workspace(9, d)
		w.Begin(0)
		err := func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("%v", p)
				}
			}()
			return l.Forward(t.Context(), m.stream, x, x, w)
		}()
		if err == nil || way.begun != way.finished {
			t.Errorf("case %d: %v, %d begun, %d finished", n, err, way.begun, way.finished)
		}
	}
}

// counted counts what begins and what finishes.
type counted struct {
	comm.AllToAll
	full            bool
	begun, finished int
}

func (c *counted) Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error {
	if c.full {
		return errBroken
	}
	c.begun++
	return c.AllToAll.Dispatch(ctx, recv, send, rowBytes)
}

func (c *counted) Combine(ctx context.Context, recv, send []byte, rowBytes int) error {
	c.begun++
	return c.AllToAll.Combine(ctx, recv, send, rowBytes)
}

func (c *counted) Finish(ctx context.Context) error {
	c.finished++
	return c.AllToAll.Finish(ctx)
}
