//go:build cgo

package cpu

// #cgo noescape gemm_pack_rows
// #cgo noescape gemm_run
// #cgo nocallback gemm_pack_rows
// #cgo nocallback gemm_run
// #include "cpu.h"
import "C"

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// panelGemm is how a gemm runs on panels: chunks of its rows are packed into tiles, then multiplied, both in tasks of
// one run of the pool. A multiplication waits for the packing, which took lower tasks; the cut into tasks follows what
// they cost and changes no bit.
type panelGemm struct {
	step     func(task int) // g.runTask, made once
	packed   *memory        // tiles of x
	segments []segment
	packs    []packTask
	products []productTask
	unpacked atomic.Int64
	threads  int
}

func (p *panelGemm) free() {
	if p.packed != nil {
		p.packed.Free()
		p.packed = nil
	}
}

// segment is the rows of one expert in a chunk.
type segment struct {
	expert, row, rows int
	tiles             int
	packed            int // where its tiles start
}

type packTask struct{ segment, tile0, tile1 int }

type productTask struct{ segment, tile0, tile1, panel0, panel1 int }

// Nanoseconds of a core, to cut tasks by; they need not be right.
const (
	weightTime  = 0.05 // a byte of weights from memory
	packTime    = 0.4  // a value of x into its tile
	tasksThread = 8    // tasks for each thread, so that one held up costs little
)

// packedMost bounds the packed rows of a chunk: several of them are read from L3 for every panel.
const packedMost = 8 << 20

// taskPacked bounds the packed rows of a task: they should stay in L2 while its panels pass, of which there is one reader.
const taskPacked = 1 << 20

// productTime is the nanoseconds of one product and sum.
func productTime(d kernels.DType) float64 {
	if d == kernels.I8 {
		return 0.004
	}
	return 0.016
}

// runPanels computes g, chunk by chunk.
func (s *Stream) runPanels(g *gemm) {
	p := &g.panel
	if p.step == nil {
		p.step = g.runTask
	}
	for expert, row := 0, int(g.offsets[0]); expert < g.w.experts; {
		p.segments = p.segments[:0]
		size := 0
		for expert < g.w.experts && size < packedMost {
			rows := int(g.offsets[expert+1]) - row
			if rows > 0 {
				size += p.addSegment(g, expert, row, rows, size)
				row += p.segments[len(p.segments)-1].rows
			}
			if row == int(g.offsets[expert+1]) {
				expert++
			}
		}
		if len(p.segments) == 0 {
			continue
		}
		if p.packed == nil || p.packed.Size() < int64(size) {
			p.free()
			packed, err := allocate("packed rows of a linear op", int64(1)<<bits.Len(uint(size)))
			if err != nil {
				s.fail("%w", err)
				return
			}
			p.packed = packed
		}
		p.threads = s.dev.pool.threads
		cost := p.cut(g)
		p.unpacked.Store(int64(len(p.packs)))
		tasks := len(p.packs) + len(p.products)
		if cost > taskTime {
			s.dev.pool.run(tasks, p.step)
			continue
		}
		for i := range tasks { // sooner done than another thread is woken
			p.step(i)
		}
	}
}

// addSegment takes rows of an expert into the chunk, as many as it still has room for, and returns their packed size.
func (p *panelGemm) addSegment(g *gemm, expert, row, rows, at int) int {
	w := g.w.panels
	tile := int(w.kernel.tile_rows)
	rows = min(rows, max(1, (packedMost-at)/max(w.packedBytes(tile), 1))*tile)
	p.segments = append(p.segments, segment{expert: expert, row: row, rows: rows, tiles: (rows + tile - 1) / tile, packed: at})
	return w.packedBytes(rows)
}

// cut makes the tasks of a chunk and returns the nanoseconds that they take one thread.
func (p *panelGemm) cut(g *gemm) (cost float64) {
	p.packs, p.products = p.packs[:0], p.products[:0]
	w := g.w.panels
	panelTime := func(rows int) float64 {
		return weightTime*float64(w.panelBytes) + productTime(g.w.dtype)*float64(rows*g.w.in*panelOutputs)
	}
	total := 0.0
	for _, s := range p.segments {
		total += panelTime(s.rows) * float64(w.panels)
	}
	target := total // one thread has nobody to share with
	if p.threads > 1 {
		target = max(taskTime, total/float64(p.threads*tasksThread))
	}
	tilePack := packTime * float64(g.w.in*int(w.kernel.tile_rows))
	for i, s := range p.segments {
		n := parts(s.tiles, taskTime/tilePack)
		cost += tilePack * float64(s.tiles)
		for j := range n {
			p.packs = append(p.packs, packTask{i, j * s.tiles / n, (j + 1) * s.tiles / n})
		}
		panels := target / panelTime(s.rows)
		down := 1
		if panels < 1 { // all rows by one panel are more than a task should be
			down = parts(s.tiles, panels*float64(s.tiles))
		}
		across := parts(w.panels, panels)
		if n := min(s.tiles, (w.packedBytes(s.rows)+taskPacked-1)/taskPacked); n > down {
			across, down = (across*down+n-1)/n, n
		}
		for j := range across {
			for r := range down {
				p.products = append(p.products, productTask{
					segment: i,
					panel0:  j * w.panels / across, panel1: (j + 1) * w.panels / across,
					tile0: r * s.tiles / down, tile1: (r + 1) * s.tiles / down,
				})
			}
		}
	}
	return cost + total
}

// parts is the number of even parts of about size that n is cut into.
func parts(n int, size float64) int { return max(1, min(n, int(float64(n)/max(size, 1)+0.5))) }

// runTask packs rows or, when all are packed, multiplies them.
func (g *gemm) runTask(task int) {
	p := &g.panel
	if task < len(p.packs) {
		defer p.unpacked.Add(-1) // after a panic too, or products would wait for ever
		g.pack(p.packs[task])
		return
	}
	for p.unpacked.Load() != 0 {
		runtime.Gosched()
	}
	g.multiply(task - len(p.packs))
}

func (g *gemm) pack(t packTask) {
	s := g.panel.segments[t.segment]
	x := view[float32](g.x)
	var from unsafe.Pointer
	if len(x.data) > 0 {
		from = unsafe.Pointer(&x.data[0])
	}
	var index *C.int32_t
	if g.index != nil {
		index = (*C.int32_t)(unsafe.Pointer(&g.index[s.row]))
	} else if len(x.data) > 0 {
		from = unsafe.Pointer(&x.data[s.row*x.stride])
	}
	C.gemm_pack_rows(g.w.panels.kernel, g.packedAt(s), (*C.float)(from), C.int64_t(x.stride), index, C.int64_t(g.div),
		C.int64_t(s.rows), C.int64_t(t.tile0), C.int64_t(t.tile1), C.int64_t(g.w.in), C.int64_t(g.w.group))
}

func (g *gemm) multiply(task int) {
	t := g.panel.products[task]
	s, w := g.panel.segments[t.segment], g.w.panels
	y := view[float32](g.y)
	first := s.expert * w.panels
	var bias *C.float
	if w.bias != nil {
		bias = (*C.float)(unsafe.Pointer(&w.bias[first*panelOutputs]))
	}
	var panels unsafe.Pointer
	if w.panelBytes > 0 {
		panels = unsafe.Pointer(&w.memory.data[first*w.panelBytes])
	}
	ahead, aheadPanels := g.ahead(task)
	C.gemm_run(w.kernel, (*C.float)(unsafe.Pointer(&y.data[s.row*y.stride])), C.int64_t(y.stride), g.packedAt(s), panels,
		ahead, C.int64_t(aheadPanels), C.int64_t(w.panelBytes), bias, C.int64_t(s.rows), C.int64_t(t.tile0), C.int64_t(t.tile1), C.int64_t(g.w.out),
		C.int64_t(t.panel0), C.int64_t(t.panel1), C.int64_t(g.w.in), C.int64_t(g.w.group),
		truth(g.w.gated), C.int(g.e.Act), truth(g.e.Add), C.float(g.e.Limit))
}

// ahead is where the panels of the task lie that the same thread will likely take next, and how many they are, so that
// they are fetched meanwhile; nil where they are the same ones or there are none.
func (g *gemm) ahead(task int) (panels unsafe.Pointer, n int) {
	p, w := &g.panel, g.w.panels
	if task+p.threads >= len(p.products) || w.panelBytes == 0 {
		return nil, 0
	}
	t, next := p.products[task], p.products[task+p.threads]
	first := p.segments[next.segment].expert*w.panels + next.panel0
	if first == p.segments[t.segment].expert*w.panels+t.panel0 {
		return nil, 0
	}
	return unsafe.Pointer(&w.memory.data[first*w.panelBytes]), next.panel1 - next.panel0
}

func (g *gemm) packedAt(s segment) unsafe.Pointer {
	if s.packed >= len(g.panel.packed.data) {
		return nil
	}
	return unsafe.Pointer(&g.panel.packed.data[s.packed])
}

func truth(b bool) C.int {
	if b {
		return 1
	}
	return 0
}
