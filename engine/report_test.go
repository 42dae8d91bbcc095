package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dsbatch/dsbatch/stats"
)

// TestReportCountsBytes: what all ranks read of the input and wrote is told in stats.json.
func TestReportCountsBytes(t *testing.T) {
	j := newJob(t, nil)
	j.ChunkRows, j.Limit = 4, 0
	if _, err := runRanks(t, 2, j, RunOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := stats.ReadReport(j.Output)
	if err != nil {
		t.Fatal(err)
	}
	var written int64
	for name := range parts(t, j.Output) {
		info, err := os.Stat(filepath.Join(j.Output, name))
		if err != nil {
			t.Fatal(err)
		}
		written += info.Size()
	}
	info, err := os.Stat(prompts)
	if err != nil {
		t.Fatal(err)
	}
	if b := r.Bytes; b.Output != written || b.Input > info.Size() || b.Input < info.Size()-r.Rows.Done || b.Weights == 0 {
		t.Errorf("%+v; the parts have %d bytes, the input %d", b, written, info.Size())
	}
}

// TestReportCountsRowsKept: rows that a stopped start had finished in a chunk that it left open are in the report of the
// start that commits it, as kept ones.
func TestReportCountsRowsKept(t *testing.T) {
	j := newJob(t, nil)
	j.ChunkRows, j.MaxSeqs = int(j.Limit), 1 // one chunk, row by row
	stop := new(Stop)
	_, err := runRanks(t, 1, j, RunOptions{Stop: stop, Progress: func(p Progress) {
		if p.Rows >= 3 {
			stop.Request("a test asks")
		}
	}})
	if !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if _, err := runRanks(t, 1, j, RunOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := stats.ReadReport(j.Output)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Rows; n.Kept < 3 || n.Kept+n.Done+n.Bad != n.Total {
		t.Errorf("%+v: want at least 3 kept, and kept, done and bad to be all", n)
	}
}
