package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/slurm"
)

// heedLimit has the job stop that long before its time is up, where that is known. Only rank 0 calls it: the others hear
// of the stop from it. The result ends the watch.
func heedLimit(ctx context.Context, stop *engine.Stop, before time.Duration) (end func(), err error) {
	deadline, err := slurm.Deadline()
	if err != nil {
		return nil, usageErrorf("%v", err)
	}
	if a, err := slurm.Here(); err != nil {
		slog.Warn(err.Error())
	} else if kind, _ := mpi.Launched(); kind == "" && a != nil && a.Tasks > 1 {
		slog.Warn("this is one rank alone, though its allocation is for more; start it with srun --mpi=pmix", "job", a.Job, "tasks", a.Tasks)
	}
	if before == 0 {
		return func() {}, nil
	}
	heed := func(end time.Time) {
		at := stop.Before(end, before)
		slog.Info("the time limit is heeded", "ends", end.Format(time.DateTime), "stop", at.Format(time.DateTime))
	}
	if !deadline.IsZero() {
		heed(deadline)
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := slurm.Follow(ctx, heed); err != nil {
			slog.Warn(err.Error())
		}
	}()
	return func() { cancel(); <-done }, nil
}
