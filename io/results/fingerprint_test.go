package results

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	type input struct {
		Path string `json:"path"`
		Rows int64  `json:"rows"`
	}
	was := Fingerprint{{"dtype", "bf16"}, {"sampling", map[string]any{"temperature": 0.8, "seed": 1<<62 + 1, "top_k": 5}}, {"input", []input{{"a", 3}, {"b", 4}}}, {"old", nil}}
	now := Fingerprint{{"dtype", "fp32"}, {"sampling", map[string]any{"temperature": 0, "seed": 1<<62 + 2, "min_p": 0.1}}, {"input", []input{{"a", 3}, {"b", 5}, {"c", 1}}}, {"new", []int{1}}}
	got, err := now.Compare(was)
	want := []Difference{
		{"dtype", `"bf16"`, `"fp32"`},
		{"sampling.min_p", "", "0.1"},
		{"sampling.seed", "4611686018427387905", "4611686018427387906"},
		{"sampling.temperature", "0.8", "0"},
		{"sampling.top_k", "5", ""},
		{"input (count)", "2", "3"},
		{"input[1].rows", "4", "5"},
		{"new", "", "[1]"},
		{"old", "null", ""},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if same, err := was.Compare(append(Fingerprint{}, was...)); err != nil || same != nil {
		t.Error(err, same)
	}
	for name, f := range map[string]Fingerprint{"twice": {{"a", 1}, {"a", 1}}, "no JSON": {{"a", make(chan int)}}} {
		if _, err := f.Compare(was); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestRefusal: a changed setting is named with both values, nothing is touched, and the former settings still work.
func TestRefusal(t *testing.T) {
	for want, change := range map[string]func(*testJob){
		`/out was begun with other settings: model.layers was 4, is 5; give another --output, or the former settings (free to change: ranks, ep, dp, pp, all-to-all, batch sizes, threads and placement)`: func(j *testJob) {
			j.fp = Fingerprint{{"model", map[string]any{"sha256": "6d1b", "layers": 5}}, j.fp[1], j.fp[2]}
		},
		`dtype was "fp32", is not set`: func(j *testJob) { j.fp = Fingerprint{j.fp[0], j.fp[2]} },
		`dtype was "fp32", is "bf16", version was "1.0", is "2.0"; give another`: func(j *testJob) {
			j.fp = Fingerprint{j.fp[0], {"dtype", "bf16"}, {"version", "2.0"}}
		},
		`version was "1.0", is "2.0"; --accept-version goes on`:             func(j *testJob) { j.fp = Fingerprint{j.fp[0], j.fp[1], {"version", "2.0"}} },
		`columns (count) was 11, is 10`:                                     func(j *testJob) { j.layout.Carry = nil },
		`chunks[1] was "rows 3 to 6 of file 0", is "rows 3 to 7 of file 0"`: func(j *testJob) { j.chunks = cut(3, 4, 2) },
	} {
		job, d := newTestJob(), newCrashDisk()
		if err := job.run(d, 2, 1); err != nil {
			t.Fatal(err)
		}
		before, other := d.ops, job
		change(&other)
		var mismatch *MismatchError
		err := other.run(d, 2, -1)
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
		if d.ops != before {
			t.Errorf("the refusal wrote: %q", d.log[before:])
		}
		if err := job.run(d, 1, -1); err != nil {
			t.Error(err)
		}
		job.check(t, d, "after a refusal")
	}
}

func TestAcceptVersion(t *testing.T) {
	job, d, ctx := newTestJob(), newCrashDisk(), context.Background()
	if err := job.run(d, 2, 1); err != nil {
		t.Fatal(err)
	}
	newer := Fingerprint{job.fp[0], job.fp[1], {"version", "2.0"}}
	o := testOptions(d)
	o.AcceptVersion = true
	out, err := Create(ctx, "/out", newer, job.layout, job.chunks, o)
	if err != nil || !out.Committed()[0] || out.Committed()[1] {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	was, err := readJob(d, "/out")
	if err != nil || was.Fingerprint.Get("version") != "2.0" || len(was.Versions) != 1 || was.Versions[0] != `"1.0"` {
		t.Errorf("%v %+v", err, was)
	}
	job.fp = newer
	if err := job.run(d, 3, -1); err != nil { // it need not be accepted twice
		t.Fatal(err)
	}
	job.check(t, d, "two versions")
}

func TestDamagedJob(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	if err := job.run(d, 1, 1); err != nil {
		t.Fatal(err)
	}
	good := string(d.names["/out/_dsbatch/job.json"].now)
	for name, content := range map[string]string{
		"empty":             "",
		"cut":               good[:len(good)/2],
		"of a later format": strings.Replace(good, `"format":1`, `"format":2`, 1),
		"chunk of no rows":  strings.Replace(good, `[0,0,3]`, `[0,0,0]`, 1),
		"negative file":     strings.Replace(good, `[0,0,3]`, `[-1,0,3]`, 1),
		"no samples":        strings.Replace(good, `"samples":1`, `"samples":0`, 1),
	} {
		d.names["/out/_dsbatch/job.json"].now = []byte(content)
		if err := job.run(d, 1, -1); err == nil || !strings.Contains(err.Error(), "job.json") || content == good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
