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
	peakRounds   = 5
	peakTime     = 10 * time.Millisecond // of one round on one thread
	peakMemory   = 512 << 20             // beyond any cache of today
	peakReadTask = 1 << 20
)

// PeakProducts measures the floating or integer operations (two a product and sum) that all threads together do in a
// second on weights of type w, from registers alone: what no linear op of this level can exceed. The best of several
// rounds of 10 ms; 0 where the level has no instructions of its own.
func (d *Device) PeakProducts(w kernels.DType) float64 {
	vnni := truth(d.has.has(hasVNNI))
	level, kind := gemmLevels[d.level], gemmTypes[w]
	if d.level == Reference || C.cpu_peak_products(level, kind, vnni, 1) == 0 {
		return 0
	}
	n, products := C.int64_t(1000), 0.0 // of a call
	for took := time.Duration(0); took < peakTime; n *= 2 {
		start := time.Now()
		products = 2 * float64(C.cpu_peak_products(level, kind, vnni, 2*n))
		took = time.Since(start)
	}
	best := 0.0
	for range peakRounds {
		start := time.Now()
		d.pool.run(d.pool.threads, func(int) { C.cpu_peak_products(level, kind, vnni, n) })
		best = max(best, products*float64(d.pool.threads)/time.Since(start).Seconds())
	}
	return best
}

// PeakRead measures the bytes that all threads together read from memory in a second.
func (d *Device) PeakRead() (float64, error) {
	m, err := allocate("memory to measure its bandwidth", peakMemory)
	if err != nil {
		return 0, err
	}
	defer m.Free()
	for i := 0; i < len(m.data); i += 4096 {
		m.data[i] = 1 // a page of its own, not the zero page
	}
	best := 0.0
	var sum atomic.Uint64
	for range peakRounds {
		start := time.Now()
		d.pool.run(peakMemory/peakReadTask, func(task int) {
			sum.Add(uint64(C.cpu_peak_read(gemmLevels[d.level], unsafe.Pointer(&m.data[task*peakReadTask]), peakReadTask)))
		})
		best = max(best, peakMemory/time.Since(start).Seconds())
	}
	return best, nil
}
