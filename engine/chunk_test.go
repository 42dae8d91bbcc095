package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// TestDefaultChunks holds the chunks of a job that names no size to the number of rows, --limit applied: a size that a
// large data set does not raise makes millions of parts.
func TestDefaultChunks(t *testing.T) {
	input := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(input, []byte(strings.Repeat("{\"prompt\": \"a\"}\n", 70_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ limit, size, chunks int64 }{{0, 69, 1015}, {1000, 64, 16}} {
		j := newJob(t, func(j *config.Job) { j.Input, j.Limit = []string{input}, c.limit })
		stop := &Stop{}
		stopped := func(_ int, phase string) { // what is asked for here is settled before the first step
			if phase == "prefill" {
				stop.Request("test")
			}
		}
		if _, err := runRanks(t, 2, j, RunOptions{Stop: stop, Phase: stopped}); !errors.Is(err, ErrStopped) {
			t.Fatal(err)
		}
		made, err := results.Peek(j.Output)
		if err != nil {
			t.Fatal(err)
		}
		if size, n := made.Chunks[0].Rows(), int64(len(made.Chunks)); size != c.size || n != c.chunks {
			t.Errorf("--limit %d: %d chunks of %d rows, want %d of %d", c.limit, n, size, c.chunks, c.size)
		}
	}
}
