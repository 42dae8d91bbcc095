package results

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// joined is a start on a fresh output with one writer.
func joined(t *testing.T, j testJob, d *crashDisk, o Options) (*Output, *Writer) {
	t.Helper()
	o.fs = d
	out, err := Create(t.Context(), "/out", j.fp, j.layout, j.chunks, o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Join(t.Context(), "/out", out.Start(), 1, j.layout, o)
	if err != nil {
		t.Fatal(err)
	}
	return out, w
}

func TestPhaseFile(t *testing.T) {
	d, j := newCrashDisk(), newTestJob()
	out, w := joined(t, j, d, testOptions(d))
	read := func() []Phase {
		t.Helper()
		phases, err := readPhases(d, "/out")
		if err != nil {
			t.Fatal(err)
		}
		return phases
	}
	loading := Phase{Ranks: 3, Activity: Activity{Phase: "load", Place: "layer 3 of 24", Since: time.Now(), Moved: time.Now()}}
	before := len(d.log)
	if err := w.Tell(loading); err != nil {
		t.Fatal(err)
	}
	if told := strings.Join(d.log[before:], "\n"); strings.Contains(told, "fsync") || !strings.Contains(told, "rename") {
		t.Errorf("a phase file is renamed and never fsynced, and this was done:\n%s", told)
	}
	if p := read(); len(p) != 1 || p[0].Start != 1 || p[0].Rank != 1 || p[0].Process.Host != "test" || p[0].Activity.String() != "in phase load, layer 3 of 24" {
		t.Errorf("%+v", p)
	}
	before = len(d.log)
	if err := w.Tell(loading); err != nil || len(d.log) > before {
		t.Errorf("nothing new, and yet: %v, %q", err, d.log[before:])
	}
	loading.Waits = "all-gather"
	if err := w.Tell(loading); err != nil || read()[0].Waits != "all-gather" {
		t.Errorf("%v, %+v", err, read())
	}
	d.put("/out/_dsbatch/"+phaseName(1, 2), []byte(`{"start":1,"ra`)) // torn by a power failure
	d.put("/out/_dsbatch/"+phaseName(1, 0), nil)
	if p := read(); len(p) != 1 {
		t.Errorf("torn files tell %+v", p)
	}
	if err := w.Untell(); err != nil {
		t.Fatal(err)
	}
	if err := w.Untell(); err != nil || len(read()) != 0 {
		t.Errorf("%v, %+v", err, read())
	}

	if err := w.Tell(Phase{Ended: "failed"}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	next, other := joined(t, j, d, testOptions(d))
	if left, _ := d.ReadDir("/out/_dsbatch"); strings.Contains(strings.Join(left, " "), "phase-") {
		t.Errorf("the next start leaves %v", left)
	}
	for _, writer := range []*Writer{w, other} { // w's rank slept through its replacement
		if err := writer.Tell(loading); err != nil {
			t.Fatal(err)
		}
	}
	if p := read(); len(p) != 1 || p[0].Start != 2 {
		t.Errorf("of two starts the later one counts: %+v", p)
	}
	d.die()
	if err := other.Tell(Phase{Ended: "on a dead disk"}); err == nil {
		t.Error("a phase file that cannot be written is no error")
	}
	_ = next.Close() // on a dead disk
}

// TestDiagnosisFromElsewhere: of a job on another host the lease tells whether it lives, and nobody claims to know of
// its processes.
func TestDiagnosisFromElsewhere(t *testing.T) {
	d := newCrashDisk()
	if err := newTestJob().run(d, 1, 1); err != nil { // outside of the bubble, where no compressor may be made
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, o := context.Background(), leaseOptions(d, elsewhere("nid001"))
		l, err := acquire(ctx, "/out", o)
		if err != nil {
			t.Fatal(err)
		}
		w := &Writer{dir: "/out", start: l.number, rank: 1, options: o}
		if err := w.Tell(Phase{Ranks: 2, Activity: Activity{Phase: "decode", Since: time.Now(), Moved: time.Now()},
			Beside: []Activity{{Phase: "commit", Place: "chunk 3"}}, Asked: "signal: terminated"}); err != nil {
			t.Fatal(err)
		}
		says := func(want ...string) {
			t.Helper()
			begun := time.Now()
			x, err := Diagnose(ctx, "/out", Options{fs: d, self: elsewhere("login1")})
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(begun); waited > 4*time.Second {
				t.Errorf("it took %v", waited)
			}
			text := strings.Join(x.Lines(), "\n")
			for _, s := range want {
				if !strings.Contains(text, s) {
					t.Errorf("want %q in\n%s", s, text)
				}
			}
		}
		says("start number 2 runs", "and 1 more are finished in chunks that are not whole yet", "rank 1 (nid001, process 4711): in phase decode", "beside that in phase commit, chunk 3",
			"asked to stop (signal: terminated)", "can be asked on nid001 only", "rank 0: has told nothing", "next: wait for it")
		l.close() // it dies
		says("has not been heard of", "next: see that its ranks have ended on their hosts, and start the same command again")
		if err := w.Tell(Phase{Ranks: 2, Ended: "rank 1 (nid001) broke in phase load: panic: x"}); err != nil {
			t.Fatal(err)
		}
		says("broke in phase load: panic: x, at 2000", "next: see what rank 1 tells of its end")
	})
}

// TestLooksAreProgress: going through the parts of a large output is not silence.
func TestLooksAreProgress(t *testing.T) {
	d, j := newCrashDisk(), newTestJob()
	if err := j.run(d, 1, -1); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(filepath.Join("/out", successName)); err != nil {
		t.Fatal(err)
	}
	looks := 0
	o := testOptions(d)
	o.Progress = func() { looks++ }
	out, err := Create(t.Context(), "/out", j.fp, j.layout, j.chunks, o)
	if err != nil {
		t.Fatal(err)
	}
	created := looks
	if _, err := out.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if created < len(j.chunks) || looks-created < len(j.chunks) {
		t.Errorf("%d signs of progress, and %d at the end, for %d parts", created, looks-created, len(j.chunks))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSuspects: of ranks that are all gone, those are named that the others did not end because of another.
func TestSuspects(t *testing.T) {
	at := func(waits, asked, ended string, beside ...Activity) Phase {
		return Phase{Waits: waits, Asked: asked, Ended: ended, Beside: beside}
	}
	for name, c := range map[string]struct {
		phases []Phase
		want   string
	}{
		"asked by the launcher": {[]Phase{at("all-gather", "signal: terminated", ""), at("all-gather", "", "")}, "1"},
		"the others waited":     {[]Phase{at("all-gather", "", ""), at("", "", ""), at("all-gather", "", "")}, "1"},
		"at work beside":        {[]Phase{at("all-gather", "", ""), at("all-gather", "", "", Activity{Phase: "commit"})}, "1"},
		"nobody knows":          {[]Phase{at("all-gather", "", ""), at("all-gather", "", "")}, "0 1"},
		"one told":              {[]Phase{at("", "", "failed"), at("", "", "")}, "1"},
	} {
		d := Diagnosis{Phases: c.phases}
		for i := range d.Phases {
			d.Phases[i].Rank = i
			d.fates = append(d.fates, dead)
		}
		var got []string
		for _, s := range d.suspects() {
			got = append(got, strings.Fields(s)[1])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}
