//go:build cgo

package cpu

// #cgo noescape cpu_peak_read
// #cgo nocallback cpu_peak_read
// #cgo nocallback cpu_peak_products
// #include "cpu.h"
import "C"

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

const (
	peakTime   = 5 * time.Millisecond // of one measurement
	peakMemory = 512 << 20            // beyond most caches of today
	peakWindow = 64 << 20             // of it, read in one measurement
	peakTask   = 1 << 20
)

// Ceilings measures what a device can at best do, some milliseconds at a time, so that a benchmark can look between
// its own rounds: on a machine shared with others only the ratio inside one round says anything.
type Ceilings struct {
	device *Device
	memory *memory
	window int
	read   func(task int)
	sum    atomic.Uint64
	rounds map[kernels.DType]C.int64_t // of the loop, which take about peakTime
}

// NewCeilings takes 512 MiB to read from. Close it.
func (d *Device) NewCeilings() (*Ceilings, error) {
	m, err := allocate("memory to measure its bandwidth", peakMemory)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(m.data); i += 4096 {
		m.data[i] = 1 // a page of its own, not the zero page
	}
	c := &Ceilings{device: d, memory: m, rounds: map[kernels.DType]C.int64_t{}}
	c.read = func(task int) {
		at := unsafe.Pointer(&m.data[c.window+task*peakTask])
		c.sum.Add(uint64(C.cpu_peak_read(gemmLevels[d.level], at, peakTask)))
	}
	return c, nil
}

// Close frees the memory.
func (c *Ceilings) Close() { c.memory.Free() }

// Products measures the operations (two a product and sum) that all threads together do in a second on weights of type
// w, from registers alone: what no linear op of this level can exceed. 0 where the level has no such instruction.
func (c *Ceilings) Products(w kernels.DType) float64 {
	if w == kernels.MXFP4 {
		w = kernels.BF16 // they are widened
	}
	d, vnni := c.device, truth(c.device.has.has(hasVNNI))
	level, kind := gemmLevels[d.level], gemmTypes[w]
	if d.level == Reference || C.cpu_peak_products(level, kind, vnni, 1) == 0 {
		return 0
	}
	if c.rounds[w] == 0 {
		n := C.int64_t(1000)
		for took := time.Duration(0); took < peakTime; n *= 2 {
			start := time.Now()
			C.cpu_peak_products(level, kind, vnni, 2*n)
			took = time.Since(start)
		}
		c.rounds[w] = n
	}
	var products atomic.Int64
	start := time.Now()
	d.pool.run(d.pool.threads, func(int) {
		products.Add(int64(C.cpu_peak_products(level, kind, vnni, c.rounds[w])))
	})
	return 2 * float64(products.Load()) / time.Since(start).Seconds()
}

// Read measures the bytes that all threads together read from memory in a second.
func (c *Ceilings) Read() float64 {
	c.window = (c.window + peakWindow) % peakMemory
	start := time.Now()
	c.device.pool.run(peakWindow/peakTask, c.read)
	return peakWindow / time.Since(start).Seconds()
}

const peakRounds = 5 // of which PeakProducts and PeakRead give the best

// PeakProducts is the best of several Ceilings.Products.
func (d *Device) PeakProducts(w kernels.DType) (best float64) {
	c := Ceilings{device: d, rounds: map[kernels.DType]C.int64_t{}}
	for range peakRounds {
		best = max(best, c.Products(w))
	}
	return best
}

// PeakRead is the best of several Ceilings.Read.
func (d *Device) PeakRead() (best float64, err error) {
	c, err := d.NewCeilings()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for range peakRounds {
		best = max(best, c.Read())
	}
	return best, nil
}
