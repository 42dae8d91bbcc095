package engine

import (
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
