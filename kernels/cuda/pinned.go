package cuda

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// pinned is memory of the host that a GPU copies from while the host does something else: large pages of the system's, which
// several goroutines have it give, and which are then pinned. The driver's own takes pages of 4 KiB one after the other, three
// times as long and more.
type pinned struct {
	ctx    handle
	bytes  []byte // as asked for
	mapped []byte // nil: the driver's
}

const (
	largePage = 2 << 20
	givers    = 8 // goroutines that have pages given
)

// pin takes size bytes, zeroed. Where the system or the driver does not want it so, they are the driver's own.
func pin(ctx handle, size int64) (*pinned, error) {
	if size < largePage {
		return pinByDriver(ctx, size)
	}
	whole := (size + largePage - 1) / largePage * largePage
	m, err := unix.Mmap(-1, 0, int(whole), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHostMemory, err)
	}
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE) // a hint: kernels without huge pages refuse it
	var giving sync.WaitGroup
	for i := range int64(givers) {
		from, to := whole/largePage*i/givers*largePage, whole/largePage*(i+1)/givers*largePage
		giving.Go(func() { give(m[from:to]) })
	}
	giving.Wait()
	if err := hostRegister(ctx, m); err != nil {
		_ = unix.Munmap(m)
		return pinByDriver(ctx, size)
	}
	return &pinned{ctx, m[:size], m}, nil
}

var errHostMemory = errors.New("the system gives no memory")

// give has the system give pages now. Before Linux 5.14 pinning does.
func give(pages []byte) {
	if len(pages) > 0 {
		_ = unix.Madvise(pages, unix.MADV_POPULATE_WRITE)
	}
}

func pinByDriver(ctx handle, size int64) (*pinned, error) {
	b, _, err := hostAlloc(ctx, max(size, 1))
	return &pinned{ctx: ctx, bytes: b}, err
}

// free gives the memory back, which nothing uses any more.
func (p *pinned) free() error {
	if p.mapped == nil {
		return hostFree(p.ctx, p.bytes)
	}
	err := errors.Join(hostUnregister(p.ctx, p.mapped), unix.Munmap(p.mapped))
	p.bytes, p.mapped = nil, nil
	return err
}
