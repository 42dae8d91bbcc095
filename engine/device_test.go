package engine

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/mpi"
)

// onProcessors runs a job on ranks whose CPUs are told to be able to do so much, weakest first.
func onProcessors(t *testing.T, j *config.Job, ranks ...[]cpu.Level) (summary results.Summary, err error) {
	t.Helper()
	err = mpi.Run(len(ranks), func(w mpi.World) error {
		can := ranks[w.Rank()]
		o := RunOptions{processor: func() (processor, error) { return processor{can[len(can)-1], can}, nil }}
		s, err := Run(context.Background(), w, j, o)
		if w.Rank() == 0 {
			summary = s
		}
		return err
	})
	return summary, err
}

// TestRanksOnMixedProcessorsAgreeOnTheWeakest: the bits are those of the weakest alone, a stronger one goes on with
// them, and one that cannot is refused with the reason.
func TestRanksOnMixedProcessorsAgreeOnTheWeakest(t *testing.T) {
	can := cpu.Levels()
	if len(can) < 2 {
		t.Skip("this build or CPU has one instruction set only: nothing can be mixed")
	}
	strong, weak := can, can[:2]
	change := func(j *config.Job) { j.Limit, j.MaxNewTokens, j.ChunkRows = 4, 4, 1 }
	want, err := onProcessors(t, newJob(t, change), weak)
	if err != nil {
		t.Fatal(err)
	}
	j := newJob(t, change)
	got, err := onProcessors(t, j, strong, weak, strong)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got.Digests, want.Digests) {
		t.Errorf("%v on mixed CPUs, %v on the weakest alone", got.Digests, want.Digests)
	}
	was, err := results.Peek(j.Output)
	if err != nil {
		t.Fatal(err)
	}
	if arch := was.Fingerprint.Get(archSetting); arch != "cpu/"+weak[1].String() {
		t.Errorf("the fingerprint says %v, the ranks agreed on %v", arch, weak[1])
	}
	if _, err := onProcessors(t, j, strong); err != nil {
		t.Errorf("a stronger CPU cannot go on: %v", err)
	}
	_, err = onProcessors(t, j, strong, can[:1])
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), weak[1].String()) || !strings.Contains(err.Error(), "rank 1") {
		t.Errorf("a weaker CPU went on, or was refused without saying why: %v", err)
	}
	_, err = onProcessors(t, newJob(t, change), []cpu.Level{can[0]}, []cpu.Level{can[1]})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "in common") {
		t.Errorf("CPUs with nothing in common: %v", err)
	}
}

// TestRefusedJobsLeaveNoOutput: what cannot work is refused before the output directory is made.
func TestRefusedJobsLeaveNoOutput(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*config.Job)
		say    []string
	}{
		"KV memory for less than a row":   {func(j *config.Job) { j.KVMemory = 1 << 10 }, []string{"--kv-memory", "weights", "workspace"}},
		"KV memory that no machine has":   {func(j *config.Job) { j.KVMemory, j.MaxSeqs = 1<<60, 1<<30; j.MaxBatchTokens = 1 << 30 }, []string{"workspace of 1073741824 tokens"}},
		"experts not to be spread so":     {func(j *config.Job) { j.EP = 3 }, []string{"3"}},
		"more tokens than there are":      {func(j *config.Job) { j.Logprobs = 100_000 }, []string{"--logprobs 100000", "2000 tokens"}},
		"a tensor that the config denies": {func(j *config.Job) { j.Inference.ModelConfig = map[string]any{"padded_vocab_size": 4096} }, []string{"4096"}},
	} {
		j := newJob(t, c.change)
		_, err := runRanks(t, 2, j, RunOptions{})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, w := range c.say {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: says nothing of %q", name, err, w)
			}
		}
		if _, err := os.Stat(j.Output); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: an output directory was made", name)
		}
		if list, _ := filepath.Glob(filepath.Join(filepath.Dir(j.Output), "*")); len(list) > 0 {
			t.Errorf("%s: left behind %v", name, list)
		}
	}
}
