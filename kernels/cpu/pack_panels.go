//go:build cgo

package cpu

// #cgo noescape gemm_pack_panel
// #cgo nocallback gemm_pack_panel
// #cgo noescape gemm_pack_mxfp4
// #cgo nocallback gemm_pack_mxfp4
// #cgo nocallback gemm_panel_bytes
// #cgo nocallback gemm_row_bytes
// #cgo nocallback gemm_kernel_of
// #include "cpu.h"
import "C"

import (
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

// panelOutputs is the number of outputs of a panel.
const panelOutputs = C.GEMM_PANEL

// panelWeights are matrices as the C kernels read them: panels of 32 outputs, expert by expert, in one allocation.
type panelWeights struct {
	kernel     *C.gemm_kernel
	memory     *memory
	bias       []float32 // [experts·panels, 32] in the order of the panels, or none
	panels     int       // of a matrix
	panelBytes int
	rowBytes   int // of a packed row of x
}

// packedBytes is the size of packed rows of x, a multiple of align.
func (p *panelWeights) packedBytes(rows int) int {
	if space := int(p.kernel.tile_space); space > 0 {
		tile := int(p.kernel.tile_rows)
		rows = (rows + tile - 1) / tile * space
	}
	return (rows*p.rowBytes + align - 1) / align * align
}

func (p *panelWeights) bytes() int64 { return p.memory.Size() + 4*int64(len(p.bias)) }
func (p *panelWeights) free()        { p.memory.Free() }

var gemmLevels = map[Level]C.int{Generic: C.GEMM_GENERIC, AVX2: C.GEMM_AVX2, AVX512: C.GEMM_AVX512,
	AVX512BF16: C.GEMM_AVX512BF16, AMX: C.GEMM_AMX}
var gemmTypes = map[kernels.DType]C.int{kernels.F32: C.GEMM_F32, kernels.BF16: C.GEMM_BF16, kernels.F16: C.GEMM_F16,
	kernels.I8: C.GEMM_I8, kernels.MXFP4: C.GEMM_MXFP4}

// packPanels packs s by the device's level, all threads at once, a panel a task. Each part of the source is read from
// its first row to its last, so that a mapped checkpoint streams.
func packPanels(d *Device, what string, s kernels.WeightSpec, w *weights) (*panelWeights, error) {
	vnni := C.int(0)
	if d.has.has(hasVNNI) {
		vnni = 1
	}
	p := &panelWeights{kernel: C.gemm_kernel_of(gemmLevels[d.level], gemmTypes[w.dtype], vnni)}
	p.panels = (w.out*w.panelShare() + panelOutputs - 1) / panelOutputs
	p.panelBytes = int(C.gemm_panel_bytes(p.kernel, C.int64_t(w.in), C.int64_t(w.group)))
	p.rowBytes = int(C.gemm_row_bytes(p.kernel, C.int64_t(w.in), C.int64_t(w.group)))
	var err error
	if p.memory, err = allocate(what, int64(w.experts)*int64(p.panels)*int64(p.panelBytes)); err != nil {
		return nil, err
	}
	p.bias = w.panelBias(p.panels)
	d.pool.run(w.experts*p.panels, func(task int) {
		p.packPanel(s.Experts[task/p.panels], w, task, task%p.panels)
	})
	return p, nil
}

// panelShare is how many columns of a panel an output takes.
func (w *weights) panelShare() int {
	if w.gated {
		return 2
	}
	return 1
}

// panelRow is the row of the matrix in a column of a panel, or one from w.rows on where there is none.
func (w *weights) panelRow(panel, column int) int {
	if !w.gated {
		return panel*panelOutputs + column
	}
	out := panel*panelOutputs/2 + column%(panelOutputs/2)
	if out >= w.out {
		return w.rows
	}
	return out + column/(panelOutputs/2)*w.out
}

func (w *weights) panelBias(panels int) []float32 {
	if w.bias == nil {
		return nil
	}
	bias := make([]float32, w.experts*panels*panelOutputs)
	for i := range bias {
		e, panel := i/panelOutputs/panels, i/panelOutputs%panels
		if row := w.panelRow(panel, i%panelOutputs); row < w.rows {
			bias[i] = w.bias[e*w.rows+row]
		}
	}
	return bias
}

// packPanel fills the panel at index task: runs of columns whose rows are adjacent in one part of l.
func (p *panelWeights) packPanel(l kernels.Linear, w *weights, task, panel int) {
	if p.panelBytes == 0 {
		return
	}
	to := unsafe.Pointer(&p.memory.data[task*p.panelBytes])
	for column := 0; column < panelOutputs; {
		row := w.panelRow(panel, column)
		if row >= w.rows {
			column++
			continue
		}
		part := 0
		for row >= l.Outputs(part) {
			row -= l.Outputs(part)
			part++
		}
		n := min(panelOutputs-column, l.Outputs(part)-row)
		if w.gated {
			n = min(n, panelOutputs/2-column%(panelOutputs/2))
		}
		m := l.Parts[part]
		if w.dtype == kernels.MXFP4 {
			if w.in > 0 {
				C.gemm_pack_mxfp4(to, C.int64_t(column), C.int64_t(n), (*C.uint8_t)(&m.Data[row*w.in/2]),
					(*C.uint8_t)(&m.Scales[row*w.in/kernels.MXFP4Inputs]), C.int64_t(w.in))
			}
			column += n
			continue
		}
		outputStride, inputStride := m.Cols, 1
		if l.Transposed {
			outputStride, inputStride = 1, m.Cols
		}
		if w.in > 0 {
			C.gemm_pack_panel(p.kernel, to, C.int64_t(column), C.int64_t(n),
				unsafe.Pointer(&m.Data[row*outputStride*m.DType.Size()]), gemmTypes[m.DType],
				C.int64_t(outputStride), C.int64_t(inputStride), C.int64_t(w.in), C.int64_t(w.group))
		}
		column += n
	}
}
