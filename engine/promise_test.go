package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

const (
	bundled  = "../examples/austen-prmoe"
	prompts  = "../examples/prompts.parquet"
	passages = "../examples/passages.parquet"
)

// newJob is a job on the bundled model and prompts, small enough for a test.
func newJob(t testing.TB, change func(*config.Job)) *config.Job {
	j := config.New()
	j.Model, j.Input, j.Output, j.Threads = bundled, []string{prompts}, filepath.Join(t.TempDir(), "out"), 1
	j.Limit, j.MaxNewTokens, j.Temperature, j.TopK = 16, 8, 0.8, 40
	if change != nil {
		change(j)
	}
	return j
}

// runRanks runs a job on n in-process ranks and returns what is committed, or the error that the others' follow from.
func runRanks(t testing.TB, n int, j *config.Job, o RunOptions) (summary results.Summary, err error) {
	t.Helper()
	errs := make([]error, n)
	err = mpi.Run(n, func(w mpi.World) error {
		s, err := Run(context.Background(), w, j, o)
		if errs[w.Rank()] = err; w.Rank() == 0 {
			summary = s
		}
		return err
	})
	for _, cause := range errs {
		if other := (*comm.RankError)(nil); cause != nil && !errors.As(cause, &other) {
			return summary, cause
		}
	}
	return summary, err
}

// TestSameBitsHoweverTheJobRuns is promise 1: the columns' digests do not depend on batch, chunk, ranks or ep.
func TestSameBitsHoweverTheJobRuns(t *testing.T) {
	settings := []struct {
		name  string
		ranks int
		set   func(*config.Job)
	}{
		{"one rank", 1, nil},
		{"one row at a time", 1, func(j *config.Job) { j.MaxSeqs = 1 }},
		{"three rows at a time", 1, func(j *config.Job) { j.MaxSeqs = 3 }},
		{"prompts in pieces of 5 tokens", 1, func(j *config.Job) { j.MaxBatchTokens, j.MaxSeqs = 5, 5 }},
		{"steps of 2048 tokens", 1, func(j *config.Job) { j.MaxBatchTokens = 2048 }},
		{"chunks of 1 row", 1, func(j *config.Job) { j.ChunkRows = 1 }},
		{"chunks of 7 rows", 1, func(j *config.Job) { j.ChunkRows = 7 }},
		{"two threads", 1, func(j *config.Job) { j.Threads = 2 }},
		{"hardly any KV memory", 1, func(j *config.Job) { j.KVMemory = 8 << 20 }},
		{"2 ranks", 2, func(j *config.Job) { j.ChunkRows = 4 }},
		{"2 ranks, ep 1", 2, func(j *config.Job) { j.EP, j.ChunkRows = 1, 4 }},
		{"3 ranks", 3, func(j *config.Job) { j.ChunkRows = 4 }},
		{"4 ranks, ep 2", 4, func(j *config.Job) { j.EP, j.ChunkRows = 2, 4 }},
		{"8 ranks, more than have rows", 8, func(j *config.Job) { j.ChunkRows = 10 }},
	}
	for task, change := range map[string]func(*config.Job){
		"generate": func(j *config.Job) { j.Logprobs = 2 },
		"samples":  func(j *config.Job) { j.N, j.Limit = 3, 6 },
		"stops":    func(j *config.Job) { j.Stop, j.Limit = []string{"e ", ","}, 12 },
		"a least length": func(j *config.Job) {
			j.Stop, j.Limit, j.MinNewTokens, j.MaxNewTokens = []string{"e ", ","}, 12, 5, 10
			j.Inference.ModelConfig = map[string]any{"eos_token_id": []any{12.0, 260.0, 272.0}}
		},
		"score": func(j *config.Job) {
			j.Task, j.Input, j.ContinuationColumn, j.Temperature, j.TopK = config.Score, []string{passages}, "continuation", 0, 0
		},
	} {
		t.Run(task, func(t *testing.T) {
			var want map[string]string
			for _, s := range settings {
				j := newJob(t, change)
				if s.set != nil {
					s.set(j)
				}
				got, err := runRanks(t, s.ranks, j, RunOptions{})
				if err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				if want == nil {
					want = got.Digests
				}
				if !maps.Equal(got.Digests, want) {
					t.Errorf("%s: digests %v, alone %v", s.name, got.Digests, want)
				}
			}
		})
	}
}

// TestAKernelChosenByRowsBreaksThePromise shows that the test above can fail: a device whose linear op rounds another
// way when it has many rows gives other bits for other batches.
func TestAKernelChosenByRowsBreaksThePromise(t *testing.T) {
	digest := func(seqs int) string {
		j := newJob(t, func(j *config.Job) { j.MaxSeqs, j.Limit = seqs, 8 })
		s, err := runRanks(t, 1, j, RunOptions{wrap: func(d kernels.Device) kernels.Device { return choosy{d} }})
		if err != nil {
			t.Fatal(err)
		}
		return s.Digests["cumulative_logprob"]
	}
	if digest(1) == digest(8) {
		t.Error("a kernel chosen by the number of rows went unnoticed")
	}
}

// choosy is a device that computes the last bits of a linear op otherwise for more than 4 rows.
type choosy struct{ kernels.Device }

type choosyStream struct {
	kernels.Stream
	device kernels.Device
}

func (c choosy) NewStream() (kernels.Stream, error) {
	s, err := c.Device.NewStream()
	return choosyStream{s, c.Device}, err
}

func (s choosyStream) Linear(y, x kernels.Tensor, w kernels.Weights, e kernels.Epilogue) {
	s.Stream.Linear(y, x, w, e)
	if x.Rows <= 4 || y.DType != kernels.F32 {
		return
	}
	short, err := s.device.Alloc("rounded", kernels.BF16, y.Rows, y.Cols)
	if err != nil {
		panic(err)
	}
	defer short.Mem.Free()
	s.Copy(short, y)
	s.Copy(y, short)
}

// TestStoppedJobGoesOn stops jobs at many places and lets other numbers of ranks go on: same bytes, every row once.
func TestStoppedJobGoesOn(t *testing.T) {
	change := func(j *config.Job) { j.ChunkRows, j.MaxSeqs, j.N, j.Limit, j.MaxNewTokens = 5, 6, 2, 18, 8 }
	whole, err := runRanks(t, 1, newJob(t, change), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, every := range []int{2, 12} {
		t.Run(fmt.Sprintf("every %d steps", every), func(t *testing.T) {
			j := newJob(t, change)
			for start := 0; ; start++ {
				if start > 300 {
					t.Fatal("the job makes no progress")
				}
				stop, steps := &Stop{}, 0
				got, err := runRanks(t, 1+start%3, j, RunOptions{Stop: stop, Progress: func(Progress) {
					if steps++; steps > every+start/4 {
						stop.Request("test")
					}
				}})
				if errors.Is(err, ErrStopped) {
					if _, err := os.Stat(filepath.Join(j.Output, "stats.json")); err != nil {
						t.Errorf("a stopped job left no statistics: %v", err)
					}
					continue
				} else if err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(got.Digests, whole.Digests) || got.Rows != whole.Rows {
					t.Errorf("after %d stops: %v, undisturbed %v", start, got, whole)
				}
				return
			}
		})
	}
}
