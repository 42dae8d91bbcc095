package model_test

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/model/modeltest"
	"github.com/dsbatch/dsbatch/model/policies"
)

// trainedModel is the folder of a trained model: the bundled one in the checkout, the others beside it.
func trainedModel(t testing.TB, name string) string {
	t.Helper()
	bundled := filepath.Join("..", "examples", name)
	if _, err := os.Stat(bundled); err == nil {
		return bundled
	}
	return modeltest.Shared(t, name)
}

// runner runs steps through a model, with a cache of its own.
type runner struct {
	t          testing.TB
	model      *model.Model
	stream     kernels.Stream
	workspace  *model.Workspace
	cache      kernels.Cache
	device     kernels.Device
	checkpoint *ckpt.Checkpoint
}

const runnerBlock = 16

// newRunner loads the model in dir for steps of up to so many tokens.
func newRunner(t testing.TB, dir string, tokens int, o model.LoadOptions) *runner {
	t.Helper()
	device, err := openDevice()
	check(t, err)
	r, err := openRunner(t, device, dir, tokens, o)
	check(t, err)
	return r
}

// openRunner is newRunner on a device of the caller's, which the runner closes when the test ends.
func openRunner(t testing.TB, device kernels.Device, dir string, tokens int, o model.LoadOptions) (*runner, error) {
	m, c, err := open(dir, device, o)
	r := &runner{t: t, model: m, device: device, checkpoint: c}
	t.Cleanup(r.close)
	if err != nil {
		return r, err
	}
	if r.stream, err = device.NewStream(); err != nil {
		return r, err
	}
	if r.workspace, err = m.NewWorkspace(tokens); err != nil {
		return r, err
	}
	r.cache, err = device.NewCache(m.CacheSpec(blocksOf(tokens), runnerBlock))
	return r, err
}

func (r *runner) close() {
	if r.cache != nil {
		r.cache.Free()
	}
	if r.workspace != nil {
		r.workspace.Free()
	}
	if r.stream != nil {
		check(r.t, r.stream.Close())
	}
	if r.model != nil {
		r.model.Close()
	}
	if r.checkpoint != nil {
		check(r.t, r.checkpoint.Close())
	}
	check(r.t, r.device.Close())
}

// load loads the model in dir and closes it, and then the device, when the test ends.
func load(t testing.TB, dir string, device kernels.Device, o model.LoadOptions) *model.Model {
	t.Helper()
	m, c, err := open(dir, device, o)
	check(t, err)
	t.Cleanup(func() {
		m.Close()
		check(t, c.Close())
		check(t, device.Close())
	})
	return m
}

// open goes the whole way from a folder to a loaded model.
func open(dir string, device kernels.Device, o model.LoadOptions) (*model.Model, *ckpt.Checkpoint, error) {
	c, policy, config, err := describe(dir)
	if err != nil {
		return nil, c, err
	}
	m, err := model.Load(context.Background(), c, policy, config, device, o)
	return m, c, err
}

func describe(dir string) (*ckpt.Checkpoint, model.Policy, model.Config, error) {
	path := dir
	if list, err := filepath.Glob(filepath.Join(dir, "megatron.json")); err == nil && len(list) == 1 {
		path = list[0]
	}
	c, err := ckpt.Open(path, ckpt.Options{})
	if err != nil {
		return nil, model.Policy{}, model.Config{}, err
	}
	facts := model.NewFacts(c.Config().Source, c.Config().Values)
	policy, err := policies.Find(facts)
	if err != nil {
		return c, policy, model.Config{}, err
	}
	config, err := policy.Configure(facts)
	return c, policy, config, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// result is all that one step tells.
type result struct {
	hidden [][]float32 // before each layer and after the last, [tokens, hidden]
	logits []float32   // [tokens, vocab], or [texts, labels]
	pooled []float32   // [texts, hidden], where there is a pooler
	routed []routed    // of each MoE layer
}

// routed is what one gate decided: experts and weights of the choices, [tokens, k], by logits [tokens, experts].
type routed struct {
	k, experts int
	expert     []int32
	weight     []float32
	logits     []float32
}

// margin is how far apart, in probability, the last chosen and the first rejected expert of a token are.
func (r routed) margin(token int) float64 {
	logits := r.logits[token*r.experts : (token+1)*r.experts]
	chosen := map[int]bool{}
	least, rejected := math.Inf(1), math.Inf(-1)
	for _, e := range r.expert[token*r.k : (token+1)*r.k] {
		chosen[int(e)] = true
	}
	for e := range logits {
		if p := math.Exp(logprob(logits, e)); chosen[e] {
			least = min(least, p)
		} else {
			rejected = max(rejected, p)
		}
	}
	return least - rejected
}

// forward runs prompts, whole, as one step; rows are in the order of the prompts.
func (r *runner) forward(prompts ...[]int32) result {
	r.t.Helper()
	var y result
	step, release := r.step(prompts)
	defer release()
	step.Hidden = func(_ int, x kernels.Tensor) error {
		y.hidden = append(y.hidden, r.floats(x))
		return nil
	}
	step.Routed = func(_ int, g kernels.Routing, logits kernels.Tensor) error {
		y.routed = append(y.routed, routed{k: g.K, experts: g.Experts, expert: r.readInts(g.Expert), weight: r.floats(g.Weight), logits: r.floats(logits)})
		return nil
	}
	h, err := r.model.Forward(context.Background(), r.stream, step, r.workspace)
	check(r.t, err)
	y.logits, y.pooled, err = r.heads(h, step)
	check(r.t, err)
	return y
}

// heads is what the model makes of the last hidden states of a step: logits of its tokens, or of labels, and the pooler's
// output.
func (r *runner) heads(h kernels.Tensor, step model.Step) (logits, pooled []float32, err error) {
	c := &r.model.Config
	compute := func(d kernels.DType, rows, cols int, f func(y kernels.Tensor) error) ([]float32, error) {
		y, err := r.device.Alloc("head", d, rows, cols)
		if err != nil {
			return nil, err
		}
		defer y.Mem.Free()
		if err := f(y); err != nil {
			return nil, err
		}
		return r.floats(y), nil
	}
	first, err := r.device.Alloc("first tokens", h.DType, step.Batch.Seqs, h.Cols)
	if err != nil {
		return nil, nil, err
	}
	defer first.Mem.Free()
	r.stream.Select(first, h, step.Batch.Start, 1)
	if c.Vocabulary() {
		logits, err = compute(kernels.F32, h.Rows, c.Vocab, func(y kernels.Tensor) error { return r.model.Logits(r.t.Context(), r.stream, y, h) })
	}
	if c.Classifies() && err == nil {
		logits, err = compute(kernels.F32, first.Rows, len(c.Labels), func(y kernels.Tensor) error { return r.model.Classify(r.stream, y, first) })
	}
	if r.model.HasPooler() && err == nil {
		pooled, err = compute(h.DType, first.Rows, h.Cols, func(y kernels.Tensor) error { return r.model.Pool(r.stream, y, first) })
	}
	return logits, pooled, err
}

// score is the log-probabilities of a text's tokens but its first, and the most probable token in the place of each.
func (r *runner) score(ids []int32) (logprobs []float32, best []int32) {
	r.t.Helper()
	step, release := r.step([][]int32{ids})
	defer release()
	h, err := r.model.Forward(context.Background(), r.stream, step, r.workspace)
	check(r.t, err)
	n, vocab := len(ids)-1, r.model.Config.Vocab
	logits, err := r.device.Alloc("logits", kernels.F32, n, vocab)
	check(r.t, err)
	defer logits.Mem.Free()
	p, err := r.device.Alloc("log-probabilities", kernels.F32, n, 1)
	check(r.t, err)
	defer p.Mem.Free()
	greedy, target := r.ints(n, 1, make([]int32, n)), r.ints(n, 1, ids[1:])
	defer greedy.Mem.Free()
	defer target.Mem.Free()
	check(r.t, r.model.Logits(context.Background(), r.stream, logits, h.RowRange(0, n)))
	r.stream.Score(p, greedy, logits, target, vocab)
	all := r.floats(logits)
	for i := range n {
		row := all[i*vocab:][:vocab]
		best = append(best, int32(slices.Index(row, slices.Max(row))))
	}
	return r.floats(p), best
}

// piece is some consecutive tokens of a text whose keys and values lie in consecutive blocks from block on.
type piece struct {
	ids      []int32
	from, to int
	block    int
}

// step puts prompts, whole, into consecutive blocks of the cache.
func (r *runner) step(prompts [][]int32) (step model.Step, release func()) {
	longest := 0
	for _, p := range prompts {
		longest = max(longest, len(p))
	}
	var pieces []piece
	for s, p := range prompts {
		pieces = append(pieces, piece{p, 0, len(p), s * blocksOf(longest)})
	}
	return r.pieces(pieces)
}

func blocksOf(tokens int) int { return (tokens + runnerBlock - 1) / runnerBlock }

// pieces is a step over pieces, which may be none.
func (r *runner) pieces(pieces []piece) (step model.Step, release func()) {
	var ids, positions, slots, seq, table []int32
	var context []int32
	start, longest := []int32{0}, 0
	for _, p := range pieces {
		longest = max(longest, p.to)
	}
	for s, p := range pieces {
		for i := p.from; i < p.to; i++ {
			ids, positions, seq = append(ids, p.ids[i]), append(positions, int32(i)), append(seq, int32(s))
			slots = append(slots, int32(p.block*runnerBlock+i))
		}
		for b := range blocksOf(longest) {
			table = append(table, int32(p.block+b))
		}
		start, context = append(start, int32(len(ids))), append(context, int32(p.to))
	}
	var made []kernels.Tensor
	put := func(rows, cols int, v []int32) kernels.Tensor {
		made = append(made, r.ints(rows, cols, v))
		return made[len(made)-1]
	}
	n := len(ids)
	step = model.Step{IDs: put(1, n, ids), Cache: r.cache, Batch: kernels.Batch{
		Tokens: n, Seqs: len(pieces), MaxContext: longest, Position: put(1, n, positions), Slot: put(1, n, slots),
		Seq: put(1, n, seq), Start: put(1, len(start), start), Blocks: put(len(pieces), blocksOf(longest), table)}}
	if r.model.Config.Bidirectional {
		step.Context = put(1, len(context), context)
	}
	return step, func() {
		for _, t := range made {
			t.Mem.Free()
		}
	}
}

func (r *runner) ints(rows, cols int, v []int32) kernels.Tensor {
	r.t.Helper()
	t, err := r.device.Alloc("test", kernels.I32, rows, cols)
	check(r.t, err)
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, uint32(x))
	}
	r.stream.Write(t, data)
	return t
}

func (r *runner) floats(t kernels.Tensor) []float32 {
	r.t.Helper()
	data := r.bytes(t)
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

func (r *runner) readInts(t kernels.Tensor) []int32 {
	r.t.Helper()
	data := r.bytes(t)
	v := make([]int32, len(data)/4)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

func (r *runner) bytes(t kernels.Tensor) []byte {
	r.t.Helper()
	data := make([]byte, t.Bytes())
	r.stream.Read(data, t)
	check(r.t, r.stream.Sync())
	return data
}
