package engine

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/stats"
)

// readReport is the stats.json of a job.
func readReport(t *testing.T, output string) (r stats.Report) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(output, "stats.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRowsOfOneChunkAreShared: a job of one chunk, which one rank takes, is computed by all ranks, and every column of it has
// the same bits as on one. What is lent and handed back is all that a row can have.
func TestRowsOfOneChunkAreShared(t *testing.T) {
	for name, change := range map[string]func(*config.Job){
		"generate, with the most probable tokens": func(j *config.Job) { j.Logprobs = 2 },
		"samples, with stop strings":              func(j *config.Job) { j.N, j.Stop, j.TopP, j.RepetitionPenalty = 2, []string{"e ", ","}, 0.9, 1.1 },
		"score": func(j *config.Job) {
			j.Task, j.Input, j.ContinuationColumn, j.Temperature, j.TopK = config.Score, []string{passages}, "continuation", 0, 0
		},
		"score, long rows in windows": func(j *config.Job) {
			j.Task, j.Stride, j.Temperature, j.TopK, j.Inference.MaxOutTokens = config.Score, 40, 0, 0, 60
		},
		"the prompts' logits too":    func(j *config.Job) { j.OutputLogits = true },
		"replicas of two ranks":      func(j *config.Job) { j.TP = 2 },
		"stages of one rank each":    func(j *config.Job) { j.PP = 2 },
		"few rows in flight at once": func(j *config.Job) { j.MaxSeqs = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			ranks := 3
			job := func() *config.Job {
				j := newJob(t, func(j *config.Job) { j.Limit, j.ChunkRows = 36, 36 })
				change(j)
				return j
			}
			j := job()
			if j.TP > 1 || j.PP > 1 {
				ranks = 4
			}
			got, err := runRanks(t, ranks, j, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			alone := job()
			if alone.PP = 1; j.TP > 1 {
				ranks = 2 // tp changes bits
			} else {
				ranks = 1
			}
			want, err := runRanks(t, ranks, alone, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got.Digests, want.Digests) || got.Rows != want.Rows {
				t.Errorf("digests %v, alone %v", got.Digests, want.Digests)
			}
			var tokens []int64
			busy, most, sum := 0, int64(0), int64(0)
			for _, r := range readReport(t, j.Output).Ranks {
				n := r.Prompt + r.Output
				tokens, most, sum = append(tokens, n), max(most, n), sum+n
				if n > 0 {
					busy++
				}
			}
			replicas := 3
			if j.TP > 1 || j.PP > 1 {
				replicas = 2
			}
			if busy != replicas || most > sum*2/3 {
				t.Errorf("the ranks have computed %v tokens of one chunk; want all %d replicas to have a part", tokens, replicas)
			}
		})
	}
}

// TestAStopKeepsLentRows: rows that were lent and are finished when the job is stopped are not computed again.
func TestAStopKeepsLentRows(t *testing.T) {
	change := func(j *config.Job) {
		j.Limit, j.ChunkRows, j.MaxNewTokens, j.MaxSeqs, j.IgnoreEOS = 36, 36, 4, 4, true
	}
	whole, err := runRanks(t, 1, newJob(t, change), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j, stop := newJob(t, change), &Stop{}
	_, err = runRanks(t, 2, j, RunOptions{Stop: stop, Progress: func(p Progress) {
		if p.Rows >= 4 { // the first rank's first ones; the other has begun a step later
			stop.Request("test")
		}
	}})
	if !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	before := readReport(t, j.Output)
	if n := before.Rows.Done; n < 8 {
		t.Errorf("%d rows are done before the stop, want the first 4 of each rank: %+v", n, before.Ranks)
	}
	got, err := runRanks(t, 1, j, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if after := readReport(t, j.Output).Rows.Done; !maps.Equal(got.Digests, whole.Digests) || before.Rows.Done+after != 36 {
		t.Errorf("%d rows before the stop and %d after it, digests %v, undisturbed %v", before.Rows.Done, after, got.Digests, whole.Digests)
	}
}
