package moe

import (
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/kernels"
)

// Shape is the largest MoE layer that a workspace has to serve, and how many tokens a step has at most.
type Shape struct {
	Tokens  int // of a step on this rank
	Slots   int // the most that this rank's experts can be sent in a step: Tokens·K of all ranks of the group
	Hidden  int
	Inner   int // widest ffn, of an expert or of a residual branch
	Experts int
	K       int
	Layers  int // MoE layers, for the counts
}

// Bytes is the memory that a workspace of this shape takes with activations of type d.
func (s Shape) Bytes(d kernels.DType) int64 {
	size, rows := int64(d.Size()), int64(max(s.Slots, s.Tokens*s.K, s.Tokens))
	ints := int64(s.Tokens*s.K)*4 + int64(s.Experts+1)
	return rows*int64(s.Hidden+s.Inner)*size + 4*(ints+int64(s.Tokens*(s.Experts+2)))
}

// Sections of a step, as Workspace.Enter names them.
const (
	Route    = "route"
	Dispatch = "dispatch"
	Experts  = "experts"
	Combine  = "combine"
)

// Workspace is the memory in which layers of up to a shape run, one after the other, and the tokens that each expert
// of each layer was given.
type Workspace struct {
	logits, coef, inner, slots      kernels.Tensor
	expert, weight, choices, placed kernels.Tensor
	offsets                         kernels.Tensor // [layers, experts+1]
	tensors                         []kernels.Tensor
	layer                           int
	counts                          []layerCount
	exchange                        exchangeBuffers

	// Enter, where not nil, is called when a section of the layer begins, for measuring.
	Enter func(section string)
}

func (w *Workspace) enter(section string) {
	if w.Enter != nil {
		w.Enter(section)
	}
}

type layerCount struct {
	experts int
	offsets []byte // [experts+1] int32, filled by a read that is done after the next Sync
}

// NewWorkspace takes the memory for layers of up to shape on d, with activations of type act.
func NewWorkspace(d kernels.Device, act kernels.DType, shape Shape) (*Workspace, error) {
	w := &Workspace{counts: make([]layerCount, shape.Layers), exchange: exchangeBuffers{device: d, act: act}}
	for i := range w.counts {
		w.counts[i].offsets = make([]byte, 4*(shape.Experts+1))
	}
	rows, choices := max(shape.Slots, shape.Tokens*shape.K, shape.Tokens), shape.Tokens*shape.K
	for _, a := range []struct {
		what       string
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}{
		{"gate logits", &w.logits, kernels.F32, shape.Tokens, shape.Experts},
		{"residual coefficients", &w.coef, kernels.F32, shape.Tokens, 2},
		{"expert activations", &w.inner, act, rows, shape.Inner},
		{"expert results", &w.slots, act, rows, shape.Hidden},
		{"experts of choices", &w.expert, kernels.I32, shape.Tokens, shape.K},
		{"weights of choices", &w.weight, kernels.F32, shape.Tokens, shape.K},
		{"choices of slots", &w.choices, kernels.I32, 1, choices},
		{"slots of choices", &w.placed, kernels.I32, 1, choices},
		{"slot offsets", &w.offsets, kernels.I32, shape.Layers, shape.Experts + 1},
	} {
		t, err := d.Alloc("moe: "+a.what, a.dtype, a.rows, a.cols)
		if err != nil {
			w.Free()
			return nil, fmt.Errorf("moe workspace: %w", err)
		}
		*a.to, w.tensors = t, append(w.tensors, t)
	}
	return w, nil
}

// Free gives the memory back.
func (w *Workspace) Free() {
	for _, t := range w.tensors {
		t.Mem.Free()
	}
	w.tensors = nil
	w.exchange.free()
}

// Begin starts a step: the next Forward is that of the first MoE layer.
func (w *Workspace) Begin() { w.layer = 0 }

// routing is the routing of the layer at hand, for so many tokens.
func (w *Workspace) routing(g kernels.Gate, tokens int) kernels.Routing {
	return kernels.Routing{
		K: g.K, Experts: g.Experts,
		Expert: w.expert.Reshape(tokens, g.K), Weight: w.weight.Reshape(tokens, g.K),
		Offsets: w.offsets.RowRange(w.layer, w.layer+1).ColRange(0, g.Experts+1),
		Choices: w.choices.ColRange(0, tokens*g.K), Place: w.placed.ColRange(0, tokens*g.K),
	}
}

// count keeps how many slots each expert of this layer got, to be read after the step.
func (w *Workspace) count(s kernels.Stream, r kernels.Routing) {
	c := &w.counts[w.layer]
	c.experts = r.Experts
	s.Read(c.offsets[:4*(r.Experts+1)], r.Offsets)
	w.layer++
}

// Counts is how many slots each expert of each layer got in the last step; good after the stream's Sync.
func (w *Workspace) Counts() [][]int32 {
	counts := make([][]int32, w.layer)
	for i := range counts {
		c := w.counts[i]
		counts[i] = make([]int32, c.experts)
		for e := range counts[i] {
			from, to := binary.LittleEndian.Uint32(c.offsets[4*e:]), binary.LittleEndian.Uint32(c.offsets[4*e+4:])
			counts[i][e] = int32(to - from)
		}
	}
	return counts
}
