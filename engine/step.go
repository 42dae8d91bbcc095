package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// stepper runs batches on one device: it runs the model, or its stage of it, over a batch's tokens, and draws or scores.
// Everything it needs is allocated once, for the largest step.
type stepper struct {
	model       *model.Model
	stream      kernels.Stream
	workspace   *model.Workspace
	cache       kernels.Cache
	first, last bool                 // of the pipeline's stages
	draws       bool                 // it scores and draws; with tp one rank of the last stage does so
	enter       func(section string) // nil: nobody measures
	device      time.Duration        // that it had the last step: from when the host had handed it over until it was done
	beside      time.Duration        // of that, what the host did meanwhile
	brought     int64                // bytes of weights that it brought from the host's memory

	ids, position, table, slot, seq, start, blocks kernels.Tensor
	in                                             kernels.Tensor // [tokens, hidden] from the stage before
	rows, hidden, logits                           kernels.Tensor // places of the wanted rows; the rows; their logits
	target, greedy, logprob                        kernels.Tensor
	sample                                         kernels.Sampling
	seen                                           kernels.Tensor
	widths                                         widths
	reader                                         reader
	context                                        kernels.Tensor // bidirectional models: the tokens of each sequence
	tensors                                        []kernels.Tensor
	out                                            []byte // hidden states for the next stage
}

// stepSize bounds a step.
type stepSize struct {
	tokens int // of all sequences
	seqs   int
	ahead  int // rows that wait, below which another chunk is asked for
	blocks int // of the KV cache
	top    int // most probable tokens to report with a drawn one
	logits int // rows of logits, [rows, vocab], that exist at a time: no bit depends on it
	read   reading
}

// bytes is the memory that a stepper of this size takes beside the model's workspace and the cache; in is a hidden state
// from the stage before, 0: it is the first.
func (z stepSize) bytes(c *model.Config, in int) int64 {
	perToken := int64(4*10 + 4*13 + 8*z.top + in)
	return int64(z.tokens)*perToken + 4*int64(z.seqs)*int64(blocksFor(c.Window)+2) + int64(z.logits)*4*int64(z.read.vocab+c.Width()) +
		z.read.bytes(z, c)
}

// newStepper makes a stepper that bans the end tokens where a batch says so.
func newStepper(m *model.Model, z stepSize, p *place, ends []int32) (*stepper, error) {
	st := &stepper{model: m, first: p.first(), last: p.last(), draws: p.draws()}
	if err := st.allocate(z, ends); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

func (st *stepper) allocate(z stepSize, ends []int32) (err error) {
	m, d := st.model, st.model.Device()
	if st.stream, err = d.NewStream(); err != nil {
		return err
	}
	if st.cache, err = d.NewCache(m.CacheSpec(z.blocks, blockTokens)); err != nil {
		return fmt.Errorf("KV cache: %w", err)
	}
	if st.workspace, err = m.NewWorkspace(z.tokens); err != nil {
		return err
	}
	act, s := d.Activations(m.DType), &st.sample
	s.Vocab = m.Config.Tokens
	arriving := 0
	if !st.first {
		arriving = m.Config.Hidden
	}
	for _, a := range []struct {
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}{
		{&st.ids, kernels.I32, 1, z.tokens}, {&st.position, kernels.I32, 1, z.tokens}, {&st.table, kernels.I32, 1, z.tokens}, {&st.slot, kernels.I32, 1, z.tokens},
		{&st.seq, kernels.I32, 1, z.tokens}, {&st.start, kernels.I32, 1, z.seqs + 1},
		{&st.blocks, kernels.I32, z.seqs, blocksFor(m.Config.Window)},
		{&st.in, act, z.tokens, arriving}, {&st.rows, kernels.I32, 1, z.tokens}, {&st.target, kernels.I32, z.tokens, 1}, {&st.greedy, kernels.I32, z.tokens, 1},
		{&st.logprob, kernels.F32, z.tokens, 1},
		{&st.hidden, act, z.logits, m.Config.Width()}, {&st.context, kernels.I32, 1, z.seqs},
		{&s.Temperature, kernels.F32, z.tokens, 1}, {&s.TopP, kernels.F32, z.tokens, 1}, {&s.MinP, kernels.F32, z.tokens, 1},
		{&s.Penalty, kernels.F32, z.tokens, 1}, {&s.U, kernels.F32, z.tokens, 1}, {&s.TopK, kernels.I32, z.tokens, 1},
		{&s.SeenStart, kernels.I32, 1, z.tokens + 1}, {&s.Token, kernels.I32, z.tokens, 1}, {&s.Logprob, kernels.F32, z.tokens, 1},
		{&s.Ban, kernels.I32, z.tokens, 1}, {&s.Banned, kernels.I32, 1, len(ends)},
	} {
		if err := st.alloc(a.to, a.dtype, a.rows, a.cols, z); err != nil {
			return err
		}
	}
	if st.draws && len(ends) > 0 {
		var ids ints
		ids.row(ends, len(ends))
		st.stream.Write(s.Banned, ids)
	}
	return st.turnTo(z)
}

// turnTo has the steps give what z reads, logits and so many likeliest tokens of drawn ones included. Nothing is in flight.
func (st *stepper) turnTo(z stepSize) error {
	s := &st.sample
	for _, err := range []error{
		st.alloc(&st.logits, kernels.F32, z.logits, z.read.vocab, z),
		st.alloc(&s.TopID, kernels.I32, z.tokens, z.top, z), st.alloc(&s.TopLogprob, kernels.F32, z.tokens, z.top, z),
	} {
		if err != nil {
			return err
		}
	}
	st.widths, s.Top = widths{top: z.top, vocab: z.read.vocab, vector: z.read.vector}, z.top
	st.reader.free()
	if !st.draws {
		return nil
	}
	return st.reader.allocate(st.model, z)
}

// alloc makes a tensor in the place of one of another width, none where there are no columns.
func (st *stepper) alloc(to *kernels.Tensor, d kernels.DType, rows, cols int, z stepSize) (err error) {
	if to.Cols == cols {
		return nil
	}
	if old := to.Mem; old != nil {
		st.tensors = slices.DeleteFunc(st.tensors, func(t kernels.Tensor) bool { return t.Mem == old })
		old.Free()
	}
	if *to = (kernels.Tensor{}); cols == 0 {
		return nil
	}
	if *to, err = st.model.Device().Alloc("step", d, rows, cols); err != nil {
		return fmt.Errorf("steps of %d tokens, %d sequences: %w", z.tokens, z.seqs, err)
	}
	st.tensors = append(st.tensors, *to)
	return nil
}

func (st *stepper) close() {
	for _, t := range st.tensors {
		t.Mem.Free()
	}
	if !st.seen.None() {
		st.seen.Mem.Free()
	}
	st.reader.free()
	if st.workspace != nil {
		st.workspace.Free()
	}
	if st.cache != nil {
		st.cache.Free()
	}
	if st.stream != nil {
		// Sync has told the errors already.
		_ = st.stream.Close()
	}
}

// run runs one step over a batch, which may be empty (ranks that share experts step together); most is how many tokens that of any
// rank has. in is the hidden states
// from the stage before; those for the next one are left in out, what was drawn and scored in the batch's answer.
// While the device computes, the host does what is given as meanwhile.
func (st *stepper) run(ctx context.Context, b *batch, most int, in []byte, meanwhile func()) error {
	before := st.model.Brought().Bytes
	defer func() { st.brought = st.model.Brought().Bytes - before }()
	s := st.write(b, in)
	s.Most = most
	hidden, err := st.model.Forward(ctx, st.stream, s, st.workspace)
	if err != nil {
		return err
	}
	if !st.last {
		st.out = append(st.out[:0], make([]byte, hidden.Bytes())...)
		st.stream.Read(st.out, hidden)
		return st.end(meanwhile)
	}
	st.section(headSection)
	r := b.outcome(st.widths)
	if err := st.dump(ctx, hidden, b, r.logits); err != nil {
		return err
	}
	if st.draws && b.readings() > 0 {
		if err := st.reader.read(st.model, st.stream, hidden, b, r.vectors); err != nil {
			return err
		}
	}
	if wanted := b.scored + b.drawn; wanted > 0 {
		st.stream.Write(st.rows.ColRange(0, wanted), b.rows)
		if st.draws {
			st.place(b)
		}
		for from := 0; from < wanted; from += st.logits.Rows {
			if err := st.logitsOf(ctx, hidden, b, from, min(from+st.logits.Rows, wanted)); err != nil {
				return err
			}
		}
		if st.draws {
			st.readBack(b, r)
		}
	}
	return st.end(meanwhile)
}

// end hands the step, or what is left of it, to the device, and waits for it to be done.
func (st *stepper) end(meanwhile func()) error {
	begin := time.Now()
	st.stream.Submit()
	submitted := time.Now()
	meanwhile()
	st.beside = time.Since(submitted)
	err := st.stream.Sync()
	st.device = time.Since(begin)
	st.section("")
	return err
}

// headSection is the part of a step that makes logits and draws from them; "" ends a step.
const headSection = "head"

func (st *stepper) section(name string) {
	if st.enter != nil {
		st.enter(name)
	}
}

// dump reads the logits of the tokens that the batch asks for to data.
func (st *stepper) dump(ctx context.Context, hidden kernels.Tensor, b *batch, data []byte) error {
	for i := 0; i < b.dumps.len(); i += 2 {
		for from, to := b.dumps.at(i), b.dumps.at(i+1); from < to; from += st.logits.Rows {
			n := min(st.logits.Rows, to-from)
			logits := st.logits.RowRange(0, n)
			if err := st.model.Logits(ctx, st.stream, logits, hidden.RowRange(from, from+n)); err != nil {
				return err
			}
			size := int(logits.Bytes())
			st.stream.Read(data[:size], logits)
			if err := st.stream.Sync(); err != nil {
				return err
			}
			data = data[size:]
		}
	}
	return nil
}

// write puts the batch on the device.
func (st *stepper) write(b *batch, in []byte) model.Step {
	vector := func(t kernels.Tensor, v ints) kernels.Tensor {
		t = t.ColRange(0, v.len())
		st.stream.Write(t, v)
		return t
	}
	blocks := st.blocks.RowRange(0, b.seqs).ColRange(0, blocksFor(b.context))
	st.stream.Write(blocks, b.blocks)
	s := model.Step{IDs: vector(st.ids, b.ids), Cache: st.cache, Batch: kernels.Batch{
		Tokens: b.tokens(), Seqs: b.seqs, MaxContext: b.context, Blocks: blocks,
		Position: vector(st.position, b.position), Slot: vector(st.slot, b.slot),
		Seq: vector(st.seq, b.seq), Start: vector(st.start, b.start)}}
	if st.model.Config.Bidirectional {
		var context ints
		for i := range b.seqs {
			context.put(b.start.at(i+1) - b.start.at(i))
		}
		s.Context = vector(st.context, context)
	}
	if b.table.len() > 0 {
		s.Place = vector(st.table, b.table)
	}
	if !st.first {
		s.In = st.in.RowRange(0, b.tokens())
		st.stream.Write(s.In, in)
	}
	return s
}

// place writes what the wanted rows are to be scored against and how to be drawn.
func (st *stepper) place(b *batch) {
	d := &b.draws
	st.stream.Write(st.target.RowRange(0, b.scored), b.target)
	for _, f := range []struct {
		to   kernels.Tensor
		from ints
	}{
		{st.sample.Temperature, d.temperature}, {st.sample.TopP, d.topP}, {st.sample.MinP, d.minP},
		{st.sample.Penalty, d.penalty}, {st.sample.TopK, d.topK}, {st.sample.U, d.u}, {st.sample.Ban, d.ban},
	} {
		st.stream.Write(f.to.RowRange(0, f.from.len()), f.from)
	}
	if len(d.seenStart) > 0 {
		st.stream.Write(st.sample.SeenStart.ColRange(0, b.drawn+1), d.seenStart)
		st.writeSeen(d.seen)
	}
}

// writeSeen puts the tokens so far of penalised rows on the device, in a tensor that grows with need.
func (st *stepper) writeSeen(seen ints) {
	n := seen.len()
	if st.seen.None() || st.seen.Cols < n {
		if !st.seen.None() {
			// Nothing enqueued uses it: the last step was waited for.
			st.seen.Mem.Free()
		}
		t, err := st.model.Device().Alloc("tokens under repetition penalty", kernels.I32, 1, max(2*n, 1024))
		if err != nil {
			st.seen = kernels.Tensor{}
			return // the op refuses the missing tensor, and Sync tells
		}
		st.seen = t
	}
	st.stream.Write(st.seen.ColRange(0, n), seen)
}

// logitsOf computes the logits of wanted rows [from, to) and enqueues their scoring and drawing.
func (st *stepper) logitsOf(ctx context.Context, hidden kernels.Tensor, b *batch, from, to int) error {
	x, logits := st.hidden.RowRange(0, to-from), st.logits.RowRange(0, to-from)
	st.stream.Select(x, hidden, st.rows.ColRange(from, to), 1)
	if err := st.model.Logits(ctx, st.stream, logits, x); err != nil || !st.draws {
		return err
	}
	if from < b.scored {
		end := min(to, b.scored)
		st.stream.Score(st.logprob.RowRange(from, end), st.greedy.RowRange(from, end), logits.RowRange(0, end-from),
			st.target.RowRange(from, end), st.model.Config.Vocab)
	}
	if to > b.scored {
		begin := max(from, b.scored)
		s, a, z := st.sample, begin-b.scored, to-b.scored
		for _, t := range []*kernels.Tensor{&s.Temperature, &s.TopK, &s.TopP, &s.MinP, &s.Penalty, &s.U, &s.Token, &s.Logprob} {
			*t = t.RowRange(a, z)
		}
		if s.Top > 0 {
			s.TopID, s.TopLogprob = s.TopID.RowRange(a, z), s.TopLogprob.RowRange(a, z)
		}
		s.Ban = kernels.Tensor{}
		if len(b.draws.ban) > 0 && !st.sample.Banned.None() { // else nothing ends a row
			s.Ban = st.sample.Ban.RowRange(a, z)
		}
		s.SeenStart = kernels.Tensor{}
		if len(b.draws.seenStart) > 0 {
			s.SeenStart, s.Seen = st.sample.SeenStart.ColRange(a, z+1), st.seen
		}
		st.stream.Sample(logits.RowRange(begin-from, to-from), s)
	}
	return nil
}

// readBack enqueues the reading of what was drawn and scored.
func (st *stepper) readBack(b *batch, r outcome) {
	if b.scored > 0 && b.drawn > 0 {
		panic("engine: a step both scores and draws") // a job has one task
	}
	get := func(to []byte, t kernels.Tensor, rows int) {
		if !t.None() && rows > 0 {
			st.stream.Read(to, t.RowRange(0, rows))
		}
	}
	if b.scored > 0 {
		get(r.greedy, st.greedy, b.scored)
		get(r.logprob, st.logprob, b.scored)
		return
	}
	get(r.token, st.sample.Token, b.drawn)
	get(r.logprob, st.sample.Logprob, b.drawn)
	get(r.topID, st.sample.TopID, b.drawn)
	get(r.topLogprob, st.sample.TopLogprob, b.drawn)
}
