package comm_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
	"github.com/dsbatch/dsbatch/mpi"
)

// faulty is a device whose windows and boards fail in some way.
type faulty struct {
	*windowtest.Device
	open, join error
	lies       bool
	silent     bool
}

func (f *faulty) NewWindow(s kernels.WindowSpec) (kernels.Window, error) {
	if f.open != nil {
		return nil, f.open
	}
	w, err := f.Device.NewWindow(s)
	return faultyWindow{w, f}, err
}

type faultyWindow struct {
	kernels.Window
	*faulty
}

func (w faultyWindow) Join(tickets [][]byte) error {
	return errors.Join(w.join, w.Window.Join(tickets))
}

func (w faultyWindow) Send(s kernels.Stream, x kernels.Tensor, r kernels.Routing) {
	switch {
	case w.silent:
		return
	case w.lies:
		s.Add(x, x)
	}
	w.Window.Send(s, x, r)
}

func (w faultyWindow) Arrive(s kernels.Stream, offsets, index kernels.Tensor, rows int) kernels.Tensor {
	if w.silent {
		return kernels.Tensor{}
	}
	return w.Window.Arrive(s, offsets, index, rows)
}

func (f *faulty) NewBoard(s kernels.BoardSpec) (kernels.Board, error) {
	if f.open != nil {
		return nil, f.open
	}
	b, err := f.Device.NewBoard(s)
	return faultyBoard{b, f}, err
}

type faultyBoard struct {
	kernels.Board
	*faulty
}

func (b faultyBoard) Join(tickets [][]byte) error { return errors.Join(b.join, b.Board.Join(tickets)) }

func (b faultyBoard) Gather(s kernels.Stream, parts []kernels.Tensor, own kernels.Tensor) {
	switch {
	case b.silent:
		return
	case b.lies:
		s.Add(own, own)
	}
	b.Board.Gather(s, parts, own)
}

// TestReach: where the kernels of a group's devices cannot write each other's memory, all ranks are told why, and have neither windows nor
// boards.
func TestReach(t *testing.T) {
	for name, c := range map[string]struct {
		change func(rank int, f *faulty) kernels.Device
		why    string
	}{
		"all can":    {func(_ int, f *faulty) kernels.Device { return f }, ""},
		"one cannot": {func(rank int, f *faulty) kernels.Device { return [3]kernels.Device{f, f, f.Device.Device}[rank] }, "cannot reach others"},
		"no memory": {func(rank int, f *faulty) kernels.Device {
			f.open = [3]error{1: errors.New("none left")}[rank]
			return f
		}, "none left"},
		"no way":         {func(rank int, f *faulty) kernels.Device { f.join = [3]error{0: errors.New("no peer")}[rank]; return f }, "no peer"},
		"other bytes":    {func(rank int, f *faulty) kernels.Device { f.lies = rank == 2; return f }, "not what the other reads"},
		"one that hangs": {func(rank int, f *faulty) kernels.Device { f.silent = rank == 1; return f }, "rank 11 took no part"},
		"two share one": {func(rank int, f *faulty) kernels.Device {
			return windowtest.NewHouse().NewDevice(f.Device.Device, fmt.Sprint(rank/2), "")
		}, "share 0"},
	} {
		house := windowtest.NewHouse()
		err := mpi.Run(3, func(w mpi.World) error {
			host, err := cpu.New(cpu.Options{Threads: 1})
			if err != nil {
				return err
			}
			d := c.change(w.Rank(), &faulty{Device: house.NewDevice(host, fmt.Sprint("GPU ", w.Rank()), "")})
			patience := 30 * time.Second
			if name == "one that hangs" {
				patience = 100 * time.Millisecond
			}
			why, err := comm.Reach(t.Context(), &comm.Group{World: w, Ranks: []int{10, 11, 12}}, d, kernels.WindowSpec{Patience: patience})
			if err != nil || (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
				t.Errorf("%s: rank %d: %q, %v, want %q", name, w.Rank(), why, err, c.why)
			}
			team, why, err := comm.OpenTeam(t.Context(), &comm.Group{World: w, Ranks: []int{10, 11, 12}}, d,
				kernels.BoardSpec{Room: 1 << 10, DType: kernels.F32, Patience: patience})
			if err != nil || (why == "") != (c.why == "") || !strings.Contains(why, c.why) || (team == nil) != (why != "") {
				t.Errorf("%s: boards of rank %d: %v, %q, %v, want %q", name, w.Rank(), team, why, err, c.why)
			}
			if team != nil {
				return team.Close()
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
