package engine

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// TestSameBitsByChance is promise 1 over what nobody thought of: jobs drawn at random, each run as plainly as can be (one
// replica, one row at a time, one chunk) and then in layouts, batches, chunks and starts drawn at random. Rows share
// beginnings, bring their own settings, fill the window, or are bad.
func TestSameBitsByChance(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			job := randomJob(t, r)
			plain := job(func(j *config.Job) { j.MaxSeqs = 1 })
			want, err := runRanks(t, plain.TP, plain, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if want.Bad == want.Rows {
				t.Fatal("every row is bad")
			}
			for range 4 {
				settings := randomSettings(r, plain.TP)
				got, starts, err := runInStarts(t, r, job(settings.set))
				if err != nil {
					t.Errorf("%v: %v", settings, err)
				} else if !maps.Equal(got.Digests, want.Digests) || got.Bad != want.Bad {
					t.Errorf("%v, %d starts: %d bad, digests %v; as plainly as can be: %d bad, %v", settings, starts, got.Bad, got.Digests, want.Bad, want.Digests)
				}
			}
		})
	}
}

// randomJob draws what a job's bits depend on, and returns what makes such jobs with other settings.
func randomJob(t *testing.T, r *rand.Rand) func(func(*config.Job)) *config.Job {
	m := layoutModels[r.IntN(len(layoutModels))]
	bits := config.New()
	bits.Model, bits.PromptColumn, bits.IDsColumn = filepath.Join("..", "model", "testdata", "golden", m.golden), "", "ids"
	bits.Inference.ModelConfig, bits.Inference.MaxOutTokens = m.change, 40+r.IntN(60)
	bits.DType = []config.DType{config.FP32, config.BF16, config.INT8}[r.IntN(3)]
	if bits.DType != config.INT8 { // whose groups slices may cut
		bits.TP = 1 + r.IntN(2)
	}
	bits.TPInvariant = r.IntN(4) == 0
	bits.Input = []string{randomRows(t, r, bits.Inference.MaxOutTokens), randomRows(t, r, bits.Inference.MaxOutTokens)}
	if bits.Task = config.Generate; r.IntN(3) == 0 {
		bits.Task, bits.Stride = config.Score, r.IntN(2)*(1+r.IntN(30))
	} else {
		bits.MaxNewTokens, bits.N, bits.Logprobs, bits.IgnoreEOS = 1+r.IntN(9), 1+r.IntN(3), r.IntN(4), true
		bits.Temperature, bits.TopP, bits.MinP, bits.RepetitionPenalty = float64(r.IntN(2)), 0.5+r.Float64()/2, 0.1*r.Float64(), 0.8+0.4*float64(r.IntN(2))
	}
	bits.OutputLogits = r.IntN(4) == 0 && bits.Stride == 0
	return func(set func(*config.Job)) *config.Job {
		j := *bits
		j.Output, j.Threads = filepath.Join(t.TempDir(), "out"), 1
		set(&j)
		return &j
	}
}

// randomRows writes rows of ids: some begin alike, some are as long as the window, some cannot be used.
func randomRows(t *testing.T, r *rand.Rand, window int) string {
	const vocabulary = 150
	draw := func(n int) []string {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprint(1 + r.IntN(vocabulary-1))
		}
		return ids
	}
	stems := [][]string{nil, draw(16), draw(33)}
	var text strings.Builder
	for range 5 + r.IntN(10) {
		ids := append(append([]string{}, stems[r.IntN(len(stems))]...), draw(1+r.IntN(20))...)
		switch r.IntN(12) {
		case 0:
			ids = append(ids, "99999")
		case 1:
			ids = draw(window - 1 + r.IntN(3))
		}
		own := ""
		if r.IntN(3) == 0 {
			own = fmt.Sprintf(`, "temperature": %.1f, "top_k": %d, "seed": %d, "max_new_tokens": %d`, 2*r.Float64(), r.IntN(50), r.IntN(9), 1+r.IntN(12))
		}
		fmt.Fprintf(&text, "{\"ids\": [%s]%s}\n", strings.Join(ids, ", "), own)
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freeSettings are some of those that may change no bit.
type freeSettings struct {
	ranks, pp, ep, nodes, seqs, tokens, threads int
	way                                         string
	least                                       bool // KV memory
}

func randomSettings(r *rand.Rand, tp int) freeSettings {
	s := freeSettings{ranks: tp * (1 + r.IntN(4)), pp: 1, seqs: 1 + r.IntN(12), threads: 1 + r.IntN(3), least: r.IntN(2) == 0,
		way: []string{"flat", "hierarchical", "auto"}[r.IntN(3)]}
	if s.ranks/tp%2 == 0 {
		s.pp = 1 + r.IntN(2)
	}
	if tp > 1 && r.IntN(3) == 0 {
		s.way = "coordinated"
	}
	s.ep = r.IntN(2) // all over the ranks, or none
	s.nodes = r.IntN(s.ranks + 1)
	if r.IntN(2) == 0 {
		s.tokens = 1 + r.IntN(40)
	}
	return s
}

func (s freeSettings) set(j *config.Job) {
	j.PP, j.EP, j.FakeNodes, j.MaxSeqs, j.MaxBatchTokens, j.Threads, j.AllToAll = s.pp, s.ep, s.nodes, s.seqs, s.tokens, s.threads, s.way
	j.Ranks = s.ranks
	if s.least {
		j.KVMemory = 1 << 17
	}
}

// runInStarts runs a job to its end, stopped at random, and returns how many starts it took.
func runInStarts(t *testing.T, r *rand.Rand, j *config.Job) (s results.Summary, starts int, err error) {
	ranks, stops := j.Ranks, r.IntN(3)
	j.ChunkRows, j.Ranks = 1+r.IntN(20), 0
	for starts = 1; ; starts++ {
		stop, steps := &Stop{}, 3+r.IntN(30)
		s, err = runRanks(t, ranks, j, RunOptions{Stop: stop, Progress: func(Progress) {
			if steps--; steps < 0 && starts <= stops {
				stop.Request("test")
			}
		}})
		if !errors.Is(err, ErrStopped) {
			return s, starts, err
		}
	}
}
