package results

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestKilledAnywhere is promise 2: a start dies at every single operation in turn, the next one dies somewhere else or
// stops cleanly, the third finishes; each with another number of ranks.
func TestKilledAnywhere(t *testing.T) {
	job := newTestJob()
	whole := newCrashDisk()
	if err := job.run(whole, 2, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, whole, "undisturbed")
	t.Logf("%d operations", whole.ops)
	ends := map[string]func(*crashDisk, uint64) *crashDisk{
		"kill": func(d *crashDisk, _ uint64) *crashDisk { return d.afterKill() },
		"power failure": func(d *crashDisk, seed uint64) *crashDisk {
			return d.afterPowerFailure(rand.New(rand.NewPCG(seed, 7)))
		},
	}
	for name, next := range ends {
		for k := 1; k <= whole.ops; k++ {
			what := fmt.Sprintf("%s at operation %d", name, k)
			chance := rand.New(rand.NewPCG(uint64(k), 3))
			d := newCrashDisk()
			d.dieAt = k
			if err := job.run(d, 2, -1); !errors.Is(err, errDead) {
				t.Fatalf("%s (%s): %v", what, d.log[len(d.log)-1], err)
			}
			what += " (" + d.log[len(d.log)-1] + ")"
			d = next(d, uint64(k))
			stop := -1
			if k%2 == 0 {
				d.dieAt = 1 + chance.IntN(whole.ops)
				what += fmt.Sprintf(", then at operation %d", d.dieAt)
			} else {
				stop = chance.IntN(3)
				what += fmt.Sprintf(", then a clean stop after %d chunks", stop)
			}
			if err := job.run(d, 3, stop); err != nil && !errors.Is(err, errDead) {
				t.Fatalf("%s: second start: %v", what, err)
			}
			d = next(d, uint64(k)+1000)
			if err := job.run(d, 1, -1); err != nil {
				t.Fatalf("%s: third start: %v", what, err)
			}
			job.check(t, d, what)
		}
	}
}

// TestKilledAfterACleanStop: the same from the open rows of an earlier start.
func TestKilledAfterACleanStop(t *testing.T) {
	job, begun := newTestJob(), newCrashDisk()
	if err := job.run(begun, 2, 1); err != nil {
		t.Fatal(err)
	}
	if begun.names["/out/_dsbatch/open-0000001.parquet"] == nil {
		t.Fatal("no open rows")
	}
	for k := 1; ; k++ {
		d := begun.afterKill()
		d.dieAt = k
		err := job.run(d, 2, -1)
		what := "operation " + d.log[len(d.log)-1]
		d = d.afterPowerFailure(rand.New(rand.NewPCG(uint64(k), 9)))
		if again := job.run(d, 1, -1); again != nil {
			t.Fatalf("%s: %v", what, again)
		}
		job.check(t, d, what)
		if err == nil {
			return
		}
	}
}

// TestCommittedSurvives: when Commit has returned, the next start does not do the chunk again, whatever failed then.
func TestCommittedSurvives(t *testing.T) {
	job, ctx := newTestJob(), context.Background()
	for seed := range uint64(20) {
		d := newCrashDisk()
		w := job.begin(t, d)
		c := job.chunks[1]
		if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); err != nil {
			t.Fatal(err)
		}
		d = d.afterPowerFailure(rand.New(rand.NewPCG(seed, 5)))
		out, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]bool{false, true, false, false}, out.Committed()); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
	}
}

// TestCommittedAtOnceSurvives: the same of chunks that one writer commits at once, wherever the power fails.
func TestCommittedAtOnceSurvives(t *testing.T) {
	job, ctx := newTestJob(), context.Background()
	for k, died := 1, true; died; k++ {
		d := newCrashDisk()
		w := job.begin(t, d)
		d.dieAt = d.ops + k
		errs := make([]error, len(job.chunks))
		var all sync.WaitGroup
		for i, c := range job.chunks {
			all.Go(func() { errs[i] = w.Commit(ctx, c, recordsOf(c), carryOf(c)) })
		}
		all.Wait()
		died = d.dead
		d = d.afterPowerFailure(rand.New(rand.NewPCG(uint64(k), 11)))
		out, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		for i, committed := range out.Committed() {
			if errs[i] == nil && !committed {
				t.Errorf("operation %d: chunk %d was committed, and is to be done again", k, i)
			}
			if errs[i] != nil && !died {
				t.Errorf("chunk %d: %v", i, errs[i])
			}
		}
	}
}

// TestReallyKilled kills real processes with SIGKILL, at moments that nobody chose, on a real disk.
func TestReallyKilled(t *testing.T) {
	const folder = "DSBATCH_TEST_OUTPUT"
	job, ctx := newTestJob(), context.Background()
	rows := make([]int64, 40)
	for i := range rows {
		rows[i] = 20
	}
	job.chunks = cut(rows...)
	start := func(dir string) error {
		out, err := Create(ctx, dir, job.fp, job.layout, job.chunks, Options{})
		if err != nil || out.Finished() {
			return err
		}
		w, err := Join(ctx, dir, out.Start(), 0, job.layout, Options{})
		if err != nil {
			return err
		}
		for i, done := range out.Committed() {
			if done {
				continue
			}
			if err := w.Commit(ctx, job.chunks[i], recordsOf(job.chunks[i]), carryOf(job.chunks[i])); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
		_, err = out.Finish(ctx)
		return errors.Join(err, w.Close(), out.Close())
	}
	if dir := os.Getenv(folder); dir != "" { // a child
		if err := start(dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, chance := filepath.Join(t.TempDir(), "out"), rand.New(rand.NewPCG(1, 2))
	kills := 0
	for finished := false; !finished && kills < 200; {
		child := exec.Command(os.Args[0], "-test.run=^TestReallyKilled$")
		child.Env = append(os.Environ(), folder+"="+dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(20+chance.IntN(200))*time.Millisecond, func() { _ = child.Process.Kill() })
		finished = child.Wait() == nil
		timer.Stop()
		if !finished {
			kills++
		}
	}
	t.Logf("%d kills", kills)
	if err := start(dir); err != nil && kills < 200 {
		t.Fatal(err)
	} else if err != nil || kills == 0 {
		t.Fatalf("%v after %d kills", err, kills)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	if err := start(whole); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(ctx, dir, VerifyOptions{})
	if err != nil || !report.Whole() || report.Rows != 800 {
		t.Errorf("%v %+v", err, report)
	}
	diff, err := Diff(ctx, dir, whole, DiffOptions{})
	if err != nil || !diff.Same() || diff.Records != 800 {
		t.Errorf("%v %+v", err, diff)
	}
}
