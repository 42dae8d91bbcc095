// Package cuda runs the op set of package kernels on an NVIDIA GPU of compute capability 8.0 or later.
//
// Nothing of NVIDIA's is needed to build: the driver, NVRTC and cuBLASLt are opened at run time (driver.c, nvrtc.c, blas.c). The kernels are the
// .cu files of this folder, embedded, compiled at first use for the card found and cached (compile.go). A Stream
// records its ops and hands them to the driver in one call when somebody waits; a record that comes again byte for
// byte is replayed as a CUDA graph (queue.go). All counts of a routing stay on the device.
package cuda

import (
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// Errors that a caller tells apart with errors.Is.
var (
	// ErrDriver: there is no usable NVIDIA driver here, or this build cannot open it.
	ErrDriver = errors.New("no NVIDIA driver")
	// ErrCompiler: NVRTC, which compiles the kernels, is not found.
	ErrCompiler = errors.New("no NVRTC (CUDA's run-time compiler)")
	// ErrMemory: the GPU's memory does not suffice.
	ErrMemory = errors.New("out of GPU memory")
)

// handle is one of the driver's: a context, stream, module, function, event, graph or device address.
type handle uint64

// callError is a call that the driver refused.
type callError struct {
	call    string
	code    int
	meaning string
}

func (e *callError) Error() string { return e.call + ": " + e.meaning }

const codeOutOfMemory = 2

func (e *callError) Is(target error) bool { return target == ErrMemory && e.code == codeOutOfMemory }

// card is what the driver says of a GPU.
type card struct {
	name         string
	major, minor int
	processors   int
	l2           int // bytes
	shared       int // most bytes of shared memory of a block
	memory       int64
}

// arch is the target that kernels are compiled for: the card's own, with its special instructions on Hopper.
func (c card) arch() string {
	if c.major == 9 && c.minor == 0 {
		return "sm_90a"
	}
	return fmt.Sprintf("sm_%d%d", c.major, c.minor)
}

// Options of New. The zero value takes the first GPU that is visible.
type Options struct {
	Ordinal  int    // which of the visible GPUs (CUDA_VISIBLE_DEVICES counts), from 0
	CacheDir string // of compiled kernels; "": $XDG_CACHE_HOME/dsbatch/cuda or ~/.cache/dsbatch/cuda
	NoGraphs bool   // launch every kernel by itself, even where a step repeats an earlier one
}

// Device is one GPU. It implements kernels.Device.
type Device struct {
	ordinal    int
	card       card
	ctx        handle
	memory     *pool
	uploads    *uploads
	programs   *programs
	fault      *faultWord
	graphs     bool
	trace      *trace                    // nil: none
	peaks      map[kernels.DType]float64 // as measured; of none: bytes
	blas       *blas
	multiplier Multiplier
	forced     struct { // in tests
		tiling string // of 16-bit weights, whatever suits; "": what suits
		width  int    // of the tiles of one that stays; 0: what suits
		latent int    // rows of a tile of latent attention; 0: what suits
		packed bool   // weights that could lie in rows are packed in pieces
	}
}

var _ kernels.CompilingDevice = (*Device)(nil)

// New opens a GPU. Kernels are compiled, or taken from the cache, when an op first needs them.
func New(o Options) (*Device, error) {
	n, err := Count()
	if err != nil {
		return nil, err
	}
	if o.Ordinal < 0 || o.Ordinal >= n {
		return nil, fmt.Errorf("cuda: GPU %d of %d visible ones; give 0 to %d, or look at CUDA_VISIBLE_DEVICES", o.Ordinal, n, n-1)
	}
	c, err := describeDevice(o.Ordinal)
	if err != nil {
		return nil, err
	}
	if c.major < 8 {
		return nil, fmt.Errorf("cuda:%d %s: compute capability %d.%d; dsbatch needs 8.0 (A100) or later", o.Ordinal, c.name, c.major, c.minor)
	}
	d := &Device{ordinal: o.Ordinal, card: c, graphs: !o.NoGraphs, peaks: map[kernels.DType]float64{}}
	if d.ctx, err = retainContext(o.Ordinal); err != nil {
		return nil, fmt.Errorf("cuda:%d %s: %w", o.Ordinal, c.name, err)
	}
	d.uploads = newUploads(d)
	d.memory, d.trace = &pool{ctx: d.ctx, settle: d.uploads.settle}, newTrace(d.ctx)
	if d.fault, err = newFaultWord(d.ctx); err == nil {
		d.programs, err = newPrograms(d.ctx, c, o.CacheDir)
	}
	if err == nil {
		if d.blas, err = newBLAS(d); err == nil {
			d.memory.yield = d.blas.settle
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Count is the number of GPUs that this process may use; an error, which wraps ErrDriver, where there is no driver.
func Count() (int, error) {
	if err := openDriver(); err != nil {
		return 0, err
	}
	return deviceCount()
}

// Describe is lines for people: the driver, the compiler and each GPU, with the mend for what is missing.
func Describe() []string {
	n, err := Count()
	if err != nil {
		return []string{fmt.Sprintf("GPU: none (%v); the CPU is used", err)}
	}
	var lines []string
	if v, err := driverVersion(); err == nil {
		lines = append(lines, fmt.Sprintf("CUDA driver: knows CUDA %d.%d", v/1000, v%1000/10))
	}
	if err := openCompiler(compilerNames()); err != nil {
		lines = append(lines, fmt.Sprintf("NVRTC: %v; install CUDA 12 or 13, or `pip install nvidia-cuda-nvrtc` and point %s at its libnvrtc.so", err, compilerVariable))
	} else {
		major, minor := compilerVersion()
		lines = append(lines, fmt.Sprintf("NVRTC: %d.%d", major, minor))
	}
	lines = append(lines, describeBLAS())
	if err := openNCCL(ncclNames()); err != nil {
		if n > 1 {
			lines = append(lines, fmt.Sprintf("NCCL: %v; ranks exchange rows through the host; `pip install nvidia-nccl-cu13` and point %s at its libnccl.so.2", err, ncclVariable))
		}
	} else if v := ncclVersion(); v > 0 {
		lines = append(lines, fmt.Sprintf("NCCL: %d.%d.%d", v/10000, v/100%100, v%100))
	}
	for i := range n {
		c, err := describeDevice(i)
		if err != nil {
			lines = append(lines, fmt.Sprintf("cuda:%d: %v", i, err))
			continue
		}
		note := ""
		if c.major < 8 {
			note = "; too old, 8.0 is needed"
		}
		lines = append(lines, fmt.Sprintf("cuda:%d: %s, %.0f GiB, %d multiprocessors, compute capability %d.%d%s",
			i, c.name, float64(c.memory)/(1<<30), c.processors, c.major, c.minor, note))
	}
	if n > 1 {
		lines = append(lines, "GPU to GPU: "+describeWays(n))
	}
	return lines
}

// describeWays tells how rows of experts would go among the GPUs that this process sees.
func describeWays(n int) string {
	for a := range n {
		for b := range n {
			if yes, err := reaches(a, b); a != b && (!yes || err != nil) {
				return fmt.Sprintf("kernels of GPU %d cannot use memory of GPU %d, as over NVLink they could; with experts or tp over both NCCL sends rows and slices, and hosts wait inside steps", a, b)
			}
		}
	}
	return "kernels of each can use the others' memory, and send rows of experts and slices of tp themselves"
}

// Name is "cuda:0 NVIDIA H100 80GB HBM3".
func (d *Device) Name() string { return fmt.Sprintf("cuda:%d %s", d.ordinal, d.card.name) }

// Arch is "cuda/sm_90a".
func (d *Device) Arch() string { return "cuda/" + d.card.arch() }

// Activations is the type of the weights; bfloat16 for int8 and mxfp4 ones.
func (d *Device) Activations(w kernels.DType) kernels.DType {
	if w == kernels.I8 || w == kernels.MXFP4 {
		return kernels.BF16
	}
	return w
}

// Prepare begins to compile, on all cores, what such a model needs.
func (d *Device) Prepare(m kernels.Made) {
	d.programs.prepare(d.needed(m))
	if w := m.Weights; d.Activations(w).Size() == 2 && w.Size() == 2 {
		d.blas.begin()
	}
}

// OnCompile has begin told of each .cu file that is waited for from now on while it is compiled.
func (d *Device) OnCompile(begin func(file string) (done func())) { d.programs.begin = begin }

// Close gives the GPU back. Memory, weights, caches and streams must have been freed before.
func (d *Device) Close() error {
	if d.ctx == 0 {
		return nil
	}
	if d.trace != nil {
		d.trace.close()
	}
	errs := []error{d.uploads.settle()}
	if d.blas != nil {
		d.blas.close()
	}
	if d.programs != nil {
		errs = append(errs, d.programs.close(d.ctx))
	}
	if d.fault != nil {
		errs = append(errs, d.fault.close())
	}
	errs = append(errs, d.memory.close(), releaseContext(d.ordinal))
	d.ctx = 0
	return errors.Join(errs...)
}
