package cuda

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/dsbatch/dsbatch/kernels"
)

// ErrBLAS: cuBLASLt, which multiplies dense weights faster than our own kernels, is not found.
var ErrBLAS = errors.New("no cuBLASLt (CUDA's library of matrix products)")

// blasVariable names an environment variable that holds the path of cuBLASLt's library; noBLAS there: our own kernels make all
// products.
const (
	blasVariable = "DSBATCH_CUBLASLT"
	noBLAS       = "none"
)

// blasNames are the libraries to try, in order.
func blasNames() []string {
	if n := os.Getenv(blasVariable); n != "" {
		return []string{n}
	}
	names := []string{"libcublasLt.so.13", "libcublasLt.so.12"}
	if n := os.Getenv(compilerVariable); n != "" { // pip's packages of CUDA 13 share a folder
		names = append(names, filepath.Join(filepath.Dir(n), names[0]))
	}
	for _, home := range []string{os.Getenv("CUDA_HOME"), os.Getenv("CUDA_PATH"), "/usr/local/cuda"} {
		if home != "" {
			names = append(names, filepath.Join(home, "lib64", "libcublasLt.so"))
		}
	}
	return names
}

// describeBLAS is a line for people.
func describeBLAS() string {
	if os.Getenv(blasVariable) == noBLAS {
		return fmt.Sprintf("cuBLASLt: not used, as %s=%s says", blasVariable, noBLAS)
	}
	if err := openBLAS(blasNames()); err != nil {
		return fmt.Sprintf("cuBLASLt: %v; dsbatch's own kernels multiply dense weights, slower; install CUDA 12 or 13, or `pip install nvidia-cublas` and point %s at its libcublasLt.so.13", err, blasVariable)
	}
	v := blasVersion()
	return fmt.Sprintf("cuBLASLt: %d.%d.%d", v/10000, v/100%100, v%100)
}

// Multiplier makes products of one matrix of 16-bit weights. All give the same bits.
type Multiplier int

// The multipliers.
const (
	Faster   Multiplier = iota // of the two that follow, as measured, the one that is faster
	Own                        // our kernels
	CuBLASLt                   // where it has our bits
)

func (m Multiplier) String() string { return [...]string{"the faster one", "own", "cuBLASLt"}[m] }

// blas is cuBLASLt on one GPU: the library, and what a trial of each shape has shown. Trials run beside the load; until one is
// done, our own kernels multiply.
type blas struct {
	dev   *Device
	off   bool
	room  int // bytes that an algorithm may write besides its results
	least int // elements of weights that are worth a trial

	loading sync.Once
	loaded  chan struct{} // closed when the library is in memory, or openErr is there
	opening sync.Once
	library handle
	openErr error

	working sync.WaitGroup

	mu      sync.Mutex
	err     error   // why no more shapes are tried
	asked   []shape // in turn; the first tried of them were
	tried   int
	busy    bool // a goroutine tries them
	closed  bool
	held    int64 // bytes of the GPU's memory that a trial has taken for a while
	choices map[shape][]choice
	checked map[call]bool
}

// shape is what a trial is about: products of one matrix [out, in] of 16-bit weights.
type shape struct {
	w, y    kernels.DType
	out, in int
}

// call is a product as cuBLASLt is asked whether an algorithm of its can do it.
type call struct {
	shape
	choice, rows     int
	xStride, yStride int64
}

func newBLAS(d *Device) (*blas, error) {
	b := &blas{dev: d, room: 1 << 20, least: 1 << 19, loaded: make(chan struct{}), choices: map[shape][]choice{}, checked: map[call]bool{}}
	path := os.Getenv(blasVariable)
	b.off = path == noBLAS || d.card.arch() != "sm_90a" // on no other card were its bits looked at
	if path != "" && path != noBLAS {
		if err := openBLAS(blasNames()); err != nil {
			return nil, fmt.Errorf("%s=%s: %w; give the path of libcublasLt.so.13 or .12, or `none`", blasVariable, path, err)
		}
	}
	return b, nil
}

// begin loads the library into memory, which takes a tenth of a second and more, in a goroutine.
func (b *blas) begin() {
	if b.off {
		return
	}
	b.loading.Do(func() {
		go func() {
			defer close(b.loaded)
			b.openErr = openBLAS(blasNames())
		}()
	})
}

// open waits until the library is there; false where it is not.
func (b *blas) open() bool {
	if b.off {
		return false
	}
	b.begin()
	<-b.loaded
	b.opening.Do(func() {
		if b.openErr == nil {
			b.library, b.openErr = blasCreate(b.dev.ctx)
		}
	})
	return b.openErr == nil
}

// ask begins a trial of products of w, unless that was done.
func (b *blas) ask(w *weights) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, y := range []kernels.DType{w.dtype, kernels.F32} {
		if k := (shape{w.dtype, y, w.out, w.in}); !slices.Contains(b.asked, k) {
			b.asked = append(b.asked, k)
		}
	}
	if b.tried < len(b.asked) && !b.busy && b.err == nil {
		b.busy = true
		b.working.Go(b.work)
	}
}

// work tries what was asked for.
func (b *blas) work() {
	var err error
	for {
		b.mu.Lock()
		if b.err == nil {
			b.err = err
		}
		if b.err != nil || b.closed || b.tried == len(b.asked) {
			b.busy = false
			b.mu.Unlock()
			return
		}
		k := b.asked[b.tried]
		b.tried++
		b.mu.Unlock()
		var choices []choice
		choices, err = b.known(k)
		if errors.Is(err, ErrMemory) { // of one shape: our own kernels go on multiplying it
			err = nil
		}
		b.mu.Lock()
		b.choices[k] = choices
		b.mu.Unlock()
	}
}

// trials are what those of all devices of this process have shown: ranks that share a GPU would else try the same, and disturb
// each other.
var trials = struct {
	sync.Mutex
	choices map[card]map[shape][]choice
}{choices: map[card]map[shape][]choice{}}

// known is what a trial shows, of this device or of another of this card before it.
func (b *blas) known(k shape) ([]choice, error) {
	trials.Lock()
	defer trials.Unlock()
	of := trials.choices[b.dev.card]
	if choices, is := of[k]; is {
		return choices, nil
	}
	choices, err := b.try(k)
	if err != nil {
		return nil, err
	}
	if of == nil {
		of = map[shape][]choice{}
		trials.choices[b.dev.card] = of
	}
	of[k] = choices
	return choices, nil
}

// settle waits for the trials under way: the memory that they take is free again.
func (b *blas) settle() { b.working.Wait() }

// close ends the trials.
func (b *blas) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.settle()
}

func (b *blas) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// take and give are memory for a while, which Device.Memory counts as free.
func (b *blas) take(size int64) (at handle, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, err = memAlloc(b.dev.ctx, size); err == nil {
		b.held += size
	}
	return at, err
}

func (b *blas) give(at handle, size int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= size
	return memFree(b.dev.ctx, at)
}

// memory is the free and the total memory of the GPU, as if no trial had taken any.
func (b *blas) memory() (free, total int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	free, total, err = memoryInfo(b.dev.ctx)
	return free + b.held, total, err
}
