package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFinishedOutputIsLeftAlone(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	if err := job.run(d, 2, -1); err != nil {
		t.Fatal(err)
	}
	before := d.ops
	out, err := Create(context.Background(), "/out", job.fp, job.layout, job.chunks, testOptions(d))
	if err != nil || !out.Finished() {
		t.Fatal(err)
	}
	summary, err := out.Finish(context.Background())
	if err != nil || out.Close() != nil || d.ops != before {
		t.Errorf("%v; %d operations more: %q", err, d.ops-before, d.log[before:])
	}
	if summary.Rows != 9 || summary.Bad != 2 || summary.Chunks != 4 {
		t.Errorf("%+v", summary)
	}
	other := job
	other.fp = Fingerprint{{"dtype", "bf16"}}
	var mismatch *MismatchError
	if err := other.run(d, 1, -1); !errors.As(err, &mismatch) || d.ops != before {
		t.Errorf("%v; %d operations more", err, d.ops-before)
	}
}

func TestLostPartIsDoneAgain(t *testing.T) {
	for name, harm := range map[string]func(*crashDisk){
		"missing":   func(d *crashDisk) { delete(d.names, "/out/part-0000002.parquet") },
		"truncated": func(d *crashDisk) { n := d.names["/out/part-0000002.parquet"]; n.now = n.now[:len(n.now)-1] },
		"of a chunk of another size": func(d *crashDisk) {
			d.names["/out/part-0000002.parquet"] = d.names["/out/part-0000001.parquet"]
		},
	} {
		job, d := newTestJob(), newCrashDisk()
		if err := job.run(d, 2, -1); err != nil {
			t.Fatal(err)
		}
		harm(d)
		if report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d}); err != nil || report.Whole() {
			t.Errorf("%s: %v, found whole", name, err)
		}
		if err := job.run(d, 3, 0); err != nil || d.names["/out/_SUCCESS"] != nil {
			t.Fatalf("%s: %v; it claims success before the part is there again", name, err)
		}
		if err := job.run(d, 3, -1); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		job.check(t, d, name)
	}
}

func TestFullDisk(t *testing.T) {
	job := newTestJob()
	whole := newCrashDisk()
	if err := job.run(whole, 2, -1); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range whole.names {
		total += len(f.now)
	}
	for room := 0; room < total; room += total / 40 {
		d := newCrashDisk()
		d.room = room
		err := job.run(d, 2, -1)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "/out") || !strings.Contains(err.Error(), "make room") {
			t.Fatalf("room for %d bytes of %d: %v", room, total, err)
		}
		for name := range d.names {
			if strings.HasSuffix(name, ".tmp") {
				t.Errorf("room for %d bytes: %s still takes some of it", room, name)
			}
		}
		d = d.afterKill()
		if err := job.run(d, 3, -1); err != nil {
			t.Fatalf("room for %d bytes, then enough: %v", room, err)
		}
		job.check(t, d, fmt.Sprintf("room for %d bytes, then enough", room))
	}
}

func TestForeignFolder(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	d.folders["/out"] = true
	d.names["/out/part-0000000.parquet"] = &inode{}
	if err := job.run(d, 1, -1); err == nil || !strings.Contains(err.Error(), "part-0000000.parquet") || d.ops != 0 {
		t.Errorf("%v after %q", err, d.log)
	}
}

func TestNothingToDo(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	job.chunks = nil
	if err := job.run(d, 3, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, d, "no rows")
}

func TestPeek(t *testing.T) {
	if _, err := Peek(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	job, dir := newTestJob(), filepath.Join(t.TempDir(), "a", "b")
	out, err := Create(context.Background(), dir, job.fp, job.layout, job.chunks, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Peek(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(job.chunks, got.Chunks); diff != "" || got.Fingerprint.Get("dtype") != "fp32" {
		t.Errorf("%s %+v", diff, got)
	}
}

// TestJoinOfARankElsewhere: a rank that does not see the output that rank 0 has made says so, not that an input is missing.
func TestJoinOfARankElsewhere(t *testing.T) {
	_, err := Join(t.Context(), filepath.Join(t.TempDir(), "out"), 1, 3, Layout{Task: Generate}, Options{})
	if !errors.Is(err, ErrUnusable) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "rank 3 does not see") {
		t.Error(err)
	}
}
