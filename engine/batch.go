package engine

import (
	"fmt"
	"slices"
)

// batch is one step of a replica: the pieces of sequences in it and the rows whose logits are wanted. The lead plans it;
// to the other ranks of the replica it travels as one message. Buffers are reused from step to step.
type batch struct {
	seqs, context int  // sequences; most tokens that one has in the cache after the step
	prompts       bool // there are prompt tokens among its tokens
	scored, drawn int  // rows wanted: to be scored, to draw from; a job has one task, so one of the two is 0
	ids, position ints
	table         ints // places in the model's table of positions; empty: the positions
	slot, seq     ints
	start, blocks ints        // [seqs+1]; [seqs, blocksFor(context)]
	rows, target  ints        // places of the wanted rows in the step; what they are scored against
	dumps         ints        // from, to: places in the step of tokens whose logits are reported
	reads, sums   ints        // places of the tokens of whose hidden states vectors are made; from, to of those that are added up
	readers       []*sequence // of reads, or of sums
	draws         drawing
	message       []byte
	answer        []byte // what came of it: see outcome
	pieces        []piece
	wanted        []row
	scratch       []row
}

// drawing is how the drawn rows are drawn from.
type drawing struct {
	temperature, topP, minP, penalty, u, topK ints
	seenStart, seen                           ints // tokens so far, of rows under repetition penalty; seenStart empty: of none
	ban                                       ints // 1 where an end token may not be drawn yet; empty: nowhere
}

// row is a position whose logits are wanted: to draw the next token, or (target >= 0) to score it.
type row struct {
	seq    *sequence
	at     int // in the step
	target int32
}

// tokens is the number of tokens in the step.
func (b *batch) tokens() int { return b.position.len() }

// vectors are the parts of a batch that travel, in the order of the message.
func (b *batch) vectors() [21]*ints {
	d := &b.draws
	return [...]*ints{&b.ids, &b.position, &b.table, &b.slot, &b.seq, &b.start, &b.blocks, &b.rows, &b.target, &b.dumps, &b.reads, &b.sums,
		&d.temperature, &d.topP, &d.minP, &d.penalty, &d.u, &d.topK, &d.seenStart, &d.seen, &d.ban}
}

// clear empties the batch; its buffers stay.
func (b *batch) clear() {
	for _, v := range b.vectors() {
		*v = (*v)[:0]
	}
	b.seqs, b.context, b.scored, b.drawn, b.prompts = 0, 0, 0, 0, false
	b.pieces, b.wanted, b.readers = b.pieces[:0], b.wanted[:0], b.readers[:0]
}

// empty makes it the batch of nothing.
func (b *batch) empty() {
	b.clear()
	b.start.put(0)
}

// plan makes the batch of pieces. What ahead has foreseen of it is taken from there; ahead gets b's buffers then.
func (b *batch) plan(pieces []piece, ahead *batch) {
	if len(pieces) > 0 && slices.Equal(pieces, ahead.pieces) {
		*b, *ahead = *ahead, *b
	} else {
		b.lay(pieces)
	}
	b.fill()
}

// foresee lays out the step that follows one of pieces while that one is computed: every row that generates goes on, but
// those that reach their length, and no other row comes. Of a step that leaves prompts or texts unfinished nothing is
// foreseen: how much of them is next depends on the others.
func (b *batch) foresee(pieces []piece) {
	next := b.pieces[:0]
	for _, p := range pieces {
		q := p.seq
		if q.once() || p.to < len(q.tokens) {
			next = next[:0]
			break
		}
		if p.to+1 < q.limit {
			next = append(next, piece{q, p.to, p.to + 1})
		}
	}
	b.lay(next)
}

// lay writes all that does not depend on which tokens the pieces have: of those that a step under way draws, only their
// place has to be known.
func (b *batch) lay(pieces []piece) {
	if len(pieces) == 0 {
		b.empty()
		return
	}
	b.clear()
	b.pieces, b.seqs, b.context = append(b.pieces, pieces...), len(pieces), longest(pieces)
	b.arrange()
	b.place()
}

// longest is the most tokens that a sequence has in the cache after the step.
func longest(pieces []piece) (most int) {
	for _, p := range pieces {
		most = max(most, p.to)
	}
	return most
}

// arrange writes where the tokens stand and collects the wanted rows: those to be scored first, then those to be drawn.
// The block table gets the columns that the longest context of the step needs.
func (b *batch) arrange() {
	drawn, at, width := b.scratch[:0], 0, blocksFor(b.context)
	pairs := slices.ContainsFunc(b.pieces, func(p piece) bool { return p.seq.places != nil })
	for i, p := range b.pieces {
		b.start.put(at)
		q := p.seq
		b.prompts = b.prompts || p.from < q.prompt || q.scoring()
		b.dump(p, at)
		b.read(p, at)
		for t := p.from; t < p.to; t++ {
			b.position.put(t)
			switch {
			case pairs && p.seq.places != nil:
				b.table.put(int(p.seq.places[t]))
			case pairs:
				b.table.put(t)
			}
			b.slot.put(int(q.blocks[t/blockTokens])*blockTokens + t%blockTokens)
			b.seq.put(i)
			if q.scoring() && t >= q.scoreFrom-1 && t+1 < len(q.tokens) {
				b.wanted = append(b.wanted, row{q, at, q.tokens[t+1]})
			}
			if q.read == readMasks && q.tokens[t] == q.mask {
				drawn = append(drawn, row{q, at, -1})
			}
			at++
		}
		if !q.once() && p.to >= len(q.tokens) {
			drawn = append(drawn, row{q, at - 1, -1})
		}
		b.blocks.row(q.blocks, width)
	}
	b.start.put(at)
	b.scored, b.drawn = len(b.wanted), len(drawn)
	b.wanted, b.scratch = append(b.wanted, drawn...), drawn
}

// dump notes a piece, the first of whose tokens is at a place in the step, whose prompt's logits are asked for.
func (b *batch) dump(p piece, at int) {
	end := p.seq.prompt
	if p.seq.scoring() {
		end = len(p.seq.tokens)
	}
	if to := min(p.to, end); p.seq.dump && p.from < to {
		b.dumps.put(at)
		b.dumps.put(at + to - p.from)
	}
}

// read notes what is read of a piece, the first of whose tokens is at a place in the step.
func (b *batch) read(p piece, at int) {
	q, n := p.seq, p.to-p.from
	switch {
	case q.read == readFirst && p.from == 0:
		b.reads.put(at)
	case q.read == readLast && p.to == len(q.tokens):
		b.reads.put(at + n - 1)
	case q.read == readSums:
		for from := 0; from < n; from += blockTokens {
			b.sums.put(at + from)
			b.sums.put(at + min(from+blockTokens, n))
			b.readers = append(b.readers, q)
		}
		return
	default:
		return
	}
	b.readers = append(b.readers, q)
}

// place writes where the wanted rows are, what they are to be scored against and how to be drawn.
func (b *batch) place() {
	d := &b.draws
	bans := slices.ContainsFunc(b.wanted, b.bans)
	for _, w := range b.wanted {
		b.rows.put(w.at)
		if w.target >= 0 {
			b.target.put(int(w.target))
			continue
		}
		p := &w.seq.sampling
		d.temperature.float(p.temperature)
		d.topP.float(p.topP)
		d.minP.float(p.minP)
		d.penalty.float(p.penalty)
		d.topK.put(int(p.topK))
		switch {
		case bans && b.bans(w):
			d.ban.put(1)
		case bans:
			d.ban.put(0)
		}
		d.u.float(draw(p.seed, w.seq.row.number, uint32(w.seq.sample), uint32(b.position.at(w.at)+1)))
	}
}

// bans tells whether the token that a row wants may not be an end token, as the sequence has too few yet.
func (b *batch) bans(w row) bool {
	p := &w.seq.sampling
	return p.least > 0 && !p.ignoreEOS && b.position.at(w.at)+1-w.seq.prompt < p.least
}

// fill writes the pieces' tokens, and those so far of rows under repetition penalty.
func (b *batch) fill() {
	b.ids = b.ids[:0]
	for _, p := range b.pieces {
		for _, t := range p.seq.tokens[p.from:p.to] {
			b.ids.put(int(t))
		}
	}
	d := &b.draws
	d.seenStart, d.seen = d.seenStart[:0], d.seen[:0]
	if !slices.ContainsFunc(b.wanted[b.scored:], func(w row) bool { return w.seq.sampling.penalty != 1 }) {
		return
	}
	d.seenStart.put(0)
	for _, w := range b.wanted[b.scored:] {
		if w.seq.sampling.penalty != 1 {
			for _, t := range w.seq.tokens {
				d.seen.put(int(t))
			}
		}
		d.seenStart.put(d.seen.len())
	}
}

// encode is the batch as a message, good until the next one.
func (b *batch) encode() []byte {
	m := (*ints)(&b.message)
	*m = (*m)[:0]
	prompts := 0
	if b.prompts {
		prompts = 1
	}
	for _, v := range [...]int{b.seqs, b.context, b.scored, b.drawn, prompts} {
		m.put(v)
	}
	for _, v := range b.vectors() {
		m.put(len(*v))
		*m = append(*m, *v...)
	}
	return b.message
}

// decode makes the batch of its message, which it keeps.
func (b *batch) decode() error {
	b.clear()
	const shape = 5
	m, prompts := ints(b.message), 0
	for i, v := range [shape]*int{&b.seqs, &b.context, &b.scored, &b.drawn, &prompts} {
		*v = m.at(i)
	}
	m, b.prompts = m[4*shape:], prompts > 0
	for _, v := range b.vectors() {
		if len(m) < 4 || m.at(0) < 0 || m.at(0) > len(m)-4 {
			return fmt.Errorf("a step's message of %d bytes is cut off", len(b.message))
		}
		n := m.at(0)
		*v, m = m[4:4+n:4+n], m[4+n:]
	}
	return nil
}

// outcome is what a batch gives, in the order of the wanted rows.
type outcome struct {
	token, greedy, logprob ints
	topID, topLogprob      ints // [drawn, top]
	vectors                ints // [readers, vector]
	logits                 []byte
}

// widths are the columns of what a batch gives.
type widths struct {
	top    int // most probable tokens of a drawn row
	vocab  int // logits of a token
	vector int // what is read of a sequence, or a sum of it
}

// readings is how many vectors the batch gives.
func (b *batch) readings() int { return b.reads.len() + b.sums.len()/2 }

// outcome cuts the batch's answer into its parts.
func (b *batch) outcome(w widths) (r outcome) {
	dumped := 0
	for i := 0; i < b.dumps.len(); i += 2 {
		dumped += b.dumps.at(i+1) - b.dumps.at(i)
	}
	sizes := [...]int{b.drawn, b.scored, b.scored + b.drawn, b.drawn * w.top, b.drawn * w.top,
		b.readings() * w.vector, dumped * w.vocab}
	total := 0
	for _, n := range sizes {
		total += 4 * n
	}
	if cap(b.answer) < total {
		b.answer = make([]byte, total)
	}
	b.answer = b.answer[:total]
	rest := b.answer
	for i, to := range [...]*[]byte{(*[]byte)(&r.token), (*[]byte)(&r.greedy), (*[]byte)(&r.logprob), (*[]byte)(&r.topID), (*[]byte)(&r.topLogprob),
		(*[]byte)(&r.vectors), &r.logits} {
		*to, rest = rest[:4*sizes[i]], rest[4*sizes[i]:]
	}
	return r
}

// noNumber sets a row aside. It says nothing of the place: of several samples, which is the first depends on the batches.
const noNumber = "the model computes no number (NaN) for this row; weights that are damaged or overflow do so: try --dtype fp32, or another copy of the model"

// note puts what came of the batch into its sequences. Finish reasons are the caller's.
func (b *batch) note(of widths) {
	r, top, vocab := b.outcome(of), of.top, of.vocab
	b.noteVectors(r.vectors, of.vector)
	for i, w := range b.wanted {
		q, lp := w.seq, floatAt(r.logprob, i)
		if lp != lp {
			q.row.bad = noNumber
		}
		q.cumulative += float64(lp)
		if i < b.scored {
			q.scores = append(q.scores, lp)
			q.greedy = q.greedy && intAt(r.greedy, i) == 1
			continue
		}
		if q.read == readMasks {
			q.masks = append(q.masks, int32(b.position.at(w.at)))
		} else {
			q.tokens = append(q.tokens, intAt(r.token, i))
		}
		if q.sampling.logprobs < 0 {
			continue
		}
		q.logprobs = append(q.logprobs, lp)
		var likely []topToken
		for j := range q.sampling.logprobs {
			likely = append(likely, topToken{intAt(r.topID, i*top+j), floatAt(r.topLogprob, i*top+j)})
		}
		q.top = append(q.top, likely)
	}
	next := 0
	for i, p := range b.pieces {
		first := b.start.at(i)
		if 2*next < b.dumps.len() && b.dumps.at(2*next) >= first && b.dumps.at(2*next) < b.start.at(i+1) {
			n := (b.dumps.at(2*next+1) - b.dumps.at(2*next)) * vocab
			for j := range n {
				p.seq.logits = append(p.seq.logits, floatAt(r.logits, j))
			}
			r.logits, next = r.logits[4*n:], next+1
		}
	}
}

// noteVectors puts what was read into the sequences. Sums of blocks are added up in float64, in the order of the text.
func (b *batch) noteVectors(r ints, width int) {
	for i, q := range b.readers {
		v := make([]float32, width)
		for j := range v {
			v[j] = floatAt(r, i*width+j)
			if v[j] != v[j] {
				q.row.bad = noNumber
			}
		}
		if q.read != readSums {
			q.vector = v
			continue
		}
		if q.sums == nil {
			q.sums = make([]float64, width)
		}
		for j, x := range v {
			q.sums[j] += float64(x)
		}
	}
}

// load is what the batch costs: the KV tokens that its positions see in all, later ones too where whole, and that its
// sequences have.
func (b *batch) load(whole bool) (contexts, reads int) {
	for t := range b.tokens() {
		contexts += b.position.at(t) + 1
	}
	for i := range b.seqs {
		if n, end := b.start.at(i+1)-b.start.at(i), b.start.at(i+1); n > 0 {
			reads += b.position.at(end-1) + 1
			if whole {
				contexts += n * (n - 1) / 2
			}
		}
	}
	return contexts, reads
}
