// Package cpu runs the op set of package kernels on the host's processor.
//
// Every op has a reference in Go, which is the whole of the package when it is built with CGO_ENABLED=0, and most have
// kernels in C for the instruction sets that a Level names, chosen when the Device is made. Activations are float32
// whatever the weights are; weights are packed once, at load. Ops run when they are enqueued, on the Device's pool.
package cpu

import (
	"fmt"
	"runtime"

	"github.com/dsbatch/dsbatch/kernels"
)

// Options of New. The zero value takes all cores and the best instruction set of the machine.
type Options struct {
	Threads int    // 1..; 0: as many as Go may use
	Level   string // generic, avx2, avx512, amx or reference; "": the environment's DSBATCH_CPU, else the best there is
}

// Device is the host's processor. It implements kernels.Device.
type Device struct {
	level   Level
	has     features
	pool    *pool
	kernels kernelSet
}

var _ kernels.Device = (*Device)(nil)

// New makes a Device. A level that this machine or this build lacks is refused with those that it has.
func New(o Options) (*Device, error) {
	l, err := Best()
	if o.Level != "" {
		if l, err = levelNamed(o.Level); err != nil {
			err = fmt.Errorf("level: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	if o.Threads < 0 {
		return nil, fmt.Errorf("threads %d: give at least 1, or 0 for all cores", o.Threads)
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	return &Device{level: l, has: detect(), pool: newPool(o.Threads), kernels: kernelsOf(l)}, nil
}

// Name is "cpu avx512, 2 threads".
func (d *Device) Name() string { return fmt.Sprintf("cpu %v, %d threads", d.level, d.pool.threads) }

// Arch is "cpu/avx512": levels differ in bits, numbers of threads do not.
func (d *Device) Arch() string { return "cpu/" + d.level.String() }

// Activations is always float32: a processor gains nothing from narrower ones.
func (d *Device) Activations(kernels.DType) kernels.DType { return kernels.F32 }

// NewStream makes a queue whose ops are done when they return.
func (d *Device) NewStream() (kernels.Stream, error) { return &Stream{dev: d}, nil }

// Close ends the pool. Memory, weights and caches have owners of their own.
func (d *Device) Close() error {
	d.pool.close()
	return nil
}
