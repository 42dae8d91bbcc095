package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
)

// Embed gives the embedding of each text, its last hidden states as pooling makes one of them: mean (as ""), cls, last or
// pooler. Any family embeds. All ranks call it together, as they do Generate.
func (e *Engine) Embed(ctx context.Context, texts []string, pooling string) ([]Result, error) {
	job := e.readJob(config.Embed)
	job.Pooling = cmp.Or(pooling, poolingMean)
	switch job.Pooling {
	case poolingMean, poolingCLS, poolingLast, poolingPooler:
	default:
		return nil, fmt.Errorf("%w: pooling %q; use mean, cls, last or pooler", ErrRefused, pooling)
	}
	return e.read(ctx, job, len(texts), func(i int) *dataset.Row { return &dataset.Row{Prompt: texts[i]} })
}

// Classify gives the label of each text, and the logits of all labels, of a model that has some. All ranks call it
// together, as they do Generate.
func (e *Engine) Classify(ctx context.Context, texts []string) ([]Result, error) {
	return e.read(ctx, e.readJob(config.Classify), len(texts), func(i int) *dataset.Row { return &dataset.Row{Prompt: texts[i]} })
}

// Pair is two texts that are read as one.
type Pair struct{ First, Second string }

// ClassifyPairs is Classify of pairs of texts, which the tokenizer joins.
func (e *Engine) ClassifyPairs(ctx context.Context, pairs []Pair) ([]Result, error) {
	return e.read(ctx, e.readJob(config.Classify), len(pairs), func(i int) *dataset.Row {
		return &dataset.Row{Prompt: pairs[i].First, Pair: pairs[i].Second, HasPair: true}
	})
}

// FillMask gives the likeliest tokens, so many (0: 5), in the place of each mask of each text, of a model that was trained
// to. All ranks call it together, as they do Generate.
func (e *Engine) FillMask(ctx context.Context, texts []string, likeliest int) ([]Result, error) {
	if likeliest < 0 {
		return nil, fmt.Errorf("%w: the %d likeliest tokens; use 1 or more, or 0 for 5", ErrRefused, likeliest)
	}
	job := e.readJob(config.FillMask)
	job.TopK = likeliest
	return e.read(ctx, job, len(texts), func(i int) *dataset.Row { return &dataset.Row{Prompt: texts[i]} })
}

// readJob is the engine's job with another task, of texts.
func (e *Engine) readJob(task config.Task) *config.Job {
	job := *e.job
	job.Task, job.PromptColumn, job.IDsColumn, job.MessagesColumn, job.OutputLogits, job.TopK = task, "prompt", "", "", false, 0
	return &job
}

func (e *Engine) read(ctx context.Context, job *config.Job, n int, row func(i int) *dataset.Row) ([]Result, error) {
	if e.tokenizer == nil {
		return nil, errors.New("the model has no tokenizer")
	}
	rows := make([]*dataset.Row, n)
	for i := range rows {
		rows[i] = row(i)
		rows[i].Number = int64(i)
	}
	return e.direct(ctx, job, rows, false)
}

// turnTo has the steps give what the engine's job reads of them. Room for it was made when the engine was opened for such
// a job; for another one it is made now, beside what was planned: little, but for --pooling mean of long steps.
func (e *Engine) turnTo() error {
	z := e.size
	z.read, z.top = e.reading(), e.reported()
	if z.read == e.size.read && z.top == e.size.top {
		return nil
	}
	if err := errors.Join(e.findMask(), e.headFits(), e.piecesFit()); err != nil {
		return err
	}
	if err := e.steps.turnTo(z); err != nil {
		e.size.top = -1 // what is there suits no job
		return err
	}
	e.size = z
	return nil
}
