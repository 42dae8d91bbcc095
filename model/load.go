package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/shard"
)

// ErrTensor marks a checkpoint whose tensors are missing, of the wrong shape, or more than the config tells of.
var ErrTensor = errors.New("checkpoint does not fit its config")

// LoadOptions of Load. The zero value loads the whole model in float32.
type LoadOptions struct {
	DType kernels.DType // of the linear weights; 0: F32
	Group int           // I8: inputs that share a scale; 0: a whole row
	// Capacity, where not nil, makes the experts drop tokens.
	Capacity *moe.Capacity
	// Experts gives the exchange over which experts of a layer with so many are spread; nil: all are here.
	Experts func(experts int) (*moe.Exchange, error)
	// Progress, where not nil, is called after each layer.
	Progress func(layers, of int)
}

// Load reads the tensors that p names out of c into packed weights on d. All tensors are checked against the config
// before the first byte of one is looked at; of the experts only this rank's are read. Tensors are read while others
// are packed, and a packed one's pages are let go of, so that no weight is in memory twice.
func Load(ctx context.Context, c *ckpt.Checkpoint, p Policy, config Config, d kernels.Device, o LoadOptions) (*Model, error) {
	l, err := survey(ctx, c, p, config, d, o)
	if err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		l.model.Close()
		return nil, err
	}
	return l.model, nil
}

// Survey checks as Load does, and reads no weight. The model that it returns has none and cannot run; it knows what it
// will take: Bytes (of packed weights without their padding), CacheSpec, WorkspaceBytes.
func Survey(ctx context.Context, c *ckpt.Checkpoint, p Policy, config Config, d kernels.Device, o LoadOptions) (*Model, error) {
	l, err := survey(ctx, c, p, config, d, o)
	if err != nil {
		return nil, err
	}
	return l.model, nil
}

func survey(ctx context.Context, c *ckpt.Checkpoint, p Policy, config Config, d kernels.Device, o LoadOptions) (*loader, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if o.DType == 0 {
		o.DType = kernels.F32
	}
	l := &loader{ckpt: c, policy: p, config: &config, device: d, options: o, used: map[string]bool{},
		model: &Model{Config: config, DType: o.DType, device: d}}
	l.spreadExperts()
	l.surveying = true
	l.all(ctx)
	if l.err == nil {
		l.err = l.leftOver()
	}
	return l, l.err
}

// loader loads one model, in two passes over the same code: the first names and checks every tensor, the second packs
// what is read in that order. The first error ends it.
type loader struct {
	ckpt    *ckpt.Checkpoint
	policy  Policy
	config  *Config
	device  kernels.Device
	options LoadOptions
	model   *Model
	used    map[string]bool
	err     error

	ctx       context.Context // of Load
	surveying bool
	wanted    []ckpt.Tensor // by the first pass, in order
	read      *fetcher      // the second pass's
	held      []ckpt.Tensor // whose bytes the weights at hand are packed from
	spread    map[int]part  // by the number of experts of a layer
}

// part is this rank's part of the experts of a layer.
type part struct {
	exchange *moe.Exchange
	from, to int
}

func (l *loader) load(ctx context.Context) error {
	l.surveying, l.model.bytes = false, 0
	l.read = fetch(ctx, l.wanted)
	defer l.read.close()
	l.all(ctx)
	return l.err
}

// all makes every part of the model.
func (l *loader) all(ctx context.Context) {
	l.ctx = ctx
	c, m := l.config, l.model
	table := l.tableType()
	m.embed = l.upload("embed", 0, table, c.Vocab, c.Hidden)
	if c.Learned {
		m.positions = l.upload("positions", 0, table, c.Window, c.Hidden)
	}
	m.norm = l.normAt("norm", 0, c.Hidden, 0)
	if c.Rope != nil {
		m.rope = l.rope()
	}
	m.layers = m.layers[:0]
	for i := range c.Layers {
		if l.err == nil {
			l.err = ctx.Err()
		}
		if l.err != nil {
			return
		}
		m.layers = append(m.layers, l.layer(i))
		if l.options.Progress != nil && !l.surveying {
			l.options.Progress(i+1, c.Layers)
		}
	}
	name := "head"
	if c.TiedHead {
		name = "embed"
		l.use(l.policy.Tensors.name("head", 0, 0)) // some files hold the tied matrix twice
	}
	head := kernels.WeightSpec{DType: l.headType(), Experts: []kernels.Linear{{Parts: []kernels.Matrix{l.matrix(name, 0, 0, c.Vocab, c.Hidden)}}}}
	m.head = l.pack("head", head)
}

// spreadExperts settles which experts of the layers are here.
func (l *loader) spreadExperts() {
	l.spread = map[int]part{}
	for _, m := range l.config.MoE {
		experts := m.Gate.Experts
		if _, known := l.spread[experts]; known || experts == 0 || l.err != nil {
			continue
		}
		mine := part{to: experts}
		if l.options.Experts != nil {
			if mine.exchange, l.err = l.options.Experts(experts); l.err == nil && mine.exchange != nil {
				var spread shard.Experts
				spread, l.err = shard.Spread(experts, mine.exchange.Ranks)
				if l.err == nil {
					mine.from, mine.to = spread.Range(mine.exchange.Rank)
				}
			}
		}
		l.spread[experts] = mine
	}
}

func (l *loader) layer(i int) layer {
	c := l.config
	heads, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	y := layer{attnNorm: l.normAt("attn.norm", i, c.Hidden, 0), mlpNorm: l.normAt("mlp.norm", i, c.Hidden, 0)}
	y.qkv = l.pack(fmt.Sprintf("layer %d attention", i), l.one(l.qkv(i, heads, kv)))
	y.out = l.pack(fmt.Sprintf("layer %d attention output", i), l.one(l.linear("attn.out", i, 0, c.Hidden, heads, c.Bias.Out)))
	switch c.QKNorm {
	case QKNormHead:
		q, k := l.normAt("attn.qnorm", i, c.HeadDim, c.Heads), l.normAt("attn.knorm", i, c.HeadDim, c.KVHeads)
		y.qNorm, y.kNorm = &q, &k
	case QKNormFull:
		q, k := l.normAt("attn.qnorm", i, heads, 0), l.normAt("attn.knorm", i, kv, 0)
		y.qNorm, y.kNorm = &q, &k
	}
	if m := c.MoE[i]; m.Gate.Experts > 0 {
		y.moe = l.moe(i, m)
		return y
	}
	y.up, y.down = l.mlp(fmt.Sprintf("layer %d mlp", i), "mlp", i, 0, 1, c.FFN, c.Bias.MLP, c.Bias.MLP)
	return y
}

// moe loads an MoE layer: the gate, this rank's experts, the residual branch.
func (l *loader) moe(i int, m MoE) *moe.Layer {
	c := l.config
	y := &moe.Layer{Gate: m.Gate, Act: c.Act, Capacity: l.options.Capacity}
	y.Logits = l.pack(fmt.Sprintf("layer %d gate", i), kernels.WeightSpec{DType: kernels.F32,
		Experts: []kernels.Linear{l.linear("moe.gate", i, 0, m.Gate.Experts, c.Hidden, false)}})
	mine := l.spread[m.Gate.Experts]
	from, to := mine.from, mine.to
	y.Exchange = mine.exchange
	y.Up, y.Down = l.mlp(fmt.Sprintf("layer %d experts %d to %d", i, from, to-1), "expert", i, from, to, m.FFN, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
	l.useExperts(i, m)
	if m.Residual {
		r := &moe.Residual{}
		r.Up, r.Down = l.mlp(fmt.Sprintf("layer %d residual branch", i), "residual", i, 0, 1, m.FFN, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
		r.Mix = l.pack(fmt.Sprintf("layer %d residual coefficients", i), kernels.WeightSpec{DType: kernels.F32,
			Experts: []kernels.Linear{l.linear("residual.mix", i, 0, 2, c.Hidden, true)}})
		y.Residual = r
	}
	return y
}

// mlp packs the two linear ops of experts [from, to), or of a dense MLP (one of one): up (gated where the family is)
// and down.
func (l *loader) mlp(what, kind string, layer, from, to, ffn int, upBias, downBias bool) (up, down kernels.Weights) {
	c := l.config
	u := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group, Gated: c.Gated}
	d := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group}
	for e := from; e < to && l.err == nil; e++ {
		in := l.linear(kind+".up", layer, e, ffn, c.Hidden, upBias)
		if c.Gated {
			gate := l.linear(kind+".gate", layer, e, ffn, c.Hidden, upBias)
			in.Parts, in.Bias = append(gate.Parts, in.Parts...), append(gate.Bias, in.Bias...)
		}
		u.Experts = append(u.Experts, in)
		d.Experts = append(d.Experts, l.linear(kind+".down", layer, e, c.Hidden, ffn, downBias))
	}
	return l.pack(what+" up", u), l.pack(what+" down", d)
}

// linear is one linear op's matrix [out, in] and bias. Where the bias does not count its tensor may still be there.
func (l *loader) linear(canonical string, layer, expert, out, in int, bias bool) kernels.Linear {
	y := kernels.Linear{Transposed: l.policy.Transposed}
	if y.Transposed {
		y.Parts = []kernels.Matrix{l.matrix(canonical, layer, expert, in, out)}
	} else {
		y.Parts = []kernels.Matrix{l.matrix(canonical, layer, expert, out, in)}
	}
	name := biasOf(l.policy.Tensors.name(canonical, layer, expert))
	if bias {
		y.Bias = []kernels.Matrix{l.named(name, 1, out)}
	} else if l.config.Bias.MLP {
		l.use(name) // dropped on purpose: the output bias of an expert that does not count
	}
	return y
}

// qkv is the three projections over one another, [heads + 2·kv, hidden].
func (l *loader) qkv(i, heads, kv int) kernels.Linear {
	c := l.config
	if l.policy.QKV == QKVApart {
		var y kernels.Linear
		for _, p := range []struct {
			name string
			out  int
		}{{"attn.q", heads}, {"attn.k", kv}, {"attn.v", kv}} {
			one := l.linear(p.name, i, 0, p.out, c.Hidden, c.Bias.QKV)
			y.Transposed, y.Parts, y.Bias = one.Transposed, append(y.Parts, one.Parts...), append(y.Bias, one.Bias...)
		}
		return y
	}
	y := l.linear("attn.qkv", i, 0, heads+2*kv, c.Hidden, c.Bias.QKV)
	if l.policy.QKV == QKVByHead && l.err == nil && !l.surveying {
		y.Parts = byHead(y.Parts[0], c.Heads, c.HeadDim)
		if c.Bias.QKV {
			y.Bias = byHead(kernels.Matrix{DType: y.Bias[0].DType, Rows: heads + 2*kv, Cols: 1, Data: y.Bias[0].Data}, c.Heads, c.HeadDim)
			for j := range y.Bias {
				y.Bias[j].Rows, y.Bias[j].Cols = 1, heads
			}
		}
	}
	return y
}

// byHead takes rows [heads, 3, dim] apart into q, k and v, [heads·dim] rows each.
func byHead(m kernels.Matrix, heads, dim int) []kernels.Matrix {
	parts := make([]kernels.Matrix, 3)
	size := dim * m.Cols * m.DType.Size()
	for j := range parts {
		data := make([]byte, 0, heads*size)
		for h := range heads {
			at := (h*3 + j) * size
			data = append(data, m.Data[at:at+size]...)
		}
		parts[j] = kernels.Matrix{DType: m.DType, Rows: heads * dim, Cols: m.Cols, Data: data}
	}
	return parts
}

func (l *loader) one(linear kernels.Linear) kernels.WeightSpec {
	return kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group, Experts: []kernels.Linear{linear}}
}

// normAt is a norm's weight and, for a LayerNorm, bias, [1, cols] float32.
func (l *loader) normAt(canonical string, layer, cols, groups int) kernels.Norm {
	n := kernels.Norm{Kind: l.config.Norm, Eps: l.config.Eps, Groups: groups}
	name := l.policy.Tensors.name(canonical, layer, 0)
	n.Weight = l.put(name, kernels.F32, l.named(name, 1, cols))
	if n.Kind == kernels.LayerNorm {
		n.Bias = l.put(biasOf(name), kernels.F32, l.named(biasOf(name), 1, cols))
	}
	return n
}

// rope fills the tables of cosines and sines, [window, dim/2], computed in float64.
func (l *loader) rope() *kernels.Rope {
	r := l.config.Rope
	frequencies, err := r.frequencies()
	if err != nil {
		l.fail(err)
	}
	if l.surveying {
		l.model.bytes += int64(2 * kernels.F32.Size() * l.config.Window * len(frequencies))
	}
	if l.err != nil || l.surveying {
		return nil
	}
	cos, sin := ropeTables(frequencies, l.config.Window)
	return &kernels.Rope{Dim: r.Dim, Interleaved: r.Interleaved,
		Cos: l.put("rotary cosines", kernels.F32, cos), Sin: l.put("rotary sines", kernels.F32, sin)}
}

func biasOf(weight string) string { return strings.TrimSuffix(weight, ".weight") + ".bias" }

// upload puts a whole tensor on the device.
func (l *loader) upload(canonical string, layer int, d kernels.DType, rows, cols int) kernels.Tensor {
	name := l.policy.Tensors.name(canonical, layer, 0)
	return l.put(name, d, l.named(name, rows, cols))
}

func (l *loader) put(what string, d kernels.DType, m kernels.Matrix) kernels.Tensor {
	if l.err != nil || l.surveying {
		l.model.bytes += int64(m.Rows) * int64(m.Cols) * int64(d.Size())
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
	if l.err != nil || l.surveying {
		l.model.bytes += packedBytes(s)
		return nil
	}
	w, err := l.device.Pack(what, s)
	if err != nil {
		l.fail(err)
		return nil
	}
	for _, t := range l.held {
		t.Release()
	}
	l.held = l.held[:0]
	l.model.owned = append(l.model.owned, w)
	l.model.bytes += w.Bytes()
	return w
}

// packedBytes is what packed weights take, but for the padding of tiles: elements, scales of int8 ones, float32 biases.
func packedBytes(s kernels.WeightSpec) (bytes int64) {
	for _, x := range s.Experts {
		for _, m := range x.Parts {
			out, in := int64(m.Rows), int64(m.Cols)
			if x.Transposed {
				out, in = in, out
			}
			bytes += out * in * int64(s.DType.Size())
			if s.DType == kernels.I8 {
				group := cmp.Or(int64(s.Group), in)
				bytes += 4 * out * ((in + group - 1) / group)
			}
		}
		for _, m := range x.Bias {
			bytes += 4 * int64(m.Rows) * int64(m.Cols)
		}
	}
	return bytes
}

// matrix is the tensor that the policy names, checked to be [rows, cols].
func (l *loader) matrix(canonical string, layer, expert, rows, cols int) kernels.Matrix {
	return l.named(l.policy.Tensors.name(canonical, layer, expert), rows, cols)
}

// named is a tensor of the checkpoint: on the first pass checked, on the second with its bytes.
func (l *loader) named(name string, rows, cols int) kernels.Matrix {
	if l.err != nil {
		return kernels.Matrix{}
	}
	var t ckpt.Tensor
	var data []byte
	if l.surveying {
		t, l.err = l.find(name, rows, cols)
		l.wanted = append(l.wanted, t)
	} else {
		t, data, l.err = l.read.take(l.ctx)
		l.held = append(l.held, t)
	}
	if l.err != nil {
		return kernels.Matrix{}
	}
	d, err := dtypeOf(t)
	if err != nil {
		l.fail(err)
	}
	return kernels.Matrix{DType: d, Rows: rows, Cols: cols, Data: data}
}

// find looks a tensor up and checks its shape.
func (l *loader) find(name string, rows, cols int) (ckpt.Tensor, error) {
	t, ok := l.ckpt.Tensor(name)
	if !ok {
		// The hub's oldest GPT-2 files have no prefix.
		if short, cut := strings.CutPrefix(name, "transformer."); cut {
			if t, ok = l.ckpt.Tensor(short); ok {
				name = short
			}
		}
	}
	if !ok {
		return t, fmt.Errorf("%w: tensor %s is missing; is the checkpoint whole, and of the architecture that its config names?", ErrTensor, name)
	}
	l.use(name)
	want := []int64{int64(rows), int64(cols)}
	if rows == 1 && !slices.Equal(t.Shape, want) { // a vector, which some files hold as a row
		want = want[1:]
	}
	if !slices.Equal(t.Shape, want) {
		return t, fmt.Errorf("%w: tensor %s is %v, but the config asks for %v", ErrTensor, name, t.Shape, want)
	}
	return t, nil
}

func (l *loader) use(name string) { l.used[name] = true }

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
		ignored := l.used[name]
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
	if t, ok := l.ckpt.Tensor(l.policy.Tensors.name("embed", 0, 0)); ok {
		if d, err := dtypeOf(t); err == nil && (l.options.DType != kernels.F32 || d != kernels.F32) {
			return d
		}
	}
	return kernels.F32
}

// headType is the type of the output embedding: never int8, whose error every log-probability would carry.
func (l *loader) headType() kernels.DType {
	if l.options.DType == kernels.I8 {
		return kernels.BF16
	}
	return l.options.DType
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
