package comm

import (
	"context"
	"errors"

	"github.com/dsbatch/dsbatch/mpi"
)

// watchedWorld tells the watcher of each call in which this rank waits for others.
type watchedWorld struct {
	mpi.World
	watcher *Watcher
}

func (w *watchedWorld) waits(op string, call func() error) error {
	w.watcher.enter(op)
	defer w.watcher.leave()
	return call()
}

func (w *watchedWorld) Barrier(ctx context.Context) error {
	return w.waits("barrier", func() error { return w.World.Barrier(ctx) })
}

func (w *watchedWorld) Bcast(ctx context.Context, root int, b []byte) error {
	return w.waits("broadcast", func() error { return w.World.Bcast(ctx, root, b) })
}

func (w *watchedWorld) AllGather(ctx context.Context, send, recv []byte) error {
	return w.waits("all-gather", func() error { return w.World.AllGather(ctx, send, recv) })
}

func (w *watchedWorld) AllGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	return w.waits("all-gather", func() error { return w.World.AllGatherV(ctx, send, recv, recvCounts) })
}

func (w *watchedWorld) AllReduceInt64(ctx context.Context, op mpi.Op, v []int64) error {
	return w.waits("all-reduce", func() error { return w.World.AllReduceInt64(ctx, op, v) })
}

func (w *watchedWorld) AllToAll(ctx context.Context, send, recv []byte) error {
	return w.waits("all-to-all", func() error { return w.World.AllToAll(ctx, send, recv) })
}

func (w *watchedWorld) AllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
	return w.waits("all-to-all", func() error { return w.World.AllToAllV(ctx, send, sendCounts, recv, recvCounts) })
}

// EndAllToAllV is where the rank waits for what BeginAllToAllV, which waits for nobody, has begun.
func (w *watchedWorld) EndAllToAllV(ctx context.Context) error {
	return w.waits("all-to-all", func() error { return w.World.EndAllToAllV(ctx) })
}

func (w *watchedWorld) Send(ctx context.Context, to, tag int, b []byte) error {
	return w.waits("send", func() error { return w.World.Send(ctx, to, tag, b) })
}

func (w *watchedWorld) Recv(ctx context.Context, from, tag int, b []byte) error {
	return w.waits("receive", func() error { return w.World.Recv(ctx, from, tag, b) })
}

func (w *watchedWorld) Split(ctx context.Context, color, key int) (mpi.World, error) {
	return w.born("split", func() (mpi.World, error) { return w.World.Split(ctx, color, key) })
}

func (w *watchedWorld) Node(ctx context.Context) (mpi.World, error) {
	return w.born("split by node", func() (mpi.World, error) { return w.World.Node(ctx) })
}

func (w *watchedWorld) born(op string, call func() (mpi.World, error)) (child mpi.World, err error) {
	err = w.waits(op, func() (err error) { child, err = call(); return err })
	if err != nil || child == nil {
		return nil, err
	}
	return &watchedWorld{World: child, watcher: w.watcher}, nil
}

// Close of the first world waits for the predecessor's last beat, which the library must be alive for.
func (w *watchedWorld) Close() error {
	return w.waits("close", func() error {
		if w != w.watcher.world {
			return w.World.Close()
		}
		return errors.Join(w.watcher.Leave(), w.World.Close())
	})
}
