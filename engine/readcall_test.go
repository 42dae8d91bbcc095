package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestReadingCalls: Embed, Classify, ClassifyPairs and FillMask give what jobs write, one call after the other on an engine that
// was opened for none of them, alone and over ranks.
func TestReadingCalls(t *testing.T) {
	var firsts []string
	var asked []Pair
	for _, p := range pairs {
		firsts, asked = append(firsts, p[0]+" w100"), append(asked, Pair{p[0], p[1]})
	}
	masked := []string{"w7 [MASK] w9", "[MASK] w30 w31 [MASK]", "w7"}
	job := func(model string, task config.Task, texts []string) *config.Job {
		var rows strings.Builder
		for _, text := range texts {
			fmt.Fprintf(&rows, `{"prompt": %q}`+"\n", text)
		}
		j := encoderJob(t, model, task, writeLines(t, rows.String()))
		j.PromptColumn, j.IDsColumn = "prompt", ""
		return j
	}
	vector := func(r results.Record) any { return r.Embedding }
	logits := func(r results.Record) any { return r.Logits }
	predictions := func(r results.Record) any {
		var list []any
		for _, p := range r.Predictions {
			list = append(list, map[string]any{"position": p.Position, "token_id": p.TokenID, "token": p.Token, "probability": p.Probability})
		}
		return list
	}
	type call struct {
		name string
		make func(*Engine) ([]Result, error)
		of   func(results.Record) any // what is looked at
		want func(model string) *config.Job
		col  string // of the job
	}
	embed := func(pooling string) call {
		return call{"embed " + pooling, func(e *Engine) ([]Result, error) { return e.Embed(t.Context(), firsts, pooling) }, vector, func(model string) *config.Job {
			j := job(model, config.Embed, firsts)
			j.Pooling = pooling
			return j
		}, "embedding"}
	}
	for model, calls := range map[string][]call{
		"bert-classify": {
			embed("mean"), embed("cls"),
			{"classify", func(e *Engine) ([]Result, error) { return e.Classify(t.Context(), firsts) }, logits,
				func(model string) *config.Job { return job(model, config.Classify, firsts) }, "logits"},
			{"pairs", func(e *Engine) ([]Result, error) { return e.ClassifyPairs(t.Context(), asked) }, logits,
				func(model string) *config.Job { return pairJob(t, model) }, "logits"},
			embed("pooler"), embed("mean"),
		},
		"distilbert-mlm": {
			embed("last"),
			{"masks", func(e *Engine) ([]Result, error) { return e.FillMask(t.Context(), masked[:2], 3) }, predictions,
				func(model string) *config.Job {
					j := job(model, config.FillMask, masked[:2])
					j.TopK = 3
					return j
				}, "predictions"},
			embed("mean"),
		},
		"": {embed("mean"), embed("last")}, // a decoder, which generates in between
	} {
		dir := bundled
		if model != "" {
			dir = wordModel(t, model)
		}
		want := make([][]map[string]any, len(calls))
		for i, c := range calls {
			want[i] = outcomeOf(t, 1, c.want(dir))
		}
		for _, ranks := range []int{1, 2} {
			err := mpi.Run(ranks, func(w mpi.World) error {
				e, err := InitInferenceOver(context.Background(), w, dir, nil, nil)
				if err != nil {
					return err
				}
				for i, c := range calls {
					out, err := c.make(e)
					if err != nil {
						return errors.Join(fmt.Errorf("%s: %w", c.name, err), e.Close())
					}
					for row, r := range out {
						got, same := column[any](t, c.of(r.Record)), column[any](t, want[i][row][c.col])
						if r.Err != nil || !reflect.DeepEqual(got, same) {
							t.Errorf("%s, %d ranks, %s, row %d: %v, %v; the job has %v", model, ranks, c.name, row, got, r.Err, same)
						}
					}
					if model == "" {
						if out, err := e.Generate(t.Context(), []string{"It is a truth"}, GenerateOptions{MaxNewTokens: 3}); err != nil || len(out[0].OutputIDs) != 3 {
							t.Errorf("generation after %s: %v, %v", c.name, out, err)
						}
					}
				}
				return e.Close()
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// TestReadingCallsThatAreRefused: what the model or the texts lack is said, and the next call is as good as the first.
func TestReadingCallsThatAreRefused(t *testing.T) {
	e, err := InitInference(t.Context(), wordModel(t, "distilbert-mlm"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, err := e.Embed(t.Context(), []string{"w7"}, "")
	if err != nil {
		t.Fatal(err)
	}
	for say, call := range map[string]func() ([]Result, error){
		"cannot do the task classify": func() ([]Result, error) { return e.Classify(t.Context(), []string{"w7"}) },
		"has no pooler":               func() ([]Result, error) { return e.Embed(t.Context(), []string{"w7"}, "pooler") },
		`pooling "max"`:               func() ([]Result, error) { return e.Embed(t.Context(), []string{"w7"}, "max") },
		"--top-k 161":                 func() ([]Result, error) { return e.FillMask(t.Context(), []string{"w7 [MASK]"}, 161) },
		"-1 likeliest":                func() ([]Result, error) { return e.FillMask(t.Context(), []string{"w7 [MASK]"}, -1) },
	} {
		if _, err := call(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), say) {
			t.Errorf("%v, want %q", err, say)
		}
	}
	if out, err := e.FillMask(t.Context(), []string{"w7"}, 0); err != nil || out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "no mask") {
		t.Errorf("a text without a mask: %v, %v", out, err)
	}
	if again, err := e.Embed(t.Context(), []string{"w7"}, ""); err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("%v, %v; at first %v", again, err, first)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
