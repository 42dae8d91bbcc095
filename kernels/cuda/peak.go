package cuda

import (
	"errors"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

type peakArgs struct {
	out    handle
	rounds int32
	_      int32
}

// PeakProducts measures the operations (two a product and sum) that the card does in a second on weights of type w, from
// registers or shared memory alone: what no linear op can exceed. The first call of a type takes some milliseconds, later
// ones nothing; 0: it could not be measured.
func (d *Device) PeakProducts(w kernels.DType) float64 {
	if w == kernels.I8 || w == kernels.MXFP4 {
		w = kernels.BF16 // they are widened
	}
	if p, known := d.peaks[w]; known {
		return p
	}
	const threads, warps = 256, 8
	key, g := kernelKey{program{file: "peak.cu", a: w}, "products_mma"}, grid{x: 4 * d.card.processors, threads: threads}
	each := float64(2 * warps * 8 * 16 * 8 * 16) // of a block and round
	switch {
	case w == kernels.F32:
		key, each = kernelKey{program{file: "peak.cu", a: kernels.BF16}, "products_f32"}, 2*32*threads
	case d.card.arch() == "sm_90a":
		key = kernelKey{program{file: "sm90_peak.cu", a: w}, "products_wgmma"}
		g = grid{x: d.card.processors, threads: threads, shared: 384 * 64 * 2}
		each = 2 * 256 * 128 * 64
	}
	const rounds = 1 << 13
	seconds, err := d.best(func(s *Stream) { enqueue(s, opPeak, key, g, &peakArgs{out: d.fault.address, rounds: rounds}) })
	if err != nil {
		return 0
	}
	d.peaks[w] = each * rounds * float64(g.x) / seconds
	return d.peaks[w]
}

// PeakRead measures the bytes that a copy inside the card's memory reads and writes in a second. The first call takes
// 1 GiB for some milliseconds, later ones nothing.
func (d *Device) PeakRead() (float64, error) {
	const none = kernels.DType(0)
	if p, known := d.peaks[none]; known {
		return p, nil
	}
	const size = 512 << 20
	from, err := d.Alloc("a copy that tells the memory's bandwidth", kernels.F32, 2, size/4)
	if err != nil {
		return 0, err
	}
	defer from.Mem.Free()
	seconds, err := d.best(func(s *Stream) { s.Copy(from.RowRange(0, 1), from.RowRange(1, 2)) })
	if err != nil {
		return 0, err
	}
	d.peaks[none] = 2 * size / seconds
	return d.peaks[none], nil
}

// PeakUpload measures the bytes that the bus brings in a second from pinned memory to the GPU, in pieces as weights have
// them. The first call takes some milliseconds, later ones nothing.
func (d *Device) PeakUpload() (float64, error) {
	const bus = kernels.I32 // which has no products
	if p, known := d.peaks[bus]; known {
		return p, nil
	}
	const pieces = 32
	to, err := d.Alloc("a copy that tells the bus's bandwidth", kernels.F32, pieces, chunkBytes/4)
	if err != nil {
		return 0, err
	}
	defer to.Mem.Free()
	from, _, err := hostAlloc(d.ctx, chunkBytes)
	if err != nil {
		return 0, err
	}
	seconds, err := d.best(func(s *Stream) {
		for i := range pieces {
			s.copyRows(opPeak, copyRecord{dst: uint64(address(to.RowRange(i, i+1))), src: hostAddress(from), srcHost: 1,
				width: chunkBytes, height: 1, dstPitch: chunkBytes, srcPitch: chunkBytes})
		}
	})
	if err = errors.Join(err, hostFree(d.ctx, from)); err != nil {
		return 0, err
	}
	d.peaks[bus] = pieces * chunkBytes / seconds
	return d.peaks[bus], nil
}

// best is the seconds that ops take on the GPU, by events, the best of some times.
func (d *Device) best(ops func(*Stream)) (seconds float64, err error) {
	s, err := d.newStream()
	if err != nil {
		return 0, err
	}
	var events [2]handle
	for i := range events {
		var made error
		events[i], made = eventNew(d.ctx)
		err = errors.Join(err, made)
	}
	seconds = math.Inf(1)
	for range 5 {
		if err != nil {
			break
		}
		ops(s)
		err = eventRecord(d.ctx, events[0], s.handle)
		s.flush()
		err = errors.Join(err, eventRecord(d.ctx, events[1], s.handle), s.Sync())
		if err == nil {
			var ms float64
			ms, err = eventElapsed(d.ctx, events[0], events[1])
			seconds = min(seconds, ms/1e3)
		}
	}
	for _, e := range events {
		err = errors.Join(err, eventFree(d.ctx, e))
	}
	return seconds, errors.Join(err, s.Close())
}
