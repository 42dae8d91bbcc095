package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/comm"
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
	// TP is the ranks over which heads, the inside of dense MLPs and the vocabulary are sliced; nil: not at all.
	TP *comm.Group
	// Slices, a power of two, cuts the inputs of every row-parallel product, an expert's second one too, into so many
	// slices whatever TP and the exchange's Slice are, so that results do not depend on these; 0: one slice a rank.
	Slices int
	// Stage is the pipeline stage to load, from 0, of Stages; 0 of 0 or of 1 is the whole model.
	Stage, Stages int
	// Capacity, where not nil, makes the experts drop tokens.
	Capacity *moe.Capacity
	// Experts gives the exchange over which experts of a layer with so many are spread; nil: all are here.
	Experts func(experts int) (*moe.Exchange, error)
	// Placement, where not nil, gives the expert at each place of a layer that is spread over ranks, each of which holds a
	// run of places; nil: in order. It changes no result.
	Placement func(layer int) []int
	// Progress, where not nil, is called after each layer of the stage.
	Progress func(layers, of int)
}

// Load reads the tensors that p names out of c into packed weights on d. All tensors are checked against the config
// before the first byte of one is looked at; only what this rank holds is read. Tensors are read while others are
// packed, and a packed one's pages are let go of, so that no weight is in memory twice. Ranks that share a model load it
// each by itself: nothing is sent.
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
	l.layOut()
	l.surveying = true
	l.all(ctx)
	if l.err == nil {
		l.err = l.leftOver()
	}
	return l, l.err
}

// loader loads one model, in two passes over the same code: the first names and checks every tensor, of other stages
// too, the second packs what is read in that order. The first error ends it.
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
	elsewhere bool          // what is surveyed now is another stage's
	wanted    []ckpt.Tensor // by the first pass, in order
	read      *fetcher      // the second pass's
	held      []ckpt.Tensor // whose bytes the weights at hand are packed from
	slicing   slicing
	stage     stage
	spread    map[int]part // by the number of experts of a layer
}

// part is this rank's part of the experts of a layer: those from from to to, of each of them the slices of place.
type part struct {
	exchange *moe.Exchange
	from, to int
	place    place
}

func (l *loader) load(ctx context.Context) error {
	l.surveying, l.model.bytes = false, 0
	l.read = fetch(ctx, l.wanted)
	defer l.read.close()
	l.all(ctx)
	return l.err
}

// layOut settles what of the model is here.
func (l *loader) layOut() {
	if l.slicing, l.err = newSlicing(l.config, l.options); l.err != nil {
		return
	}
	if l.spreadExperts(); l.err != nil {
		return
	}
	l.stage, l.err = newStage(l.config, l.options, func(experts int) (held, slices int) {
		p := l.spread[experts]
		return p.to - p.from, p.place.ranks
	})
	m := l.model
	m.slicing, m.stage = l.slicing, l.stage
	if m.ranks > 1 && l.err == nil {
		m.tp = l.options.TP
		m.vocabulary = newVocabulary(l.options.TP, &l.slicing)
	}
}

// all makes every part of the model that is here; surveying, it looks at the others too.
func (l *loader) all(ctx context.Context) {
	l.ctx = ctx
	c, m := l.config, l.model
	if l.at(l.stage.first) {
		table := l.tableType()
		m.embed = l.upload("embed", 0, table, c.Vocab, c.Hidden)
		if c.Learned {
			m.positions = l.upload("positions", 0, table, c.Window, c.Hidden)
		}
	}
	if l.at(l.stage.last) {
		m.norm = l.normAt("norm", 0, c.Hidden, 0)
	}
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
		if !l.at(l.stage.From <= i && i < l.stage.To) {
			continue
		}
		if y := l.layer(i); !l.elsewhere {
			m.layers = append(m.layers, y)
		}
		if l.options.Progress != nil && !l.surveying {
			l.options.Progress(len(m.layers), l.stage.Len())
		}
	}
	if l.at(l.stage.last) {
		l.head()
	}
}

// at turns to a part of the model, which is this stage's or not, and tells whether there is anything to do for it.
func (l *loader) at(here bool) bool {
	l.elsewhere = !here
	return here || l.surveying
}

// head packs this rank's rows of the output embedding.
func (l *loader) head() {
	c, name := l.config, "head"
	if c.TiedHead {
		name = "embed"
		l.use(l.policy.Tensors.name("head", 0, 0)) // some files hold the tied matrix twice
	}
	all := l.slicing.hidden
	rows := l.named(l.policy.Tensors.name(name, 0, 0), window{c.Vocab, c.Hidden, l.slicing.vocab[l.slicing.rank], all})
	l.model.head = l.pack("head", kernels.WeightSpec{DType: l.headType(), Experts: []kernels.Linear{{Parts: []kernels.Matrix{rows}}}})
}

// spreadExperts settles which experts of the layers are here.
func (l *loader) spreadExperts() {
	l.spread = map[int]part{}
	for _, m := range l.config.MoE {
		experts := m.Gate.Experts
		if _, known := l.spread[experts]; known || experts == 0 || l.err != nil {
			continue
		}
		mine := part{to: experts, place: place{0, 1}}
		if l.options.Experts != nil {
			if mine.exchange, l.err = l.options.Experts(experts); l.err == nil && mine.exchange != nil {
				var spread shard.Experts
				spread, l.err = shard.Spread(experts, mine.exchange.Ranks)
				if l.err == nil {
					mine.from, mine.to = spread.Range(mine.exchange.Rank)
				}
				mine.place = placeIn(mine.exchange.Slice)
			}
		}
		l.spread[experts] = mine
	}
}

func (l *loader) layer(i int) layer {
	c, own := l.config, l.slicing.own()
	y := layer{attnNorm: l.normAt("attn.norm", i, c.Hidden, 0), mlpNorm: l.normAt("mlp.norm", i, c.Hidden, 0)}
	y.qkv = l.pack(fmt.Sprintf("layer %d attention", i), l.one(l.qkv(i)))
	slices, err := l.slicing.attention(c)
	if err != nil {
		l.fail(err)
		return y
	}
	y.out = l.rowParallel(fmt.Sprintf("layer %d attention output", i), "attn.out", i, []int{0}, c.Heads*c.HeadDim, slices, c.Bias.Out)
	switch c.QKNorm {
	case QKNormHead:
		q, k := l.normAt("attn.qnorm", i, c.HeadDim, own.Q.Len()), l.normAt("attn.knorm", i, c.HeadDim, own.KV.Len())
		y.qNorm, y.kNorm = &q, &k
	case QKNormFull:
		q, k := l.normAt("attn.qnorm", i, c.Heads*c.HeadDim, 0), l.normAt("attn.knorm", i, c.KVHeads*c.HeadDim, 0)
		y.qNorm, y.kNorm = &q, &k
	}
	if m := c.MoE[i]; m.Gate.Experts > 0 {
		y.moe = l.moe(i, m)
		return y
	}
	if slices, err = l.slicing.inside(c.FFN); err != nil {
		l.fail(err)
		return y
	}
	if !l.elsewhere {
		l.model.inner = max(l.model.inner, span(slices).Len())
	}
	y.up, y.down = l.mlp(fmt.Sprintf("layer %d mlp", i), "mlp", i, []int{0}, c.FFN, slices, c.Bias.MLP, c.Bias.MLP)
	return y
}

// moe loads an MoE layer: the gate, this rank's experts, the residual branch.
func (l *loader) moe(i int, m MoE) *moe.Layer {
	c := l.config
	y := &moe.Layer{Gate: m.Gate, Act: c.Act, Capacity: l.options.Capacity}
	y.Logits = l.pack(fmt.Sprintf("layer %d gate", i), kernels.WeightSpec{DType: kernels.F32,
		Experts: []kernels.Linear{l.linear("moe.gate", i, 0, l.whole(m.Gate.Experts, c.Hidden), false)}})
	mine := l.spread[m.Gate.Experts]
	y.Exchange = mine.exchange
	held := l.expertsHere(i, y, mine)
	slices, err := cut("the inside of an expert", m.FFN, mine.place, l.options.Slices)
	if err != nil {
		l.fail(err)
		return y
	}
	l.widen(moe.Shape{Inner: span(slices).Len(), Experts: m.Gate.Experts, K: m.Gate.K, Layers: 1})
	y.Up, y.Down = l.mlp(fmt.Sprintf("layer %d experts", i), "expert", i, held, m.FFN, slices, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
	l.useExperts(i, m)
	if m.Residual {
		if slices, err = l.slicing.inside(m.FFN); err != nil {
			l.fail(err)
			return y
		}
		l.widen(moe.Shape{Inner: span(slices).Len()})
		r := &moe.Residual{}
		r.Up, r.Down = l.mlp(fmt.Sprintf("layer %d residual branch", i), "residual", i, []int{0}, m.FFN, slices, c.Bias.MLP, c.Bias.MLP && m.OutputBias)
		r.Mix = l.pack(fmt.Sprintf("layer %d residual coefficients", i), kernels.WeightSpec{DType: kernels.F32,
			Experts: []kernels.Linear{l.linear("residual.mix", i, 0, l.whole(2, c.Hidden), true)}})
		y.Residual = r
	}
	return y
}

// expertsHere is the experts of a layer that this rank holds, in order of their places.
func (l *loader) expertsHere(i int, y *moe.Layer, mine part) []int {
	experts := y.Gate.Experts
	places := make([]int, experts)
	for e := range places {
		places[e] = e
	}
	if p := l.options.Placement; p != nil && y.Exchange != nil {
		if placed := p(i); placed != nil {
			if !slices.Equal(slices.Sorted(slices.Values(placed)), places) {
				l.fail(fmt.Errorf("%w: layer %d: the placement %v does not name each of %d experts once", ErrSlices, i, placed, experts))
				return nil
			}
			y.Placement, places = placed, placed
		}
	}
	return places[mine.from:mine.to]
}

// widen notes what an MoE layer that is here needs.
func (l *loader) widen(by moe.Shape) {
	if l.elsewhere || !l.surveying {
		return
	}
	m := &l.model.largest
	m.Inner, m.Experts, m.K = max(m.Inner, by.Inner), max(m.Experts, by.Experts), max(m.K, by.K)
	m.Layers += by.Layers
}

// mlp packs the two linear ops of experts, or of a dense MLP (one of one): up (gated where the family is)
// and down, for the slices of the inside [ffn] that are here.
func (l *loader) mlp(what, kind string, layer int, experts []int, ffn int, slices []shard.Range, upBias, downBias bool) (up kernels.Weights, down []kernels.Weights) {
	c := l.config
	shape := window{ffn, c.Hidden, span(slices), l.slicing.hidden}
	u := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group, Gated: c.Gated}
	for _, e := range experts {
		in := l.linear(kind+".up", layer, e, shape, upBias)
		if c.Gated {
			gate := l.linear(kind+".gate", layer, e, shape, upBias)
			in.Parts, in.Bias = append(gate.Parts, in.Parts...), append(gate.Bias, in.Bias...)
		}
		u.Experts = append(u.Experts, in)
	}
	up = l.pack(what+" up", u)
	return up, l.rowParallel(what+" down", kind+".down", layer, experts, ffn, slices, downBias)
}

// rowParallel packs the slices that are here of a linear op's inputs [in], for each of experts. The bias is the first
// slice's: so it is added once.
func (l *loader) rowParallel(what, canonical string, layer int, experts []int, in int, slices []shard.Range, bias bool) (w []kernels.Weights) {
	hidden, group := l.config.Hidden, l.options.Group
	for _, r := range slices {
		if l.options.DType == kernels.I8 && group > 0 && r.Len() < in && r.Len()%group != 0 {
			l.fail(fmt.Errorf("%w: %s: a slice of %d of %d inputs is no multiple of the int8 groups of %d; use groups that divide it, or one scale a row", ErrSlices, what, r.Len(), in, group))
		}
		s := kernels.WeightSpec{DType: l.options.DType, Group: l.options.Group}
		for _, e := range experts {
			s.Experts = append(s.Experts, l.linear(canonical, layer, e, window{hidden, in, l.slicing.hidden, r}, bias && r.From == 0))
			if bias {
				l.use(biasOf(l.policy.Tensors.name(canonical, layer, e)))
			}
		}
		w = append(w, l.pack(what, s))
	}
	return w
}

// linear is one linear op's part of its matrix [out, in], and the bias of these outputs. Where the bias does not count
// its tensor may still be there.
func (l *loader) linear(canonical string, layer, expert int, s window, bias bool) kernels.Linear {
	y := kernels.Linear{Transposed: l.policy.Transposed}
	name := l.policy.Tensors.name(canonical, layer, expert)
	if y.Transposed {
		y.Parts = []kernels.Matrix{l.named(name, s.transposed())}
	} else {
		y.Parts = []kernels.Matrix{l.named(name, s)}
	}
	if bias {
		y.Bias = []kernels.Matrix{l.named(biasOf(name), window{1, s.rows, shard.Range{To: 1}, s.ofRows})}
	} else if l.config.Bias.MLP {
		l.use(biasOf(name)) // dropped on purpose: the output bias of an expert that does not count
	}
	return y
}

// qkv is the three projections of this rank's heads over one another, [q + 2·kv, hidden].
func (l *loader) qkv(i int) kernels.Linear {
	c, own := l.config, l.slicing.own()
	dim := c.HeadDim
	q := shard.Range{From: own.Q.From * dim, To: own.Q.To * dim}
	kv := shard.Range{From: own.KV.From * dim, To: own.KV.To * dim}
	heads, kvs := c.Heads*dim, c.KVHeads*dim
	rows := func(of int, from, to int) window {
		return window{of, c.Hidden, shard.Range{From: from, To: to}, l.slicing.hidden}
	}
	switch l.policy.QKV {
	case QKVApart:
		return stacked(
			l.linear("attn.q", i, 0, rows(heads, q.From, q.To), c.Bias.QKV),
			l.linear("attn.k", i, 0, rows(kvs, kv.From, kv.To), c.Bias.QKV),
			l.linear("attn.v", i, 0, rows(kvs, kv.From, kv.To), c.Bias.QKV))
	case QKVByHead:
		y := l.linear("attn.qkv", i, 0, rows(3*heads, 3*q.From, 3*q.To), c.Bias.QKV)
		if l.err != nil || l.surveying {
			return y
		}
		y.Parts = byHead(y.Parts[0], own.Q.Len(), dim)
		if c.Bias.QKV {
			y.Bias = byHead(kernels.Matrix{DType: y.Bias[0].DType, Rows: 3 * q.Len(), Cols: 1, Data: y.Bias[0].Data}, own.Q.Len(), dim)
			for j := range y.Bias {
				y.Bias[j].Rows, y.Bias[j].Cols = 1, q.Len()
			}
		}
		return y
	}
	all := heads + 2*kvs
	if q.Len() == heads {
		return l.linear("attn.qkv", i, 0, l.whole(all, c.Hidden), c.Bias.QKV)
	}
	return stacked(
		l.linear("attn.qkv", i, 0, rows(all, q.From, q.To), c.Bias.QKV),
		l.linear("attn.qkv", i, 0, rows(all, heads+kv.From, heads+kv.To), c.Bias.QKV),
		l.linear("attn.qkv", i, 0, rows(all, heads+kvs+kv.From, heads+kvs+kv.To), c.Bias.QKV))
}

// stacked lays linear ops over one another.
func stacked(ops ...kernels.Linear) kernels.Linear {
	y := kernels.Linear{Transposed: ops[0].Transposed}
	for _, o := range ops {
		y.Parts, y.Bias = append(y.Parts, o.Parts...), append(y.Bias, o.Bias...)
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
	n.Weight = l.put(name, kernels.F32, l.named(name, l.whole(1, cols)))
	if n.Kind == kernels.LayerNorm {
		n.Bias = l.put(biasOf(name), kernels.F32, l.named(biasOf(name), l.whole(1, cols)))
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
