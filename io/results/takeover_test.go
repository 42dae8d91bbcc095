package results

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestTakenOverWhileWriting: a start that loses the output in the middle of a part does not put it in place.
func TestTakenOverWhileWriting(t *testing.T) {
	job, ctx, d := newTestJob(), context.Background(), newCrashDisk()
	w := job.begin(t, d)
	d.before = func(what, name string) {
		if what == "write" && strings.HasSuffix(name, ".tmp") {
			d.names["/out/_dsbatch/lease-000002.json"] = &inode{}
		}
	}
	c := job.chunks[0]
	if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	if names, err := d.ReadDir("/out"); err != nil || len(names) != 0 {
		t.Errorf("%v, %q", err, names)
	}
}

// TestTwoStartsWriteOneChunk: a rank of a dead start is quicker than its end. The line that tells the truth counts.
func TestTwoStartsWriteOneChunk(t *testing.T) {
	job, ctx, d := newTestJob(), context.Background(), newCrashDisk()
	first, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	c := job.chunks[1]
	old, err := Join(ctx, "/out", first.Start(), 1, job.layout, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	other := recordsOf(c)
	other[0] = Record{Row: c.First, Error: "a reason that names rank 1"} // not what promise 1 allows, but be safe
	if err := old.Commit(ctx, c, other, carryOf(c)); err != nil {
		t.Fatal(err)
	}
	late, err := readAll(d, "/out/part-0000001.parquet")
	if err != nil {
		t.Fatal(err)
	}
	d.put("/out/part-0000001.parquet", nil) // which the second start does not find
	if err := job.run(d, 1, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, d, "the second start's part")
	d.put("/out/part-0000001.parquet", late) // the rename of the first comes last
	report, err := Verify(ctx, "/out", VerifyOptions{fs: d})
	if err != nil || len(report.Problems) != 1 || report.Bad != 3 { // bad-rows.parquet knows two
		t.Errorf("%v, %+v", err, report)
	}
	if err := old.Commit(ctx, c, recordsOf(c), carryOf(c)); !errors.Is(err, ErrLost) {
		t.Errorf("the old start may still commit: %v", err)
	}
}
