package engine

import (
	"maps"
	"math"
	"testing"

	"github.com/dsbatch/dsbatch/config"
)

// TestLongestTextFits scores texts of a window and the token after it, whose last is a target only: memory for one row
// holds them, else whether they are set aside would depend on --max-seqs.
func TestLongestTextFits(t *testing.T) {
	for name, set := range map[string]func(*config.Job){
		"one row at a time":  func(j *config.Job) { j.MaxSeqs = 1 },
		"four":               func(j *config.Job) { j.MaxSeqs = 4 },
		"memory for one row": func(j *config.Job) { j.KVMemory = 48 * 2 * 3 * 2 * 4 * 4 },
	} {
		j := layoutJob(t, "../model/testdata/golden/llama", layoutRows(t, 150, 49, 48, 100))
		j.Task, j.Stride, j.Logprobs, j.KVMemory, j.Inference.MaxOutTokens = config.Score, 16, 0, 0, 48
		set(j)
		if got, err := runRanks(t, 1, j, RunOptions{}); err != nil || got.Bad > 0 {
			t.Errorf("%s: %d rows set aside, %v", name, got.Bad, err)
		}
	}
}

// TestNoBoundOnNewTokens generates with the largest number of new tokens there is, which means no bound but the window.
func TestNoBoundOnNewTokens(t *testing.T) {
	input := layoutRows(t, 150, 5, 17)
	var want map[string]string
	for _, n := range []int{24, math.MaxInt} {
		j := layoutJob(t, "../model/testdata/golden/llama", input)
		j.MaxNewTokens, j.Inference.MaxOutTokens = n, 24
		got, err := runRanks(t, 1, j, RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got.Digests
		}
		if !maps.Equal(got.Digests, want) {
			t.Errorf("--max-new-tokens %d: digests %v, with as many as the window has %v", n, got.Digests, want)
		}
	}
}
