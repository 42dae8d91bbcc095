package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// windowPatience is how long a GPU waits for another one's rows, unless --rank-timeout is less: hosts agree on each step
// before they begin it.
const windowPatience = 20 * time.Second

// suitsWindow tells whether rows of a group's experts can go through windows: whole experts, each once and in order.
func (e *Engine) suitsWindow(x *comm.ExpertGroups) bool {
	return e.suitsDevices(x) && x.ES.Size() == 1 && e.job.ExpertPlacement == ""
}

// reach finds the groups of ranks whose GPUs can write each other's memory. All ranks call it.
func (e *Engine) reach(ctx context.Context) error {
	e.windows = map[*comm.Group]kernels.Window{}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		if _, known := e.windows[x.EP]; known || !e.suitsWindow(x) {
			continue
		}
		why, err := comm.Reach(ctx, x.EP, e.device, kernels.WindowSpec{Patience: e.patience()})
		if err != nil {
			return err
		}
		if why == "" {
			e.windows[x.EP] = nil // opened with the rest of the memory
		} else if x.EP.Rank() == 0 {
			slog.Info("the GPUs' kernels cannot send rows of experts to each other, so the hosts take part", "because", why)
		}
	}
	return nil
}

func (e *Engine) patience() time.Duration {
	return min(windowPatience, cmp.Or(e.job.RankTimeout, windowPatience))
}

// windowed tells whether rows of a group's experts go through windows.
func (e *Engine) windowed(x *comm.ExpertGroups) bool {
	_, is := e.windows[x.EP]
	return is && e.suitsWindow(x)
}

// windowSpec is the window of an ep group for steps of so many tokens on each rank, but for what only its opening tells.
func (e *Engine) windowSpec(group *comm.Group, tokens int) kernels.WindowSpec {
	s := kernels.WindowSpec{Ranks: group.Size(), Cols: e.shape.Hidden, DType: e.device.Activations(e.dtype), Patience: e.patience()}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		if x.EP != group || !e.windowed(x) {
			continue
		}
		s.Experts = max(s.Experts, x.Experts/x.EP.Size())
		for _, m := range e.shape.MoE {
			if m.Gate.Experts == x.Experts {
				s.Rows = max(s.Rows, tokens*m.Gate.K)
			}
		}
	}
	return s
}

// arrivals bounds the ranks and the experts of a layer here of what comes through windows.
func (e *Engine) arrivals() (ranks, experts int) {
	for group := range e.windows {
		s := e.windowSpec(group, 0)
		ranks, experts = max(ranks, s.Ranks), max(experts, s.Experts)
	}
	return ranks, experts
}

// windowBytes is the memory of windows, and of what comes through them, for steps of so many tokens on each rank.
func (e *Engine) windowBytes(tokens int) (bytes int64) {
	if len(e.windows) == 0 {
		return 0
	}
	for group := range e.windows {
		bytes += e.windowSpec(group, tokens).Bytes()
	}
	ranks, experts := e.arrivals()
	return bytes + e.model.ArrivalBytes(tokens, ranks, experts)
}

// fit plans the memory. Where a rank has too little for windows, no rank has one. All ranks call it.
func (e *Engine) fit(ctx context.Context) error {
	_, err := e.plan()
	if e.foreseen && err != nil && len(e.windows) > 0 {
		e.windows = nil
		_, err = e.plan()
	}
	if !e.onGPU() || e.foreseen || len(e.layout.Experts) == 0 {
		return err
	}
	const has, lacks = 0, 1
	mine := [2]int64{}
	if len(e.windows) > 0 {
		mine[has] = 1
		if err != nil {
			mine[lacks] = 1
		}
	}
	v, agreed := comm.Agree(ctx, e.world, mine[:]...)
	if agreed != nil || !v.Any(lacks) {
		return errors.Join(err, agreed)
	}
	if err != nil {
		slog.Info("a GPU has too little memory for windows, so the hosts take part in sending rows of experts", "rank", e.world.Rank(), "because", err)
	}
	e.windows = nil
	if met := e.meetByNCCL(ctx); met != nil {
		return met
	}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		if p := e.peers[x.EP]; p != nil && e.suitsDevices(x) && e.exchanges[x.Experts] != nil {
			e.exchanges[x.Experts].Rows = comm.NewDeviceAllToAll(x.EP, p)
		}
	}
	_, err = e.plan()
	return err
}

// openWindows opens the windows of this rank's groups. All ranks call it.
func (e *Engine) openWindows(ctx context.Context) error {
	opened := map[*comm.Group]bool{}
	for i := range e.groups.Experts {
		x := &e.groups.Experts[i]
		if !e.windowed(x) {
			continue
		}
		if !opened[x.EP] {
			w, why, err := comm.OpenWindow(ctx, x.EP, e.device, e.windowSpec(x.EP, e.size.tokens))
			if err == nil && why != "" {
				err = errors.New(why)
			}
			if err != nil {
				return err
			}
			e.windows[x.EP], opened[x.EP] = w, true
		}
		e.exchanges[x.Experts].Window = e.windows[x.EP]
	}
	if len(opened) == 0 {
		return nil
	}
	if e.world.Rank() == 0 {
		slog.Info("the GPUs' own kernels send rows of experts to each other; no host waits inside a step")
	}
	return e.steps.workspace.Arrive(e.arrivals())
}

// throughWindow tells whether rows of layers with so many experts go through windows.
func (e *Engine) throughWindow(experts int) bool {
	for i := range e.groups.Experts {
		if x := &e.groups.Experts[i]; x.Experts == experts && e.windowed(x) {
			return true
		}
	}
	return false
}
