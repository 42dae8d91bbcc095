package comm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

// OpenWindow opens a window on the device of each of a group's ranks and has them reach each other; all ranks call it, with a spec
// alike but for Rank, Ranks and Names, which it fills in. Where one cannot, why tells the reason on all ranks and there is no window
// on any.
func OpenWindow(ctx context.Context, group *Group, device kernels.Device, s kernels.WindowSpec) (w kernels.Window, why string, err error) {
	s.Rank, s.Ranks, s.Names = group.Rank(), group.Size(), group.names()
	var failed error
	d, able := device.(kernels.WindowDevice)
	if !able {
		failed = errors.New("a device whose memory others cannot write")
	} else {
		w, failed = d.NewWindow(s)
	}
	return join(ctx, group, w, failed)
}

// names of the ranks, for messages.
func (g *Group) names() (names []string) {
	for _, r := range g.Ranks {
		names = append(names, fmt.Sprintf("rank %d", r))
	}
	return names
}

// reachable is memory of a device that other ranks' kernels write.
type reachable interface {
	Ticket() []byte
	Join(tickets [][]byte) error
	Close() error
}

// join has the memory of all ranks reach each other, which each has taken or failed to. Where one cannot, all close theirs.
func join[T reachable](ctx context.Context, group *Group, mine T, failed error) (joined T, why string, err error) {
	why, err = firstFailure(ctx, group, failed)
	if why == "" && err == nil {
		ticket := mine.Ticket()
		all := make([]byte, len(ticket)*group.Size())
		if err = group.AllGather(ctx, ticket, all); err == nil {
			why, err = firstFailure(ctx, group, mine.Join(slices.Collect(slices.Chunk(all, len(ticket)))))
		}
	}
	if why == "" && err == nil {
		return mine, "", nil
	}
	if failed == nil {
		err = errors.Join(err, mine.Close())
	}
	return joined, why, err
}

// whyBytes is the room for a reason.
const whyBytes = 256

// firstFailure is the first of the ranks' errors, in words, on all of them; "": there is none.
func firstFailure(ctx context.Context, group mpi.World, failed error) (why string, err error) {
	mine, all := make([]byte, whyBytes), make([]byte, whyBytes*group.Size())
	if failed != nil {
		copy(mine[1:], fmt.Sprintf("%v", failed))
		mine[0] = 1
	}
	if err := group.AllGather(ctx, mine, all); err != nil {
		return "", err
	}
	for r := range group.Size() {
		if one := all[r*whyBytes : (r+1)*whyBytes]; one[0] != 0 {
			return text(one[1:]), nil
		}
	}
	return "", nil
}

// Reach tells whether the kernels of a group's devices can write each other's memory: rows go around once, for a try. All ranks
// call it; why is the reason where they cannot.
func Reach(ctx context.Context, group *Group, device kernels.Device, s kernels.WindowSpec) (why string, err error) {
	hardware := ""
	if d, able := device.(kernels.WindowDevice); able {
		hardware = d.Hardware()
	}
	if why, err := separate(ctx, group, hardware); why != "" || err != nil {
		return why, err
	}
	s.Experts, s.Rows, s.Cols, s.DType = 1, group.Size(), tryCols, kernels.F32
	w, why, err := OpenWindow(ctx, group, device, s)
	if why != "" || err != nil {
		return why, err
	}
	failed := try(ctx, group, device, w)
	why, err = firstFailure(ctx, group, failed)
	return why, errors.Join(err, w.Close())
}

const tryCols = 4

// try sends each rank a row of a number of its own, and has it come back.
func try(ctx context.Context, group mpi.World, d kernels.Device, w kernels.Window) (err error) {
	ranks, me := group.Size(), group.Rank()
	s, err := d.NewStream()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	tensor := func(t kernels.DType, rows, cols int, v func(i int) int) kernels.Tensor {
		x, failed := d.Alloc("a try of windows", t, rows, cols)
		if failed != nil {
			err = errors.Join(err, failed)
			return x
		}
		b := make([]byte, 0, 4*rows*cols)
		for i := range rows * cols {
			b = binary.LittleEndian.AppendUint32(b, uint32(v(i)))
		}
		s.Write(x, b)
		return x
	}
	free := func(all ...kernels.Tensor) {
		for _, t := range all {
			if !t.None() {
				t.Mem.Free()
			}
		}
	}
	number := func(from, to, col int) int { return 1<<20 + (from*ranks+to)*tryCols + col }
	same := func(i int) int { return i }
	x := tensor(kernels.F32, ranks, tryCols, func(i int) int { return number(me, i/tryCols, i%tryCols) })
	offsets, choices := tensor(kernels.I32, 1, ranks+1, same), tensor(kernels.I32, 1, ranks, same)
	arrived, index := tensor(kernels.I32, 1, 2, same), tensor(kernels.I32, 1, ranks, same)
	y := tensor(kernels.F32, ranks, tryCols, func(int) int { return 0 })
	defer func() { free(x, offsets, choices, arrived, index, y) }()
	if err != nil {
		return err
	}
	s.Select(y, x, choices, 1)
	if err := s.Sync(); err != nil {
		return err
	}
	if err := group.Barrier(ctx); err != nil { // what had to be made ready is, everywhere
		return err
	}
	w.Send(s, x, kernels.Routing{K: 1, Experts: ranks, Offsets: offsets, Choices: choices})
	s.Select(y, w.Arrive(s, arrived, index, ranks), index, 1)
	w.Return(s, y, arrived, index)
	got, back := make([]byte, y.Bytes()), make([]byte, y.Bytes())
	s.Read(got, y)
	s.Read(back, w.Collect(s).RowRange(0, ranks))
	if err := s.Sync(); err != nil {
		return err
	}
	for i := range ranks * tryCols {
		came, returned := binary.LittleEndian.Uint32(got[4*i:]), binary.LittleEndian.Uint32(back[4*i:])
		if int(came) != number(i/tryCols, me, i%tryCols) || int(returned) != number(me, i/tryCols, i%tryCols) {
			return errors.New("what one device writes is not what the other reads")
		}
	}
	return nil
}
