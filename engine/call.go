package engine

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
)

// direct runs rows that a caller in Go has given to their end, by the settings of job, on all ranks together; inStep: on
// each rank its own, see GenerateOptions.
func (e *Engine) direct(ctx context.Context, job *config.Job, in []*dataset.Row, inStep bool) (out []Result, err error) {
	if w := e.world.Size(); inStep && e.layout.DP != w {
		return nil, fmt.Errorf("%w: InStep takes ranks that share no layers, and %d ranks make %d replicas here", ErrRefused, w, e.layout.DP)
	}
	if err := e.taskFits(job); err != nil {
		return nil, err
	}
	shared := e.world.Size() > 1 && !inStep // the rows, by all replicas
	world, leave := patient(ctx)
	defer leave()
	if shared {
		if err := e.sameCall(world, job, in); err != nil {
			return nil, err
		}
	}
	was := e.job
	e.job = job
	if err = e.turnTo(); shared {
		err = together(world, e.world, err)
	}
	if err != nil {
		e.job = was
		return nil, err
	}
	defer func() {
		if e.job = was; err != nil { // what is left of the call is none of the next one's
			e.begin()
		}
	}()
	var rows []*rowState
	if e.place.leads() {
		first, step := 0, 1
		if shared { // each replica takes its turn
			first, step = e.groups.DP.Rank(), e.groups.DP.Size()
		}
		for i := first; i < len(in); i += step {
			rows = append(rows, e.admit(in[i]))
		}
	}
	if err := e.stepThrough(ctx, world, shared); err != nil {
		return nil, err
	}
	for _, row := range rows {
		r := Result{Record: e.records(row)[0]}
		if row.bad != "" {
			r.Err = errors.New(row.bad)
		}
		out = append(out, r)
	}
	if !shared {
		return out, nil
	}
	return e.allResults(world, out, len(in))
}

// admit makes the sequences of a row and has them wait for their first step.
func (e *Engine) admit(in *dataset.Row) *rowState {
	row := e.newRow(in)
	for _, q := range row.seqs {
		if err := e.scheduler.add(q); err != nil {
			row.bad = err.Error()
			break // nothing of it was added: the first sequence is the longest
		}
	}
	return row
}

// stepThrough steps until no replica has anything left to compute. Between steps the ranks agree whether to go on: on one
// whose own context has ended, all of them stop.
func (e *Engine) stepThrough(ctx, world context.Context, shared bool) error {
	p := e.pipeline
	for begin := time.Now(); ; {
		planned := 0
		if e.place.leads() {
			planned = p.plan(e.scheduler.next(p.lane()))
		}
		busy, most := planned > 0, p.planned()
		if shared {
			v, err := comm.Agree(world, e.world, int64(planned), ended(ctx), int64(most))
			if err != nil {
				return err
			}
			if v.Any(1) {
				return e.stopped(ctx, func(rank int) int64 { return v.Of(rank, 1) })
			}
			planned, busy, most = int(v.Of(p.lead, 0)), v.Any(0), int(v.Max(2))
		} else if ctx.Err() != nil {
			return e.stopped(ctx, func(int) int64 { return ended(ctx) })
		}
		if !busy && !p.inFlight() {
			return nil
		}
		ran, done, err := p.step(world, planned, busy, most)
		if err != nil {
			return err
		}
		prompt, output := 0, 0
		if e.place.leads() {
			prompt, output = e.advance(done.pieces, func(*sequence) {})
		}
		if e.observer.Experts != nil && ran != nil && ran.tokens() > 0 {
			e.observer.Experts(e.steps.workspace.ExpertTokens(), e.steps.workspace.ExpertRows())
		}
		if e.observer.Step != nil {
			now := time.Now()
			e.observer.Step(e.account(now.Sub(begin), ran, done, prompt, output))
			begin = now
		}
	}
}

// sameCall refuses ranks that call for different things.
func (e *Engine) sameCall(ctx context.Context, job *config.Job, in []*dataset.Row) error {
	traits := append(settings(job), comm.Trait{Name: "number of prompts", Value: fmt.Sprint(len(in))})
	for i, row := range in {
		name := fmt.Sprintf("prompt %d", i)
		if row.IDs != nil {
			traits = append(traits, comm.Trait{Name: name, Value: fmt.Sprint(row.IDs)})
			continue
		}
		traits = append(traits, comm.Trait{Name: name, Value: row.Prompt})
		if row.HasPair {
			traits = append(traits, comm.Trait{Name: name + "'s second text", Value: row.Pair})
		}
		if row.HasContinuation {
			traits = append(traits, comm.Trait{Name: name + "'s continuation", Value: row.Continuation})
		}
	}
	return comm.Same(ctx, e.world, traits, "have all ranks make the same call of the engine, with the same prompts and options")
}

// ended is what a rank tells the others of its context.
func ended(ctx context.Context) int64 {
	switch err := ctx.Err(); {
	case err == nil:
		return contextLives
	case errors.Is(err, context.DeadlineExceeded):
		return contextLate
	}
	return contextCancelled
}

// What ended may tell.
const (
	contextLives = iota
	contextCancelled
	contextLate
)

// stopped is why the call stops, alike on all ranks: the first whose context has ended is named.
func (e *Engine) stopped(ctx context.Context, ends func(rank int) int64) error {
	rank := 0
	for ends(rank) == contextLives {
		rank++
	}
	why := context.Canceled
	if ends(rank) == contextLate {
		why = context.DeadlineExceeded
	}
	if rank == e.world.Rank() {
		why = context.Cause(ctx)
	}
	return fmt.Errorf("%w: the context of rank %d has ended: %w", ErrStopped, rank, why)
}

// told is a result on its way to the other ranks. gob leaves an empty text out as if it were none.
type told struct {
	results.Record
	Text, Bad string
	HasText   bool
}

// allResults gives every rank the results of all replicas, n in all, in the order of the rows.
func (e *Engine) allResults(ctx context.Context, mine []Result, n int) ([]Result, error) {
	var message bytes.Buffer
	list := make([]told, len(mine))
	for i, r := range mine {
		list[i] = told{Record: r.Record}
		if r.Output != nil {
			list[i].Text, list[i].HasText, list[i].Output = *r.Output, true, nil
		}
		if r.Err != nil {
			list[i].Bad = r.Err.Error()
		}
	}
	failed := gob.NewEncoder(&message).Encode(list)
	all, err := comm.AllGather(ctx, e.world, message.Bytes())
	if err = errors.Join(failed, err); err != nil {
		return nil, err
	}
	out := make([]Result, n)
	for rank, text := range all {
		var list []told
		if err := gob.NewDecoder(bytes.NewReader(text)).Decode(&list); err != nil {
			return nil, fmt.Errorf("the results of rank %d: %w", rank, err)
		}
		for _, t := range list {
			r := Result{Record: t.Record}
			if t.HasText {
				r.Output = &t.Text
			}
			for i := range r.Predictions {
				if p := &r.Predictions[i]; p.Token == nil && e.tokenizer != nil {
					p.Token = new(string)
				}
			}
			if t.Bad != "" {
				r.Err = errors.New(t.Bad)
			}
			out[t.Row] = r
		}
	}
	return out, nil
}

// grace is how long the ranks may take to end a call together, once the context of one has ended.
const grace = 10 * time.Second

// patient is a context that ends some time after ctx, for calls of ranks that are to end together: a rank that left one
// alone would leave the others waiting, and end the world.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})
	return late, func() {
		stop()
		cancel(nil)
	}
}
