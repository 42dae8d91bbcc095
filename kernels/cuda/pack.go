package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/dsbatch/dsbatch/kernels"
)

// weights are the packed matrices of one linear op: kernels.Weights of this back end. How they lie is told in gemm.cu
// and, of float32 ones, in gemm_f32.cu.
type weights struct {
	dtype      kernels.DType
	experts    int
	out, in    int
	gated      bool
	group      int // I8: inputs that share a scale, 0: all of a row
	paddedRows int
	paddedIn   int
	inRows     bool       // as a matrix [paddedRows, paddedIn], not in pieces: cuBLASLt may multiply them
	boxes      [16]uint64 // inRows: the matrix as the copy engine knows it
	data       *memory
	bias       *memory // [experts, paddedRows] F32, or none
	scale      *memory // I8: [experts, groups, paddedRows] F32
	ring       *ring   // that brings them when the group comes; nil: they are here
	held       int     // which of the ring's groups they are of
}

func (w *weights) DType() kernels.DType { return w.dtype }
func (w *weights) Experts() int         { return w.experts }
func (w *weights) Out() int             { return w.out }
func (w *weights) In() int              { return w.in }

func (w *weights) Bytes() (n int64) {
	for _, m := range []*memory{w.data, w.bias, w.scale} {
		if m != nil {
			n += m.size
		}
	}
	return n
}

func (w *weights) Free() {
	for _, m := range []*memory{w.data, w.bias, w.scale} {
		if m != nil {
			m.Free()
		}
	}
	w.data, w.bias, w.scale = nil, nil, nil
}

// groups is the number of scales of a row.
func (w *weights) groups() int {
	if w.group == 0 {
		return 1
	}
	return w.in / w.group
}

// Pack implements kernels.Device: the parts are sent as they are and put in order on the device. It returns when the
// last of them has left the host's memory.
func (d *Device) Pack(what string, s kernels.WeightSpec) (kernels.Weights, error) {
	w, err := shapeOf(s)
	if err == nil {
		w.inRows = d.blas.suits(w, len(s.Experts[0].Bias) > 0)
	}
	var bias []chunk
	if err == nil {
		bias, err = d.allocateWeights(what, s, w)
	}
	if err == nil && w.inRows {
		w.boxes, err = boxesOf(d.ctx, w.data.address, w.paddedIn, w.paddedRows, w.paddedIn*w.dtype.Size(), 64)
	}
	if err == nil {
		err = d.packParts(s, w, bias)
	}
	if err != nil {
		if w != nil {
			w.Free()
		}
		return nil, fmt.Errorf("pack %s: %w", what, err)
	}
	if w.inRows {
		d.blas.ask(w)
	}
	return w, nil
}

// shapeOf checks s and takes its shape.
func shapeOf(s kernels.WeightSpec) (*weights, error) {
	rows, in, err := s.Shape()
	if err != nil {
		return nil, err
	}
	w := &weights{dtype: s.DType, experts: len(s.Experts), gated: s.Gated, out: rows, in: in}
	packed := rows
	if s.Gated {
		tile := 16
		if w.dtype == kernels.F32 {
			tile = 4
		}
		w.out = rows / 2
		packed = ceilDiv(w.out, tile/2) * tile
	}
	w.pad(packed)
	if w.dtype == kernels.I8 && s.Group != 0 && s.Group != w.in {
		w.group = s.Group
		if w.group < 0 || w.group%16 != 0 || w.in%w.group != 0 {
			return nil, fmt.Errorf("int8 groups of %d inputs: on a GPU a group is a multiple of 16 that divides the %d inputs, or 0 for all of them", w.group, w.in)
		}
	}
	return w, nil
}

// pad sets what so many packed rows and the inputs are padded to.
func (w *weights) pad(packed int) {
	if w.dtype == kernels.F32 {
		const pad = 4
		w.paddedRows, w.paddedIn = ceilDiv(packed, pad)*pad, ceilDiv(w.in, pad)*pad
		return
	}
	const rows = 64
	w.paddedRows, w.paddedIn = ceilDiv(packed, rows)*rows, paddedInputs(w.in)
}

// paddedInputs are those of weights of 16 bits or less: whole stages.
func paddedInputs(in int) int { return ceilDiv(in, 64) * 64 }

func (w *weights) matrixBytes() int64 {
	if w.dtype == kernels.MXFP4 {
		return int64(w.paddedRows) * int64(w.paddedIn) / (64 * 64) * mxfp4Stage
	}
	return int64(w.paddedRows) * int64(w.paddedIn) * int64(w.dtype.Size())
}

// allocateWeights takes the memory, zeroed, and returns the biases, which are few, as chunks for it.
func (d *Device) allocateWeights(what string, s kernels.WeightSpec, w *weights) (biases []chunk, err error) {
	take := func(size int64) (*memory, error) {
		m, err := d.memory.allocate(what, size)
		if err == nil && size > 0 {
			err = zero(d.ctx, m.address, size)
		}
		return m, err
	}
	if w.data, err = take(int64(w.experts) * w.matrixBytes()); err != nil {
		return nil, err
	}
	if w.dtype == kernels.I8 {
		if w.scale, err = take(4 * int64(w.experts) * int64(w.groups()) * int64(w.paddedRows)); err != nil {
			return nil, err
		}
	}
	if len(s.Experts[0].Bias) == 0 {
		return nil, nil
	}
	bias := make([]byte, 4*w.experts*w.paddedRows)
	for e, l := range s.Experts {
		row0 := 0
		for part, b := range l.Bias {
			for i := range b.Rows * b.Cols {
				at := e*w.paddedRows + w.packedRow(part, row0, i)
				binary.LittleEndian.PutUint32(bias[4*at:], math.Float32bits(matrixValue(b, i)))
			}
			row0 += b.Rows * b.Cols
		}
	}
	if w.bias, err = take(int64(len(bias))); err != nil {
		return nil, err
	}
	return d.uploads.plain(w.bias.address, bias), nil
}

// packedRow is where row i of a part, whose rows follow row0 others, stands among the packed ones (pack.cu).
func (w *weights) packedRow(part, row0, i int) int {
	half := 8
	if w.dtype == kernels.F32 {
		half = 2
	}
	if w.gated {
		return i/half*2*half + part*half + i%half
	}
	return row0 + i
}

// matrixValue is element i of m's data.
func matrixValue(m kernels.Matrix, i int) float32 {
	switch m.DType {
	case kernels.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(m.Data[2*i:])) << 16)
	case kernels.F16:
		return fromF16(binary.LittleEndian.Uint16(m.Data[2*i:]))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(m.Data[4*i:]))
}

// fromF16 widens, which is exact.
func fromF16(h uint16) float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	case 0:
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

type packArgs struct {
	source, w, scale            handle
	rows, in, transposed        int32
	gated, row0                 int32
	paddedIn, paddedRows, group int32
	firstRow, firstIn           int32
	inRows, _                   int32
}

// packParts sends the parts to the GPU in chunks of whole rows, each of which is put in order there by itself.
func (d *Device) packParts(s kernels.WeightSpec, w *weights, chunks []chunk) error {
	for e, l := range s.Experts {
		row0 := 0
		for part, m := range l.Parts {
			a := packArgs{w: w.data.address + handle(int64(e)*w.matrixBytes()),
				rows: int32(l.Outputs(part)), in: int32(w.in), transposed: truth(l.Transposed), gated: truth(w.gated), row0: int32(row0),
				paddedIn: int32(w.paddedIn), paddedRows: int32(w.paddedRows), group: int32(w.group), inRows: truth(w.inRows)}
			if w.gated {
				a.row0 = int32(part)
			}
			if w.dtype == kernels.I8 {
				a.scale = w.scale.address + handle(4*e*w.groups()*w.paddedRows)
				if a.group == 0 {
					a.group = a.in
				}
			}
			row0 += l.Outputs(part)
			if len(m.Data) == 0 {
				continue
			}
			chunksOf := d.packChunks
			if w.dtype == kernels.MXFP4 {
				chunksOf = d.mxfp4Chunks
			}
			more, err := chunksOf(m, w.dtype, a)
			if err != nil {
				return err
			}
			chunks = append(chunks, more...)
		}
	}
	return d.uploads.run(chunks)
}

// mxfp4Stage is the bytes of 64 rows by 64 inputs (mxfp4.cuh).
const mxfp4Stage = 64*64/2 + 64*64/kernels.MXFP4Inputs

type mxfp4Args struct {
	source, w             handle
	rows, in, paddedIn    int32
	firstRow, gated, row0 int32
}

// mxfp4Chunks is packChunks of a part in MXFP4: its numbers, then its scales.
func (d *Device) mxfp4Chunks(m kernels.Matrix, _ kernels.DType, a packArgs) (chunks []chunk, err error) {
	file := program{file: "pack_mxfp4.cu"}
	for _, part := range []struct {
		kernel string
		bytes  kernels.Matrix
		inputs int // that a thread puts in order
	}{
		{"numbers", kernels.Matrix{DType: kernels.I8, Rows: m.Rows, Cols: m.Cols / 2, Data: m.Data}, 8},
		{"scales", kernels.Matrix{DType: kernels.I8, Rows: m.Rows, Cols: m.Cols / kernels.MXFP4Inputs, Data: m.Scales}, kernels.MXFP4Inputs},
	} {
		key := kernelKey{file, part.kernel}
		if _, err := d.programs.kernel(d.ctx, key); err != nil {
			return nil, err
		}
		for _, r := range d.uploads.rows(part.bytes, 1) {
			its := mxfp4Args{w: a.w, rows: int32(r.to - r.from), in: a.in, paddedIn: a.paddedIn, firstRow: int32(r.from), gated: a.gated, row0: a.row0}
			threads := int(its.rows) * m.Cols / part.inputs
			chunks = append(chunks, chunk{from: r.data, put: func(s *Stream, source handle) {
				its.source = source
				enqueue(s, opPack, key, grid{x: ceilDiv(threads, 256), threads: 256}, &its)
			}})
		}
	}
	return chunks, nil
}

// packChunks is the chunks of one part; a is what they have in common.
func (d *Device) packChunks(m kernels.Matrix, dtype kernels.DType, a packArgs) (chunks []chunk, err error) {
	file := program{file: "pack.cu", a: dtype, b: m.DType}
	for _, name := range []string{"measure", "pack", "scales"} {
		if _, err := d.programs.kernel(d.ctx, kernelKey{file, name}); err != nil {
			return nil, err
		}
	}
	step := 1
	if a.transposed != 0 { // a row of m is an input: a chunk has whole pairs of them, or whole groups
		step = 2
		if dtype == kernels.I8 {
			step = int(a.group)
		}
	}
	for _, r := range d.uploads.rows(m, step) {
		if a.transposed != 0 {
			a.firstIn, a.in = int32(r.from), int32(r.to-r.from)
		} else {
			a.firstRow, a.rows = int32(r.from), int32(r.to-r.from)
		}
		chunks = append(chunks, chunk{from: r.data, put: a.put(file)})
	}
	return chunks, nil
}

// put enqueues the packing of the rows and inputs that a tells of.
func (a packArgs) put(file program) func(*Stream, handle) {
	return func(s *Stream, source handle) {
		a.source = source
		enqueuePart := func(kernel string, threads int) {
			enqueue(s, opPack, kernelKey{file, kernel}, grid{x: ceilDiv(threads, 256), threads: 256}, &a)
		}
		if file.a != kernels.I8 {
			enqueuePart("pack", int(a.rows)*ceilDiv(int(a.in), 2))
			return
		}
		groups := int(a.rows) * int(a.in/a.group)
		enqueuePart("measure", groups*32)
		enqueuePart("pack", int(a.rows)*ceilDiv(int(a.in), 2))
		enqueuePart("scales", groups)
	}
}
