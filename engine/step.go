package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// logitRows is how many rows of logits, [rows, vocab], exist at a time. Their bits do not depend on it.
const logitRows = 64

// stepper runs steps on one device: it turns pieces of sequences into a batch, runs the model over it, and draws or
// scores tokens. Everything it needs is allocated once, for the largest step.
type stepper struct {
	model     *model.Model
	stream    kernels.Stream
	workspace *model.Workspace
	cache     kernels.Cache
	tokens    int // most of a step
	seqs      int

	enter      func(section string) // nil: nobody measures
	rowsWanted int                  // rows of logits of the last step
	waited     time.Duration        // for the device, at the end of the last step

	ids, position, slot, seq, start, blocks kernels.Tensor
	rows, hidden, logits                    kernels.Tensor // places of the wanted rows; the rows; their logits
	target, greedy, logprob                 kernels.Tensor
	sample                                  kernels.Sampling
	seen                                    kernels.Tensor
	tensors                                 []kernels.Tensor

	// Host sides of the tensors, reused from step to step.
	host struct{ ids, position, slot, seq, start, blocks, rows, target ints }
	draw struct{ temperature, topP, minP, penalty, u, topK, seenStart, seen ints }
	read struct{ token, greedy, logprob, topID, topLogprob []byte }
}

// ints is a host buffer of 32-bit values, integers or floats, little-endian.
type ints []byte

func (b *ints) put(v int)       { *b = binary.LittleEndian.AppendUint32(*b, uint32(int32(v))) }
func (b *ints) float(v float32) { *b = binary.LittleEndian.AppendUint32(*b, math.Float32bits(v)) }
func intAt(b []byte, i int) int32 {
	return int32(binary.LittleEndian.Uint32(b[4*i:]))
}
func floatAt(b []byte, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

// stepSize bounds a step.
type stepSize struct {
	tokens int // of all sequences
	seqs   int
	blocks int // of the KV cache
	top    int // most probable tokens to report with a drawn one
}

// bytes is the memory that a stepper of this size takes beside the model's workspace and the cache.
func (z stepSize) bytes(c *model.Config) int64 {
	perToken := int64(4*9 + 4*12 + 8*z.top)
	return int64(z.tokens)*perToken + 4*int64(z.seqs)*int64(blocksFor(c.Window)+1) + logitRows*4*int64(c.Vocab+c.Hidden)
}

func newStepper(m *model.Model, z stepSize) (*stepper, error) {
	st := &stepper{model: m, tokens: z.tokens, seqs: z.seqs}
	if err := st.allocate(z); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

func (st *stepper) allocate(z stepSize) (err error) {
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
	s.Vocab, s.Top = m.Config.Tokens, z.top
	for _, a := range []struct {
		to         *kernels.Tensor
		dtype      kernels.DType
		rows, cols int
	}{
		{&st.ids, kernels.I32, 1, z.tokens}, {&st.position, kernels.I32, 1, z.tokens}, {&st.slot, kernels.I32, 1, z.tokens},
		{&st.seq, kernels.I32, 1, z.tokens}, {&st.start, kernels.I32, 1, z.seqs + 1},
		{&st.blocks, kernels.I32, z.seqs, blocksFor(m.Config.Window)},
		{&st.rows, kernels.I32, 1, z.tokens}, {&st.target, kernels.I32, z.tokens, 1}, {&st.greedy, kernels.I32, z.tokens, 1},
		{&st.logprob, kernels.F32, z.tokens, 1},
		{&st.hidden, act, logitRows, m.Config.Hidden}, {&st.logits, kernels.F32, logitRows, m.Config.Vocab},
		{&s.Temperature, kernels.F32, z.tokens, 1}, {&s.TopP, kernels.F32, z.tokens, 1}, {&s.MinP, kernels.F32, z.tokens, 1},
		{&s.Penalty, kernels.F32, z.tokens, 1}, {&s.U, kernels.F32, z.tokens, 1}, {&s.TopK, kernels.I32, z.tokens, 1},
		{&s.SeenStart, kernels.I32, 1, z.tokens + 1}, {&s.Token, kernels.I32, z.tokens, 1}, {&s.Logprob, kernels.F32, z.tokens, 1},
		{&s.TopID, kernels.I32, z.tokens, z.top}, {&s.TopLogprob, kernels.F32, z.tokens, z.top},
	} {
		if a.cols == 0 {
			continue
		}
		if *a.to, err = d.Alloc("step", a.dtype, a.rows, a.cols); err != nil {
			return fmt.Errorf("steps of %d tokens, %d sequences: %w", z.tokens, z.seqs, err)
		}
		st.tensors = append(st.tensors, *a.to)
	}
	return nil
}

func (st *stepper) close() {
	for _, t := range st.tensors {
		t.Mem.Free()
	}
	if !st.seen.None() {
		st.seen.Mem.Free()
	}
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

// run runs one step over pieces, which may be none (ranks that share experts step together), and notes in the
// sequences what was drawn and scored. Finish reasons are the caller's.
func (st *stepper) run(ctx context.Context, pieces []piece) error {
	wanted := st.fill(pieces)
	hidden, err := st.model.Forward(ctx, st.stream, st.batch(pieces), st.workspace)
	if err != nil {
		return err
	}
	st.section(headSection)
	st.rowsWanted = len(wanted)
	if err := st.dump(ctx, hidden, pieces); err != nil {
		return err
	}
	scored := st.place(wanted)
	for from := 0; from < len(wanted); from += logitRows {
		to := min(from+logitRows, len(wanted))
		if err := st.logitsOf(ctx, hidden, wanted, scored, from, to); err != nil {
			return err
		}
	}
	st.readBack(len(wanted), scored)
	begin := time.Now()
	if err := st.stream.Sync(); err != nil {
		return err
	}
	st.waited = time.Since(begin)
	st.section("")
	st.note(wanted, scored)
	return nil
}

// headSection is the part of a step that makes logits and draws from them; "" ends a step.
const headSection = "head"

func (st *stepper) section(name string) {
	if st.enter != nil {
		st.enter(name)
	}
}

// dump reads the logits of every prompt token of the sequences that ask for them.
func (st *stepper) dump(ctx context.Context, hidden kernels.Tensor, pieces []piece) error {
	vocab, at := st.model.Config.Vocab, 0
	for _, p := range pieces {
		first := at
		at += p.to - p.from
		end := p.seq.prompt
		if p.seq.scoring() {
			end = len(p.seq.tokens)
		}
		for t := p.from; p.seq.dump && t < min(p.to, end); t += logitRows {
			n := min(logitRows, min(p.to, end)-t)
			logits, data := st.logits.RowRange(0, n), make([]byte, 4*n*vocab)
			if err := st.model.Logits(ctx, st.stream, logits, hidden.RowRange(first+t-p.from, first+t-p.from+n)); err != nil {
				return err
			}
			st.stream.Read(data, logits)
			if err := st.stream.Sync(); err != nil {
				return err
			}
			for i := range n * vocab {
				p.seq.logits = append(p.seq.logits, floatAt(data, i))
			}
		}
	}
	return nil
}

// row is a position whose logits are wanted: to draw the next token, or (target >= 0) to score it.
type row struct {
	seq    *sequence
	at     int // in the step
	target int32
}

// fill writes the batch's host side and returns the wanted rows: those to be scored first, then those to be drawn. The
// block table gets the columns that the longest context of the step needs.
func (st *stepper) fill(pieces []piece) []row {
	h := &st.host
	for _, b := range []*ints{&h.ids, &h.position, &h.slot, &h.seq, &h.start, &h.blocks} {
		*b = (*b)[:0]
	}
	var scored, drawn []row
	at, width := 0, blocksFor(longest(pieces))
	for i, p := range pieces {
		h.start.put(at)
		q := p.seq
		for t := p.from; t < p.to; t++ {
			h.ids.put(int(q.tokens[t]))
			h.position.put(t)
			h.slot.put(int(q.blocks[t/blockTokens])*blockTokens + t%blockTokens)
			h.seq.put(i)
			if q.scoring() && t >= q.scoreFrom-1 && t+1 < len(q.tokens) {
				scored = append(scored, row{q, at, q.tokens[t+1]})
			}
			at++
		}
		if !q.scoring() && p.to == len(q.tokens) {
			drawn = append(drawn, row{q, at - 1, -1})
		}
		for b := range width {
			if b < len(q.blocks) {
				h.blocks.put(int(q.blocks[b]))
			} else {
				h.blocks.put(0)
			}
		}
	}
	h.start.put(at)
	return append(scored, drawn...)
}

// longest is the most tokens that a sequence has in the cache after the step.
func longest(pieces []piece) (most int) {
	for _, p := range pieces {
		most = max(most, p.to)
	}
	return most
}

// batch writes the host side to the device.
func (st *stepper) batch(pieces []piece) model.Step {
	h, tokens, most := &st.host, len(st.host.ids)/4, longest(pieces)
	vector := func(t kernels.Tensor, b ints) kernels.Tensor {
		t = t.ColRange(0, len(b)/4)
		st.stream.Write(t, b)
		return t
	}
	blocks := st.blocks.RowRange(0, len(pieces)).ColRange(0, blocksFor(most))
	st.stream.Write(blocks, h.blocks)
	return model.Step{IDs: vector(st.ids, h.ids), Cache: st.cache, Batch: kernels.Batch{
		Tokens: tokens, Seqs: len(pieces), MaxContext: most, Blocks: blocks,
		Position: vector(st.position, h.position), Slot: vector(st.slot, h.slot),
		Seq: vector(st.seq, h.seq), Start: vector(st.start, h.start)}}
}

// place writes where the wanted rows are, what they are to be scored against and how to be drawn. It returns how
// many are scored.
func (st *stepper) place(wanted []row) (scored int) {
	h, d := &st.host, &st.draw
	for _, b := range []*ints{&h.rows, &h.target, &d.temperature, &d.topP, &d.minP, &d.penalty, &d.u, &d.topK, &d.seenStart, &d.seen} {
		*b = (*b)[:0]
	}
	penalised := false
	for _, w := range wanted {
		h.rows.put(w.at)
		if w.target >= 0 {
			h.target.put(int(w.target))
			scored++
			continue
		}
		p := &w.seq.sampling
		d.temperature.float(p.temperature)
		d.topP.float(p.topP)
		d.minP.float(p.minP)
		d.penalty.float(p.penalty)
		d.topK.put(int(p.topK))
		d.u.float(draw(p.seed, w.seq.row.number, uint32(w.seq.sample), uint32(len(w.seq.tokens))))
		d.seenStart.put(len(d.seen) / 4)
		if p.penalty != 1 {
			penalised = true
			for _, t := range w.seq.tokens {
				d.seen.put(int(t))
			}
		}
	}
	d.seenStart.put(len(d.seen) / 4)
	if !penalised {
		d.seenStart = d.seenStart[:0]
	}
	st.stream.Write(st.rows.ColRange(0, len(wanted)), h.rows)
	st.stream.Write(st.target.RowRange(0, scored), h.target)
	drawn := len(wanted) - scored
	for _, f := range []struct {
		to   kernels.Tensor
		from ints
	}{
		{st.sample.Temperature, d.temperature}, {st.sample.TopP, d.topP}, {st.sample.MinP, d.minP},
		{st.sample.Penalty, d.penalty}, {st.sample.TopK, d.topK}, {st.sample.U, d.u},
	} {
		st.stream.Write(f.to.RowRange(0, drawn), f.from)
	}
	if penalised {
		st.stream.Write(st.sample.SeenStart.ColRange(0, drawn+1), d.seenStart)
		st.writeSeen()
	}
	return scored
}

// writeSeen puts the tokens so far of penalised rows on the device, in a tensor that grows with need.
func (st *stepper) writeSeen() {
	n := len(st.draw.seen) / 4
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
	st.stream.Write(st.seen.ColRange(0, n), st.draw.seen)
}

// logitsOf computes the logits of wanted rows [from, to) and enqueues their scoring and drawing.
func (st *stepper) logitsOf(ctx context.Context, hidden kernels.Tensor, wanted []row, scored, from, to int) error {
	x, logits := st.hidden.RowRange(0, to-from), st.logits.RowRange(0, to-from)
	st.stream.Select(x, hidden, st.rows.ColRange(from, to), 1)
	if err := st.model.Logits(ctx, st.stream, logits, x); err != nil {
		return err
	}
	if from < scored {
		end := min(to, scored)
		st.stream.Score(st.logprob.RowRange(from, end), st.greedy.RowRange(from, end), logits.RowRange(0, end-from),
			st.target.RowRange(from, end), st.model.Config.Vocab)
	}
	if to > scored {
		begin := max(from, scored)
		s, a, b := st.sample, begin-scored, to-scored
		for _, t := range []*kernels.Tensor{&s.Temperature, &s.TopK, &s.TopP, &s.MinP, &s.Penalty, &s.U, &s.Token, &s.Logprob} {
			*t = t.RowRange(a, b)
		}
		if s.Top > 0 {
			s.TopID, s.TopLogprob = s.TopID.RowRange(a, b), s.TopLogprob.RowRange(a, b)
		}
		s.SeenStart = kernels.Tensor{}
		if len(st.draw.seenStart) > 0 {
			s.SeenStart, s.Seen = st.sample.SeenStart.ColRange(a, b+1), st.seen
		}
		st.stream.Sample(logits.RowRange(begin-from, to-from), s)
	}
	return nil
}

// readBack enqueues the reading of what was drawn and scored.
func (st *stepper) readBack(wanted, scored int) {
	get := func(b *[]byte, t kernels.Tensor, rows int) {
		if t.None() || rows == 0 {
			return
		}
		n := 4 * rows * t.Cols
		if cap(*b) < n {
			*b = make([]byte, n)
		}
		*b = (*b)[:n]
		st.stream.Read(*b, t.RowRange(0, rows))
	}
	drawn := wanted - scored
	if scored > 0 {
		get(&st.read.greedy, st.greedy, scored)
		get(&st.read.logprob, st.logprob, scored)
		if drawn > 0 {
			panic("engine: a step both scores and draws") // a job has one task
		}
		return
	}
	get(&st.read.token, st.sample.Token, drawn)
	get(&st.read.logprob, st.sample.Logprob, drawn)
	get(&st.read.topID, st.sample.TopID, drawn)
	get(&st.read.topLogprob, st.sample.TopLogprob, drawn)
}

// note puts what was read into the sequences.
func (st *stepper) note(wanted []row, scored int) {
	for i, w := range wanted {
		q, lp := w.seq, floatAt(st.read.logprob, i)
		q.cumulative += float64(lp)
		if i < scored {
			q.scores = append(q.scores, lp)
			q.greedy = q.greedy && intAt(st.read.greedy, i) == 1
			continue
		}
		q.tokens = append(q.tokens, intAt(st.read.token, i))
		if q.sampling.logprobs < 0 {
			continue
		}
		q.logprobs = append(q.logprobs, lp)
		var top []topToken
		for j := range q.sampling.logprobs {
			k := i*st.sample.Top + j
			top = append(top, topToken{intAt(st.read.topID, k), floatAt(st.read.topLogprob, k)})
		}
		q.top = append(q.top, top)
	}
}
