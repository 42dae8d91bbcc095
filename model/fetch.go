package model

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
)

const (
	fetchers   = 4         // tensors read at once: storage is fastest with several requests under way
	fetchAhead = 256 << 20 // bytes that may be read before they are asked for, one tensor at least
)

// fetcher reads tensors in a known order, ahead of the one who asks for them, so that storage and packing work at the
// same time.
type fetcher struct {
	tensors []ckpt.Tensor
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu     sync.Mutex
	change sync.Cond
	read   []fetched
	next   int   // first tensor that no fetcher has begun
	asked  int   // tensors handed out
	ahead  int64 // bytes of tensors begun and not handed out
}

type fetched struct {
	data   []byte
	err    error
	broken *kernels.Panic
	done   bool
}

// readTensor reads one. A panic in it is for whoever takes the tensor.
func readTensor(t ckpt.Tensor) (got fetched) {
	got.done = true
	defer func() {
		if v := recover(); v != nil {
			got.broken = &kernels.Panic{Value: v, Stack: debug.Stack()}
		}
	}()
	got.data, got.err = t.Bytes()
	return got
}

// fetch begins to read tensors. Close it.
func fetch(ctx context.Context, tensors []ckpt.Tensor) *fetcher {
	f := &fetcher{tensors: tensors, read: make([]fetched, len(tensors))}
	f.change.L = &f.mu
	ctx, f.stop = context.WithCancel(ctx)
	for range min(fetchers, len(tensors)) {
		f.done.Go(func() { f.work(ctx) })
	}
	context.AfterFunc(ctx, func() {
		f.mu.Lock() // nobody is between his look at ctx and his wait
		defer f.mu.Unlock()
		f.change.Broadcast()
	})
	return f
}

func (f *fetcher) work(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for f.next < len(f.tensors) && f.ahead > 0 && f.ahead+f.tensors[f.next].Size() > fetchAhead && ctx.Err() == nil {
			f.change.Wait()
		}
		if f.next == len(f.tensors) || ctx.Err() != nil {
			return
		}
		i := f.next
		f.next++
		f.ahead += f.tensors[i].Size()
		f.mu.Unlock()
		got := readTensor(f.tensors[i])
		f.mu.Lock()
		f.read[i] = got
		f.change.Broadcast()
	}
}

// take returns the next tensor and its bytes, in the order in which they were named.
func (f *fetcher) take(ctx context.Context) (ckpt.Tensor, []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.asked
	for !f.read[i].done && ctx.Err() == nil {
		f.change.Wait()
	}
	if err := ctx.Err(); err != nil {
		return ckpt.Tensor{}, nil, err
	}
	f.asked++
	f.ahead -= f.tensors[i].Size()
	f.change.Broadcast()
	got, t := f.read[i], f.tensors[i]
	f.read[i].data = nil
	if got.broken != nil {
		panic(got.broken)
	}
	if got.err != nil {
		return t, nil, fmt.Errorf("tensor %s: %w", t.Name, got.err)
	}
	return t, got.data, nil
}

// close ends reading; what was read and not taken is dropped.
func (f *fetcher) close() {
	f.stop()
	f.done.Wait()
}
