package engine

import (
	"context"
	"encoding/json"
	"math"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// TestOutputLogitsAreThoseOfTheScores: with --output-logits a text's logits are written, [tokens, vocab], and its
// log-probabilities follow from them; they do not change anything else.
func TestOutputLogitsAreThoseOfTheScores(t *testing.T) {
	change := func(j *config.Job) {
		j.Task, j.Input, j.ContinuationColumn, j.Temperature, j.TopK, j.Limit = config.Score, []string{passages}, "continuation", 0, 0, 3
	}
	plain, err := runRanks(t, 1, newJob(t, change), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j := newJob(t, func(j *config.Job) { change(j); j.OutputLogits, j.MaxBatchTokens, j.MaxSeqs = true, 50, 2 })
	with, err := runRanks(t, 1, j, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if plain.Digests["logprob"] != with.Digests["logprob"] {
		t.Error("writing logits changed the scores")
	}
	rows, err := results.Head(context.Background(), j.Output, 3)
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows.Columns {
		column[name] = i
	}
	const vocab = 2048
	e, err := InitInference(context.Background(), bundled, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, row := range rows.Values {
		logits := floats(t, row[column["logits"]])
		scores := floats(t, row[column["token_logprobs"]])
		n := len(logits) / vocab
		if len(logits)%vocab != 0 || n <= len(scores) {
			t.Fatalf("%d logits for %d scores", len(logits), len(scores))
		}
		for i, want := range scores { // the last scores belong to the last tokens; the last row predicts nothing
			at := logits[(n-1-len(scores)+i)*vocab:][:vocab]
			if !within(at, want) {
				t.Errorf("score %d of %v is in no column of its row of logits", i, want)
			}
		}
	}
}

// within tells whether some token's log-probability is lp.
func within(logits []float64, lp float64) bool {
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(v)
	}
	for _, v := range logits {
		if math.Abs(v-math.Log(sum)-lp) < 1e-4 {
			return true
		}
	}
	return false
}

// floats reads a list column's value, which comes as JSON.
func floats(t *testing.T, v any) (list []float64) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}
