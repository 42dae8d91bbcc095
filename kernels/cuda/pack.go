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
	data       *memory
	bias       *memory // [experts, paddedRows] F32, or none
	scale      *memory // I8: [experts, groups, paddedRows] F32
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

// Pack implements kernels.Device: the parts are sent as they are and put in order on the device.
func (d *Device) Pack(what string, s kernels.WeightSpec) (kernels.Weights, error) {
	w, err := shapeOf(s)
	if err == nil {
		err = d.allocateWeights(what, s, w)
	}
	if err == nil {
		err = d.packParts(what, s, w)
	}
	if err != nil {
		if w != nil {
			w.Free()
		}
		return nil, fmt.Errorf("pack %s: %w", what, err)
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
	packed, tile, pad, depth := rows, 16, 64, 64
	if w.dtype == kernels.F32 {
		tile, pad, depth = 4, 4, 4
	}
	if s.Gated {
		w.out = rows / 2
		packed = ceilDiv(w.out, tile/2) * tile
	}
	w.paddedRows, w.paddedIn = ceilDiv(packed, pad)*pad, ceilDiv(w.in, depth)*depth
	if w.dtype == kernels.I8 && s.Group != 0 && s.Group != w.in {
		w.group = s.Group
		if w.group < 0 || w.group%16 != 0 || w.in%w.group != 0 {
			return nil, fmt.Errorf("int8 groups of %d inputs: on a GPU a group is a multiple of 16 that divides the %d inputs, or 0 for all of them", w.group, w.in)
		}
	}
	return w, nil
}

func (w *weights) matrixBytes() int64 {
	return int64(w.paddedRows) * int64(w.paddedIn) * int64(w.dtype.Size())
}

// allocateWeights takes the memory, zeroed, and fills the biases, which are few.
func (d *Device) allocateWeights(what string, s kernels.WeightSpec, w *weights) (err error) {
	take := func(size int64) (*memory, error) {
		m, err := d.memory.allocate(what, size)
		if err == nil && size > 0 {
			err = zero(d.ctx, m.address, size)
		}
		return m, err
	}
	if w.data, err = take(int64(w.experts) * w.matrixBytes()); err != nil {
		return err
	}
	if w.dtype == kernels.I8 {
		if w.scale, err = take(4 * int64(w.experts) * int64(w.groups()) * int64(w.paddedRows)); err != nil {
			return err
		}
	}
	if len(s.Experts[0].Bias) == 0 {
		return nil
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
		return err
	}
	return upload(d.ctx, w.bias.address, bias)
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
}

// packParts sends part after part through one buffer.
func (d *Device) packParts(what string, s kernels.WeightSpec, w *weights) error {
	var most int64
	for _, l := range s.Experts {
		for _, m := range l.Parts {
			most = max(most, int64(len(m.Data)))
		}
	}
	if most == 0 {
		return nil
	}
	buffer, err := d.memory.allocate(what+": a part on its way", most)
	if err != nil {
		return err
	}
	defer buffer.Free()
	return d.now(func(stream *Stream) {
		for e, l := range s.Experts {
			row0 := 0
			for part, m := range l.Parts {
				if err := stream.Sync(); err != nil { // the buffer is in use until then
					return
				}
				if err := upload(d.ctx, buffer.address, m.Data); err != nil {
					stream.fail("%s: %w", what, err)
					return
				}
				a := packArgs{source: buffer.address, w: w.data.address + handle(int64(e)*w.matrixBytes()),
					rows: int32(l.Outputs(part)), in: int32(w.in), transposed: truth(l.Transposed),
					gated: truth(w.gated), row0: int32(row0),
					paddedIn: int32(w.paddedIn), paddedRows: int32(w.paddedRows), group: int32(w.group)}
				if w.gated {
					a.row0 = int32(part)
				}
				stream.pack(w, e, m.DType, a)
				row0 += l.Outputs(part)
			}
		}
	})
}

func (s *Stream) pack(w *weights, expert int, source kernels.DType, a packArgs) {
	if a.rows == 0 || a.in == 0 {
		return
	}
	key := kernelKey{program{file: "pack.cu", a: w.dtype, b: source}, "pack"}
	if w.dtype == kernels.I8 {
		a.scale = w.scale.address + handle(4*expert*w.groups()*w.paddedRows)
		if a.group == 0 {
			a.group = a.in
		}
		q := key
		q.name = "quantize"
		enqueue(s, opPack, q, grid{x: ceilDiv(int(a.rows)*int(a.in/a.group)*32, 256), threads: 256}, &a)
	}
	enqueue(s, opPack, key, grid{x: ceilDiv(int(a.rows)*ceilDiv(int(a.in), 2), 256), threads: 256}, &a)
}
