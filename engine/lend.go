package engine

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
)

// Chunks are shared out whole, so at the end of a job one rank has more rows left than another. Once the last chunk is taken,
// rows that have not begun are lent to ranks with less to do (balance.go), which compute them and hand back what came of
// them. Records, chunks and commits stay with the rank that has taken the chunk, and no bit depends on who has computed a row.

// loanTurns is how many turns lie between two rounds of lending: later ones only correct what rows that end early change.
const loanTurns = 8

// handful is how many lent rows a rank has done when it hands them back before it has done all.
const handful = 64

// lentRow is a row on its way to the rank that will compute it: what its sequences are made of.
type lentRow struct {
	To      int
	Number  int64
	Tokens  []int32
	Begin   int // scoring: the first target's place; 0: not scoring
	New     int // generation: most new tokens
	Samples int

	Temperature, TopP, MinP, Penalty float32
	TopK                             int32
	Seed                             uint64
	IgnoreEOS                        bool
	Least                            int
	Stop                             []string
	Logprobs                         int
}

// doneRow is a lent row on its way back, with what came of its sequences.
type doneRow struct {
	To     int
	Number int64
	Bad    string
	Seqs   []doneSequence
}

// doneSequence is what a sequence has when it is finished.
type doneSequence struct {
	Drawn       []int32
	Scores      []float32
	Greedy      bool
	Logits      []float32
	Cumulative  float64
	Logprobs    []float32
	TopIDs      []int32 // of all drawn tokens
	TopLogprobs []float32
	Finished    string
}

// ledger is the rows that this rank has lent, and those that it has borrowed.
type ledger struct {
	lent     map[int64]*rowState // by number
	borrowed int                 // not finished
	done     []*rowState         // borrowed, finished, and not yet handed back
	turns    int                 // until there may be another round
}

// lend has rows that have not begun change ranks, where that evens out what is left to do. All ranks call it.
func (l *loop) lend(ctx context.Context, v comm.Votes, shares []float64) error {
	b := &l.ledger
	if b.turns > 0 {
		b.turns--
		return nil
	}
	agreed := loans(v, shares, l.engine.size.tokens/8)
	if len(agreed) == 0 {
		return nil
	}
	b.turns = loanTurns
	var mine []lentRow
	for _, x := range agreed {
		if x.from != l.world.Rank() {
			continue
		}
		for _, row := range l.engine.scheduler.lend(x.tokens) {
			if b.lent == nil {
				b.lent = map[int64]*rowState{}
			}
			b.lent[row.number] = row
			mine = append(mine, row.lent(x.to))
		}
	}
	return exchange(ctx, l, mine, func(from int, r lentRow) error {
		if r.To != l.world.Rank() {
			return nil
		}
		b.borrowed++
		row, err := l.engine.borrowed(r)
		row.borrowed, row.lender = true, from
		if err == nil {
			for _, q := range row.seqs {
				if err = l.engine.scheduler.add(q); err != nil {
					break // nothing of it was added, as in take
				}
			}
		}
		if err != nil {
			row.bad = err.Error()
		}
		if row.bad != "" || len(row.seqs) == 0 {
			l.rowFinished(row)
		}
		return nil
	})
}

// due tells whether borrowed rows are to be handed back: where a rank has done all, or many, or where the job stops.
func due(v comm.Votes, ranks int) bool {
	for r := range ranks {
		if n := v.Of(r, voteDone); n >= handful || n > 0 && (v.Of(r, voteBorrowed) == 0 || v.Any(voteStop)) {
			return true
		}
	}
	return false
}

// handBack gives finished rows back to those who have lent them, and takes this rank's. All ranks call it.
func (l *loop) handBack(ctx context.Context) error {
	b := &l.ledger
	var mine []doneRow
	for _, row := range b.done {
		mine = append(mine, row.done())
	}
	b.done = nil
	return exchange(ctx, l, mine, func(from int, r doneRow) error {
		if r.To != l.world.Rank() {
			return nil
		}
		row := b.lent[r.Number]
		if row == nil || r.Bad == "" && len(r.Seqs) != len(row.seqs) {
			return fmt.Errorf("rank %d hands back row %d, which it was not lent so", from, r.Number)
		}
		delete(b.lent, r.Number)
		row.bad, row.left = r.Bad, 0
		for i, s := range r.Seqs {
			row.seqs[i].take(s)
		}
		l.rowFinished(row)
		return nil
	})
}

// exchange gives all ranks' rows to all, each of which take is told of.
func exchange[T any](ctx context.Context, l *loop, mine []T, take func(from int, row T) error) error {
	var message bytes.Buffer
	var failed error
	if len(mine) > 0 {
		failed = gob.NewEncoder(&message).Encode(mine)
	}
	all, err := comm.AllGather(ctx, l.world, message.Bytes())
	if err = errors.Join(failed, err); err != nil {
		return err
	}
	for from, text := range all {
		if len(text) == 0 {
			continue
		}
		var rows []T
		if err := gob.NewDecoder(bytes.NewReader(text)).Decode(&rows); err != nil {
			return fmt.Errorf("rows between ranks: those of rank %d: %w", from, err)
		}
		for _, row := range rows {
			if err := take(from, row); err != nil {
				return err
			}
		}
	}
	return nil
}

// lendable tells whether a row can be made again from its first sequence alone, and is this rank's own. Rows that are
// only read, as embeddings are, stay where they are.
func (row *rowState) lendable() bool {
	if len(row.seqs) == 0 || row.borrowed {
		return false
	}
	q := row.seqs[0]
	return q.read == noReadout && (len(row.seqs) == 1 || !q.scoring())
}

func (row *rowState) lent(to int) lentRow {
	q := row.seqs[0]
	s := &q.sampling
	return lentRow{To: to, Number: row.number, Tokens: q.tokens, Begin: q.scoreFrom, New: q.limit - q.prompt, Samples: len(row.seqs),
		Temperature: s.temperature, TopP: s.topP, MinP: s.minP, Penalty: s.penalty, TopK: s.topK, Seed: s.seed,
		IgnoreEOS: s.ignoreEOS, Least: s.least, Stop: s.stop, Logprobs: s.logprobs}
}

// borrowed makes the row that was lent.
func (e *Engine) borrowed(r lentRow) (*rowState, error) {
	row := &rowState{number: r.Number}
	var err error
	if e.job.Task == config.Score {
		err = e.scoring(row, r.Tokens, r.Begin, e.job.Stride)
	} else {
		err = e.generation(row, r.Tokens, sampling{temperature: r.Temperature, topP: r.TopP, minP: r.MinP, penalty: r.Penalty,
			topK: r.TopK, seed: r.Seed, ignoreEOS: r.IgnoreEOS, least: r.Least, stop: r.Stop, logprobs: r.Logprobs}, r.New, r.Samples)
	}
	row.left = len(row.seqs)
	return row, err
}

func (row *rowState) done() doneRow {
	d := doneRow{To: row.lender, Number: row.number, Bad: row.bad}
	if row.bad != "" {
		return d
	}
	for _, q := range row.seqs {
		s := doneSequence{Scores: q.scores, Greedy: q.greedy, Logits: q.logits, Cumulative: q.cumulative, Logprobs: q.logprobs, Finished: q.finished}
		if !q.scoring() {
			s.Drawn = q.tokens[q.prompt:]
		}
		for _, top := range q.top {
			for _, t := range top {
				s.TopIDs, s.TopLogprobs = append(s.TopIDs, t.id), append(s.TopLogprobs, t.logprob)
			}
		}
		d.Seqs = append(d.Seqs, s)
	}
	return d
}

// take ends the sequence with what another rank has computed of it.
func (q *sequence) take(s doneSequence) {
	for _, id := range s.Drawn {
		q.tokens = append(q.tokens, id)
		q.stops()
	}
	q.scores, q.greedy, q.logits, q.cumulative, q.logprobs, q.finished = s.Scores, s.Greedy, s.Logits, s.Cumulative, s.Logprobs, s.Finished
	if n := len(s.Drawn); q.sampling.logprobs >= 0 && n > 0 {
		k := len(s.TopIDs) / n
		for i := range n {
			var top []topToken
			for j := i * k; j < (i+1)*k; j++ {
				top = append(top, topToken{s.TopIDs[j], s.TopLogprobs[j]})
			}
			q.top = append(q.top, top)
		}
	}
}
