package moe

import (
	"encoding/binary"
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
)

// Shape is the largest MoE layer that a workspace has to serve, and how many tokens a step has at most.
type Shape struct {
	Tokens  int // of a step on this rank
	Hidden  int
	Inner   int // widest ffn of an expert
	Branch  int // and of a residual branch; 0: there is none
	Experts int
	K       int
	Layers  int // MoE layers, for the counts
}

// rows is how many rows of experts' work a step has at most; a residual branch has one a token.
func (s Shape) rows() int { return max(s.Tokens*s.K, s.Tokens) }

// inner is the columns of rows that hold the inside of all experts' work, and that of a residual branch.
func (s Shape) inner() int {
	k := max(s.K, 1)
	return max(s.Inner, (s.Branch+k-1)/k)
}

// Bytes is the memory, in bytes, that a workspace of this shape takes with activations of type d. What other ranks send comes on
// top: how much that is, the routing decides.
func (s Shape) Bytes(d kernels.DType) int64 {
	var bytes int64
	for _, t := range s.tensors(new(Workspace), d) {
		bytes += int64(t.rows) * int64(t.cols) * int64(t.dtype.Size())
	}
	return bytes
}

// tensor is one tensor of a workspace and its place in it.
type tensor struct {
	what       string
	to         *kernels.Tensor
	dtype      kernels.DType
	rows, cols int
}

func (s Shape) tensors(w *Workspace, act kernels.DType) []tensor {
	return []tensor{
		{"gate logits", &w.logits, kernels.F32, s.Tokens, s.Experts},
		{"residual coefficients", &w.coef, kernels.F32, s.Tokens, 2},
		{"expert activations", &w.inner, act, s.rows(), s.inner()},
		{"expert results", &w.slots, act, s.rows(), s.Hidden},
		{"experts of choices", &w.expert, kernels.I32, s.Tokens, s.K},
		{"weights of choices", &w.weight, kernels.F32, s.Tokens, s.K},
		{"choices of slots", &w.choices, kernels.I32, 1, s.Tokens * s.K},
		{"slots of choices", &w.placed, kernels.I32, 1, s.Tokens * s.K},
		{"slot offsets", &w.offsets, kernels.I32, s.Layers, s.Experts + 1},
	}
}

// Sections of a step, as Workspace.Enter names them.
const (
	Route    = "route"
	Dispatch = "dispatch"
	Experts  = "experts"
	Combine  = "combine"
	Dense    = "dense" // a residual branch
)

// Workspace is the memory in which layers of up to a shape run, one after the other, and the tokens that each expert
// of each layer was given.
type Workspace struct {
	logits, coef, inner, slots      kernels.Tensor
	expert, weight, choices, placed kernels.Tensor
	offsets                         kernels.Tensor // [layers, experts+1]
	tensors                         []kernels.Tensor
	routed                          kernels.Routing // of the last layer
	layer                           int
	experts                         []int  // of each layer of the step so far
	computed                        []int  // rows of each that the experts here computed; -1: this rank's slots
	counts                          []byte // what offsets held when all layers had run
	exchange                        exchangeBuffers
	arrivals                        arrivals
	shape                           Shape
	most                            int // tokens of any rank's step
	traffic                         comm.Traffic

	// Sum adds up the residual branch's results where it is cut; nil: it is whole.
	Sum *comm.Sum
	// Enter, where not nil, is called when a section of the layer begins, for measuring.
	Enter func(section string)
}

func (w *Workspace) enter(section string) {
	if w.Enter != nil {
		w.Enter(section)
	}
}

// NewWorkspace takes the memory for layers of up to shape on d, with activations of type act.
func NewWorkspace(d kernels.Device, act kernels.DType, shape Shape) (*Workspace, error) {
	w := &Workspace{counts: make([]byte, 4*shape.Layers*(shape.Experts+1)), exchange: exchangeBuffers{device: d, act: act}, shape: shape}
	if err := w.allocate(shape.tensors(w, act)); err != nil {
		w.Free()
		return nil, err
	}
	return w, nil
}

func (w *Workspace) allocate(all []tensor) error {
	for _, a := range all {
		t, err := w.exchange.device.Alloc("moe: "+a.what, a.dtype, a.rows, a.cols)
		if err != nil {
			return fmt.Errorf("moe workspace: %w", err)
		}
		*a.to, w.tensors = t, append(w.tensors, t)
	}
	return nil
}

// Free gives the memory back.
func (w *Workspace) Free() {
	for _, t := range w.tensors {
		t.Mem.Free()
	}
	w.tensors = nil
	w.exchange.free()
}

// Begin starts a step: the next Forward is that of the first MoE layer. No rank has more than most tokens in it, where that is
// known; 0: no more than the workspace is for.
func (w *Workspace) Begin(most int) {
	w.tell()
	w.layer, w.most = 0, w.shape.Tokens
	if most > 0 {
		w.most = min(w.most, bound(most))
	}
}

// route is the memory for the routing of the layer at hand, for so many tokens.
func (w *Workspace) route(g kernels.Gate, tokens int) kernels.Routing {
	w.routed = kernels.Routing{
		K: g.K, Experts: g.Experts,
		Expert: w.expert.Reshape(tokens, g.K), Weight: w.weight.Reshape(tokens, g.K),
		Offsets: w.offsets.RowRange(w.layer, w.layer+1).ColRange(0, g.Experts+1),
		Choices: w.choices.ColRange(0, tokens*g.K), Place: w.placed.ColRange(0, tokens*g.K),
	}
	return w.routed
}

// Routed is what the last layer's gate has decided, and the logits [tokens, experts] F32 that it decided by: views that
// the next layer overwrites.
func (w *Workspace) Routed() (r kernels.Routing, logits kernels.Tensor) {
	return w.routed, w.logits.Reshape(w.routed.Expert.Rows, w.routed.Experts)
}

// count notes that a layer's offsets are there, and that its experts here computed so many rows; -1: this rank's slots, or what
// came through its window. The offsets are read when the last layer's are there, all at once.
func (w *Workspace) count(s kernels.Stream, r kernels.Routing, x *Exchange, width, computed int) {
	w.experts, w.computed = append(w.experts[:w.layer], r.Experts), append(w.computed[:w.layer], computed)
	w.arrivals.note(w.layer, x, width)
	if w.layer++; w.layer < w.offsets.Rows {
		return
	}
	s.Read(w.counts, w.offsets)
	if len(w.arrivals.counts) > 0 {
		s.Read(w.arrivals.counts, w.arrivals.offsets)
		w.arrivals.untold = true
	}
}

// Counts is how many slots each expert of each layer got in the last step; good once all layers have run, after the
// stream's Sync.
func (w *Workspace) Counts() [][]int32 {
	counts := make([][]int32, w.layer)
	for i := range counts {
		row := w.counts[4*i*w.offsets.Cols:]
		counts[i] = make([]int32, w.experts[i])
		for e := range counts[i] {
			from, to := binary.LittleEndian.Uint32(row[4*e:]), binary.LittleEndian.Uint32(row[4*e+4:])
			counts[i][e] = int32(to - from)
		}
	}
	return counts
}

// Traffic is what this rank has sent, since the workspace was made, through windows, for slices of experts and for shares of
// tokens: not what the exchanges' Rows have moved. Good when Counts is.
func (w *Workspace) Traffic() comm.Traffic {
	w.tell()
	return w.traffic
}

// Computed is how many rows the experts of each layer that are here computed in the last step, those of other ranks'
// tokens too; of an expert in slices, all rows that its slices share. Good when Counts is.
func (w *Workspace) Computed() []int {
	computed := append([]int(nil), w.computed[:w.layer]...)
	for i, counts := range w.Counts() {
		switch {
		case computed[i] >= 0:
		case w.arrivals.layers[i] != nil:
			computed[i] = w.arrivals.computed(i, len(counts))
		default:
			computed[i] = 0
			for _, n := range counts {
				computed[i] += int(n)
			}
		}
	}
	return computed
}
