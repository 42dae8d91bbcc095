package engine

import (
	"context"
	"errors"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/stats"
)

// Observer is told what the steps of Generate, Score and the other calls do. What is nil is not told.
type Observer struct {
	// Step is called after each step. Its time runs from the end of the step before, so that the time between steps
	// counts too.
	Step func(stats.Step)
	// Section is called for each part of a step (attention, experts and so on), where the device's ops are done when
	// they return.
	Section func(stats.Phase, time.Duration)
	// Experts is called before Step with the choices [layers with experts][experts] of the rank's tokens, and the rows
	// [layers] that its experts computed. They are overwritten by the next step.
	Experts func(choices [][]int32, rows []int)
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
	MinNewTokens int // tokens none of which is an end token or completes a stop string; 0: off
	// InStep lets ranks that share experts but no layers (tp and pp of 1) run beside each other, each prompts of its own,
	// without a word between steps: all of them call with as many prompts of the same lengths, and nothing but
	// MaxNewTokens ends a row. For measuring.
	InStep bool
}

// Result is what became of one prompt; Err tells why it could not be used.
type Result struct {
	results.Record
	Err error
}

// Generate continues prompts, all of them in flight together, and returns one result each, in their order. Prompt i
// draws as row i of a data set does.
//
// All ranks of the engine's world call it together, with the same prompts and options, and all get all results: the same
// bits as one rank alone would find. The replicas share the prompts out, whatever tp, pp, ep and es are. Ranks that differ are
// refused by name (comm.ErrUnlike) before anything is computed. Where the context of one rank ends, all ranks return
// after the step under way with an error that names it and wraps ErrStopped; the engine is good for another call. Where
// a rank does not call at all, those that wait for it leave some seconds after their context ends; under MPI they
// can't, unless the world is that of a comm.Watcher. After any other error the ranks no longer answer each other:
// return it, so that the world ends.
func (e *Engine) Generate(ctx context.Context, prompts []string, o GenerateOptions) ([]Result, error) {
	if e.tokenizer == nil {
		return nil, errors.New("the model has no tokenizer")
	}
	rows := make([]*dataset.Row, len(prompts))
	for i, p := range prompts {
		rows[i] = &dataset.Row{Number: int64(i), Prompt: p}
	}
	return e.direct(ctx, e.generateJob(o), rows, o.InStep)
}

// GenerateIDs is Generate for prompts that are token ids already; a model without a tokenizer serves.
func (e *Engine) GenerateIDs(ctx context.Context, prompts [][]int32, o GenerateOptions) ([]Result, error) {
	rows := make([]*dataset.Row, len(prompts))
	for i, p := range prompts {
		rows[i] = &dataset.Row{Number: int64(i), IDs: p}
	}
	job := e.generateJob(o)
	job.PromptColumn, job.IDsColumn = "", "ids"
	return e.direct(ctx, job, rows, o.InStep)
}

// generateJob is the engine's job with what a caller in Go asks for.
func (e *Engine) generateJob(o GenerateOptions) *config.Job {
	job := *e.job
	job.Task, job.N, job.MaxNewTokens, job.MessagesColumn = config.Generate, 1, o.MaxNewTokens, ""
	if job.MaxNewTokens == 0 {
		job.MaxNewTokens = 128
	}
	job.Temperature, job.TopK, job.TopP, job.Seed, job.Stop, job.IgnoreEOS = o.Temperature, o.TopK, o.TopP, o.Seed, o.Stop, o.IgnoreEOS
	job.MinNewTokens = o.MinNewTokens
	if job.TopP == 0 {
		job.TopP = 1
	}
	return &job
}

// Text is a prompt with a continuation to be scored.
type Text struct{ Prompt, Continuation string }

// Score gives the log-probability of each continuation after its prompt; texts with the same prompt share its work.
// Where a continuation is empty the prompt itself is scored, but for its first token. All ranks call it together, as
// they do Generate.
func (e *Engine) Score(ctx context.Context, texts []Text) ([]Result, error) {
	if e.tokenizer == nil {
		return nil, errors.New("the model has no tokenizer")
	}
	job := *e.job
	job.Task, job.MessagesColumn = config.Score, ""
	rows := make([]*dataset.Row, len(texts))
	for i, t := range texts {
		rows[i] = &dataset.Row{Number: int64(i), Prompt: t.Prompt, Continuation: t.Continuation, HasContinuation: t.Continuation != ""}
	}
	return e.direct(ctx, &job, rows, false)
}

// ScoreOptions of ScoreIDs.
type ScoreOptions struct {
	InStep bool // as GenerateOptions has it
}

// ScoreIDs gives the log-probability of each token of the texts after the first; a model without a tokenizer serves.
func (e *Engine) ScoreIDs(ctx context.Context, texts [][]int32, o ScoreOptions) ([]Result, error) {
	job := *e.job
	job.Task, job.PromptColumn, job.IDsColumn = config.Score, "", "ids"
	rows := make([]*dataset.Row, len(texts))
	for i, t := range texts {
		rows[i] = &dataset.Row{Number: int64(i), IDs: t}
	}
	return e.direct(ctx, &job, rows, o.InStep)
}
