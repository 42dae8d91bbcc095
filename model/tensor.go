package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
)

// packedBytes is what packed weights take, but for the padding of tiles: elements, scales, float32 biases.
func packedBytes(s kernels.WeightSpec) (bytes int64) {
	for _, x := range s.Experts {
		for _, m := range x.Parts {
			out, in := int64(m.Rows), int64(m.Cols)
			if x.Transposed {
				out, in = in, out
			}
			bytes += out * in * int64(s.DType.Size())
			switch s.DType {
			case kernels.I8:
				group := cmp.Or(int64(s.Group), in)
				bytes += 4 * out * ((in + group - 1) / group)
			case kernels.MXFP4:
				bytes += out * (in/2 + in/kernels.MXFP4Inputs)
			}
		}
		for _, m := range x.Bias {
			bytes += 4 * int64(m.Rows) * int64(m.Cols)
		}
	}
	return bytes
}

// count notes, surveying, what a part of the model will take that is here.
func (l *loader) count(bytes int64) {
	if !l.elsewhere {
		l.model.bytes += bytes
	}
}

// window is the part of a tensor [rows, cols] that is here: its rows ofRows, and of these the columns ofCols.
type window struct {
	rows, cols     int
	ofRows, ofCols shard.Range
}

// whole is all of a tensor.
func (l *loader) whole(rows, cols int) window {
	return window{rows, cols, shard.Range{To: rows}, shard.Range{To: cols}}
}

// transposed is the same part of the transposed tensor.
func (w window) transposed() window { return window{w.cols, w.rows, w.ofCols, w.ofRows} }

func biasOf(weight string) string { return strings.TrimSuffix(weight, ".weight") + ".bias" }

// upload puts a whole tensor on the device.
func (l *loader) upload(canonical string, layer int, d kernels.DType, rows, cols int) kernels.Tensor {
	name := l.policy.Tensors.name(canonical, layer, 0)
	return l.put(name, d, l.named(name, l.whole(rows, cols)))
}

func (l *loader) put(what string, d kernels.DType, m kernels.Matrix) kernels.Tensor {
	if l.err != nil || l.surveying {
		l.count(int64(m.Rows) * int64(m.Cols) * int64(d.Size()))
		return kernels.Tensor{}
	}
	l.held = l.held[:0] // the memory may serve in place
	t, err := l.device.Upload(what, d, m)
	if err != nil {
		l.fail(err)
		return t
	}
	l.model.owned = append(l.model.owned, t.Mem)
	l.model.bytes += t.Bytes()
	return t
}

func (l *loader) pack(what string, s kernels.WeightSpec) kernels.Weights {
	s = asStored(s)
	if l.err != nil || l.surveying {
		l.count(packedBytes(s))
		l.packedBytes += packedBytes(s)
		return nil
	}
	w, err := l.device.Pack(what, s)
	if errors.Is(err, kernels.ErrScales) {
		l.widened(what, err.Error())
		w, err = l.device.Pack(what, inFloats(s, kernels.BF16))
	}
	if err != nil {
		l.fail(err)
		return nil
	}
	for _, t := range l.held {
		t.Release()
	}
	l.held = l.held[:0]
	l.model.owned, l.packed = append(l.model.owned, w), append(l.packed, w)
	l.model.bytes, l.packedBytes = l.model.bytes+w.Bytes(), l.packedBytes+w.Bytes()
	return w
}

// named is this rank's part of a tensor of the checkpoint: on the first pass checked, on the second with its bytes.
func (l *loader) named(name string, w window) kernels.Matrix { return l.part(name, w, false) }

// part is named; one that lies in MXFP4 may stay so where stored is set.
func (l *loader) part(name string, w window, stored bool) kernels.Matrix {
	if l.err != nil {
		return kernels.Matrix{}
	}
	var t ckpt.Tensor
	m := kernels.Matrix{Rows: w.ofRows.Len(), Cols: w.ofCols.Len()}
	if l.surveying {
		if t, l.err = l.find(name, w.rows, w.cols); l.err == nil {
			t, l.err = w.of(t)
		}
		if l.err == nil {
			_, l.err = dtypeOf(t)
		}
		if l.noteFault() {
			m.DType = kernels.F32
			return m
		}
		wanted := []ckpt.Tensor{t}
		if numbers, scales, fits := t.MXFP4(); fits && stored && l.options.DType == kernels.BF16 {
			m.DType, wanted = kernels.MXFP4, []ckpt.Tensor{numbers, scales}
		}
		if !l.elsewhere {
			l.wanted = append(l.wanted, wanted...)
		}
	} else {
		if t, m.Data, l.err = l.take(); t.DType == ckpt.U8 && l.err == nil {
			m.DType = kernels.MXFP4
			_, m.Scales, l.err = l.take()
		} else if stored && l.options.DType == kernels.BF16 && t.InMXFP4() {
			l.widened(name, "the cut for this rank does not fall on groups of 32 inputs")
		}
	}
	if l.err != nil {
		return kernels.Matrix{}
	}
	if m.DType == 0 {
		m.DType, l.err = dtypeOf(t)
	}
	return m
}

// take is the next tensor that was read.
func (l *loader) take() (ckpt.Tensor, []byte, error) {
	t, data, err := l.read.take(l.ctx)
	l.held = append(l.held, t)
	return t, data, err
}

// of is the window's part of a tensor, whose other bytes are then not read.
func (w window) of(t ckpt.Tensor) (ckpt.Tensor, error) {
	var err error
	if axis := len(t.Shape) - 2; axis >= 0 && w.ofRows.Len() < w.rows {
		if t, err = t.Slice(axis, int64(w.ofRows.From), int64(w.ofRows.To)); err != nil {
			return t, err
		}
	}
	if w.ofCols.Len() < w.cols {
		t, err = t.Slice(len(t.Shape)-1, int64(w.ofCols.From), int64(w.ofCols.To))
	}
	return t, err
}

// find looks a tensor up and checks its shape.
func (l *loader) find(name string, rows, cols int) (ckpt.Tensor, error) {
	t, ok := l.lookUp(name)
	if !ok {
		return t, fmt.Errorf("%w: tensor %s is missing; is the checkpoint whole, and of the architecture that its config names?", ErrTensor, name)
	}
	name = t.Name
	l.used[name] = true
	want := []int64{int64(rows), int64(cols)}
	if rows == 1 && !slices.Equal(t.Shape, want) { // a vector, which some files hold as a row
		want = want[1:]
	}
	if !slices.Equal(t.Shape, want) {
		return t, fmt.Errorf("%w: tensor %s is %v, but the config asks for %v", ErrTensor, name, t.Shape, want)
	}
	return t, nil
}

// lookUp finds a tensor by its name, or what some files call it: without the base model's prefix (the hub's oldest GPT-2
// files, and all of a model without a head), and the parts of a LayerNorm by their old names, gamma and beta.
func (l *loader) lookUp(name string) (ckpt.Tensor, bool) {
	names := []string{name}
	if short, cut := strings.CutPrefix(name, l.policy.Prefix); cut {
		names = append(names, short)
	}
	for _, old := range [][2]string{{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}} {
		for _, n := range names {
			if module, cut := strings.CutSuffix(n, old[0]); cut {
				names = append(names, module+old[1])
			}
		}
	}
	for _, n := range names {
		if t, ok := l.ckpt.Tensor(n); ok {
			return t, true
		}
	}
	return ckpt.Tensor{}, false
}

// use marks a tensor as accounted for, whatever the file calls it.
func (l *loader) use(name string) {
	if t, ok := l.lookUp(name); ok {
		name = t.Name
	}
	l.used[name] = true
}

// useExperts marks the experts of other ranks as accounted for.
func (l *loader) useExperts(layer int, m MoE) {
	for e := range m.Gate.Experts {
		for _, kind := range []string{"expert.gate", "expert.up", "expert.down"} {
			name := l.policy.Tensors.name(kind, layer, e)
			l.use(name)
			l.use(biasOf(name))
		}
	}
}

func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// leftOver refuses a checkpoint with tensors that nothing used: its config tells of fewer layers or experts than it
// has, or it is of another kind than it says.
func (l *loader) leftOver() error {
	var left []string
	for _, name := range l.ckpt.Names() {
		ignored := l.used[name] || l.policy.Tensors.predicts(l.config, name)
		for _, end := range l.policy.Ignored {
			ignored = ignored || strings.HasSuffix(name, end)
		}
		if !ignored {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	sort.Strings(left)
	return fmt.Errorf("%w: tensors that are no part of the model that the config describes: %d, %s the first; does the config belong to these files?", ErrTensor, len(left), left[0])
}

// tableType is the type of the embedding tables: the checkpoint's own where the back end reads it, so that a mapped
// file serves in place.
func (l *loader) tableType() kernels.DType {
	if t, ok := l.lookUp(l.policy.Tensors.name("embed", 0, 0)); ok {
		if d, err := dtypeOf(t); err == nil && (l.options.DType != kernels.F32 || d != kernels.F32) {
			return d
		}
	}
	return kernels.F32
}

// dtypeOf is a tensor's type in the op set's terms.
func dtypeOf(t ckpt.Tensor) (kernels.DType, error) {
	switch t.DType {
	case ckpt.F32:
		return kernels.F32, nil
	case ckpt.BF16:
		return kernels.BF16, nil
	case ckpt.F16:
		return kernels.F16, nil
	}
	return 0, fmt.Errorf("%w: tensor %s is of type %v; F32, BF16 and F16 can be used", ErrTensor, t.Name, t.DType)
}
