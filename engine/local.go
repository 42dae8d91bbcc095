package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/stats"
)

// Observer is told what the steps of Generate, GenerateIDs and Score do. What is nil is not told.
type Observer struct {
	// Step is called after each step. Its time runs from the end of the step before, so that the time between steps
	// counts too.
	Step func(stats.Step)
	// Section is called for each part of a step (attention, experts and so on), where the device's ops are done when
	// they return.
	Section func(stats.Phase, time.Duration)
}

// Observe has o told of the steps from now on.
func (e *Engine) Observe(o Observer) {
	e.observer = o
	e.measure(o.Section)
}

// GenerateOptions of Generate; the zero value is greedy.
type GenerateOptions struct {
	MaxNewTokens int     // 0: 128
	Temperature  float64 // 0: greedy
	TopK         int     // 0: off
	TopP         float64 // 0: off
	Seed         uint64
	Stop         []string
	IgnoreEOS    bool
	// InStep lets ranks that share experts but no layers (tp and pp of 1) run beside each other: all of them call with as
	// many prompts of the same lengths, and nothing but MaxNewTokens ends a row. For measuring.
	InStep bool
}

// Result is what became of one prompt; Err tells why it could not be used.
type Result struct {
	results.Record
	Err error
}

// Generate continues prompts, all of them in flight together, and returns one result each, in their order. Prompt i
// draws as row i of a data set does.
func (e *Engine) Generate(ctx context.Context, prompts []string, o GenerateOptions) ([]Result, error) {
	if e.tokenizer == nil {
		return nil, errors.New("the model has no tokenizer")
	}
	rows := make([]*dataset.Row, len(prompts))
	for i, p := range prompts {
		rows[i] = &dataset.Row{Number: int64(i), Prompt: p}
	}
	return e.all(ctx, e.generateJob(o), rows, o.InStep)
}

// GenerateIDs is Generate for prompts that are token ids already; a model without a tokenizer serves.
func (e *Engine) GenerateIDs(ctx context.Context, prompts [][]int32, o GenerateOptions) ([]Result, error) {
	rows := make([]*dataset.Row, len(prompts))
	for i, p := range prompts {
		rows[i] = &dataset.Row{Number: int64(i), IDs: p}
	}
	job := e.generateJob(o)
	job.PromptColumn, job.IDsColumn = "", "ids"
	return e.all(ctx, job, rows, o.InStep)
}

// generateJob is the engine's job with what a caller in Go asks for.
func (e *Engine) generateJob(o GenerateOptions) *config.Job {
	job := *e.job
	job.Task, job.N, job.MaxNewTokens = config.Generate, 1, o.MaxNewTokens
	if job.MaxNewTokens == 0 {
		job.MaxNewTokens = 128
	}
	job.Temperature, job.TopK, job.TopP, job.Seed, job.Stop, job.IgnoreEOS = o.Temperature, o.TopK, o.TopP, o.Seed, o.Stop, o.IgnoreEOS
	if job.TopP == 0 {
		job.TopP = 1
	}
	return &job
}

// Text is a prompt with a continuation to be scored.
type Text struct{ Prompt, Continuation string }

// Score gives the log-probability of each continuation after its prompt; texts with the same prompt share its work.
// Where a continuation is empty the prompt itself is scored, but for its first token.
func (e *Engine) Score(ctx context.Context, texts []Text) ([]Result, error) {
	if e.tokenizer == nil {
		return nil, errors.New("the model has no tokenizer")
	}
	job := *e.job
	job.Task = config.Score
	rows := make([]*dataset.Row, len(texts))
	for i, t := range texts {
		rows[i] = &dataset.Row{Number: int64(i), Prompt: t.Prompt, Continuation: t.Continuation, HasContinuation: t.Continuation != ""}
	}
	return e.all(ctx, &job, rows, false)
}

// all runs rows to their end on this rank; inStep: all ranks do so with rows of the same lengths, each a whole replica.
func (e *Engine) all(ctx context.Context, job *config.Job, in []*dataset.Row, inStep bool) ([]Result, error) {
	if w := e.world.Size(); w > 1 && !(inStep && e.layout.DP == w) {
		return nil, fmt.Errorf("%w: rows are given to one rank of %d here; let Run divide a data set among them", ErrRefused, e.world.Size())
	}
	was := e.job
	e.job = job
	defer func() { e.job = was }()
	out, rows := make([]Result, len(in)), make([]*rowState, len(in))
	for i := range in {
		row := e.newRow(in[i])
		rows[i] = row
		for _, q := range row.seqs {
			if err := e.scheduler.add(q); err != nil {
				row.bad = err.Error()
			}
		}
	}
	for begin := time.Now(); !e.scheduler.idle(); {
		planned := e.pipeline.plan(e.scheduler.next(0))
		ran, done, err := e.pipeline.step(ctx, planned, true)
		if err != nil {
			return nil, err
		}
		prompt, output := e.advance(done.pieces, func(*sequence) {})
		if e.observer.Step != nil {
			now := time.Now()
			e.observer.Step(e.account(now.Sub(begin), ran, done, prompt, output))
			begin = now
		}
	}
	for i, row := range rows {
		out[i].Record = e.records(row)[0]
		if row.bad != "" {
			out[i].Err = errors.New(row.bad)
		}
	}
	return out, nil
}
