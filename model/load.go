package model

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

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
	DType kernels.DType // of the linear weights, the output embedding among them, but for gates and coefficients; 0: F32
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
	// Placement, where not nil, gives the places of a layer's experts that are spread over ranks, each of which holds an
	// equal run of places, as this rank's tokens see them; nil: in order, each once. It changes no result.
	Placement func(layer int) []shard.Place
	// Offload is how many of the stage's layers have their linear weights in the host's memory: they come to the
	// device when their turn comes, into so many Buffers (kernels.Ring; 0: kernels.LeastBuffers). It changes no result.
	Offload, Buffers int
	// Widened, where not nil, is called once where weights in MXFP4 take the memory of bfloat16, with the first of them and why.
	Widened func(what, why string)
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
	if o.DType == 0 {
		o.DType = kernels.F32
	}
	l := &loader{ckpt: c, policy: p, config: &config, device: d, options: o,
		model: &Model{Config: config, DType: o.DType, device: d}}
	return l, l.survey(ctx, placeIn(o.TP))
}

// survey is the first pass, for the rank at a place of the tp group.
func (l *loader) survey(ctx context.Context, at place) error {
	if err := l.config.check(); err != nil {
		return err
	}
	l.used = map[string]bool{}
	l.layOut(at)
	l.surveying = true
	l.all(ctx)
	if l.err == nil {
		l.err = l.leftOver()
		l.noteFault()
	}
	return l.err
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

	ctx         context.Context // of Load
	surveying   bool
	elsewhere   bool              // what is surveyed now is another stage's
	wanted      []ckpt.Tensor     // by the first pass, in order
	read        *fetcher          // the second pass's
	told        bool              // of weights that were widened
	held        []ckpt.Tensor     // whose bytes the weights at hand are packed from
	packed      []kernels.Weights // of the layer at hand, and their bytes
	packedBytes int64
	offloads    []bool // of the stage's layers, those that are
	groups      int    // of the ring, so far
	slicing     slicing
	stage       stage
	spread      map[int]part // by the number of experts of a layer

	contents *Contents // of Look: faults and linear weights are noted there; nil: the first fault ends it
}

func (l *loader) load(ctx context.Context) error {
	l.surveying, l.model.bytes = false, 0
	l.read = fetch(ctx, l.wanted)
	defer l.read.close()
	if l.err = l.newRing(); l.err != nil {
		return l.err
	}
	l.all(ctx)
	if l.err == nil && l.model.ring != nil {
		l.err = l.model.ring.Fill()
	}
	return l.err
}

// layOut settles what of the model is here.
func (l *loader) layOut(at place) {
	if l.slicing, l.err = newSlicing(l.config, at, l.options.Slices); l.err != nil {
		return
	}
	if l.spreadExperts(); l.err != nil {
		return
	}
	l.stage, l.err = newStage(l.config, l.options, l.expertsHeld)
	m := l.model
	m.slicing, m.stage = l.slicing, l.stage
	if l.options.TP != nil && m.ranks > 1 && l.err == nil {
		m.tp = l.options.TP
		m.vocabulary = newVocabulary(l.options.TP, &l.slicing)
	}
}

// all makes every part of the model that is here; surveying, it looks at the others too.
func (l *loader) all(ctx context.Context) {
	l.ctx = ctx
	c, m := l.config, l.model
	if l.at(l.stage.first) {
		l.embeddings()
	}
	if l.at(l.stage.last) {
		if c.finalNorm() {
			m.norm = l.normAt("norm", 0, c.Hidden, 0)
		}
		if c.Width() != c.Hidden {
			m.narrow = l.pack("head projection", l.one(l.linear("embed.out", 0, 0, l.whole(c.Width(), c.Hidden), false)))
		}
	}
	if c.Rope != nil {
		m.rope = l.rope()
	}
	if c.ALiBi {
		m.slopes = l.slopes()
	}
	m.layers, m.layerBytes = m.layers[:0], m.layerBytes[:0]
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
		l.packed, l.packedBytes = l.packed[:0], 0
		if y := l.layer(i); !l.elsewhere {
			y.group = l.offload(i)
			m.layers, m.layerBytes = append(m.layers, y), append(m.layerBytes, l.packedBytes)
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

// embeddings puts the tables of ids and positions on the device, and what comes between them and the first layer.
func (l *loader) embeddings() {
	c, m, table := l.config, l.model, l.tableType()
	m.embed = l.upload("embed", 0, table, c.Vocab, c.Width())
	if c.Width() != c.Hidden {
		m.widen = l.pack("embedding projection", l.one(l.linear("embed.in", 0, 0, l.whole(c.Hidden, c.Width()), false)))
	}
	if c.Learned {
		m.positions = l.positions(table)
	}
	if c.EmbedNorm {
		n := l.normAt("embed.norm", 0, c.Hidden, 0)
		m.embedNorm = &n
	}
}

// headBias is the name of the output embedding's bias, whose weight has the name; "": it has none.
func (l *loader) headBias(weight string) string {
	switch {
	case l.config.Head == HeadMasks:
		return l.policy.Tensors.name("head.bias", 0, 0)
	case l.config.Bias.Head:
		return biasOf(weight)
	}
	return ""
}

// slopes are those of this rank's heads, [1, heads].
func (l *loader) slopes() kernels.Tensor {
	q, data := l.slicing.own().Q, []byte(nil)
	for _, s := range l.config.slopes()[q.From:q.To] {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(s))
	}
	return l.put("slopes of heads", kernels.F32, kernels.Matrix{DType: kernels.F32, Rows: 1, Cols: q.Len(), Data: data})
}

// head packs this rank's rows of the output embedding, in the type of the other weights. A tied table is here in its own
// type besides: what looks ids up reads a row or two of it, what makes logits all of it.
func (l *loader) head() {
	c, name := l.config, "head"
	l.encoderHeads()
	if !c.Head.ofVocabulary() {
		return
	}
	if c.TiedHead {
		name = "embed"
		l.use(l.policy.Tensors.name("head", 0, 0)) // some files hold the tied matrix twice
	}
	own := l.slicing.vocab[l.slicing.rank]
	name = l.policy.Tensors.name(name, 0, 0)
	l.noteLinear(name, !c.TiedHead && !l.policy.Transposed) // never is this one stored [in, out]
	y := kernels.Linear{Parts: []kernels.Matrix{l.named(name, window{c.Vocab, c.Width(), own, shard.Range{To: c.Width()}})}}
	if bias := l.headBias(name); bias != "" {
		y.Bias = []kernels.Matrix{l.named(bias, window{1, c.Vocab, shard.Range{To: 1}, own})}
	}
	l.model.head = l.pack("head", l.one(y))
}
