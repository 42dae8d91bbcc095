package stats

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	small := job{ranks: 2, layers: 2, experts: 4, steps: 30, step: 50 * time.Millisecond, rows: 10}
	first := small.report(about(Stopped, "SIGTERM", 30))
	if err := first.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	second := small.report(about(Failed, "a full disk", 30))
	second.Start = second.Start.Add(time.Hour)
	third := small.report(about(Finished, "", 30))
	third.Start = third.Start.Add(2 * time.Hour)
	for _, r := range []*Report{&second, &third, &third} { // the third writes twice, as a job that runs on
		if err := r.WriteFiles(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadReport(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(third, got, cmpopts.EquateApprox(1e-12, 0)); d != "" {
		t.Error(d)
	}
	if len(got.Earlier) != 2 || got.Earlier[0].State != Stopped || got.Earlier[1].Reason != "a full disk" || got.Earlier[1].Rows != 10 {
		t.Errorf("earlier starts: %+v", got.Earlier)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%v, %v: want %s and %s alone", files, err, reportFile, statsFile)
	}
	content, err := os.ReadFile(filepath.Join(dir, statsFile))
	if err != nil || !strings.Contains(string(content), `"tokens": [`) || strings.Contains(string(content), "\"tokens\": [\n") {
		t.Errorf("the tokens of a layer are not on one line: %v", err)
	}
	page, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil || !strings.Contains(string(page), "a full disk") {
		t.Errorf("the page does not tell of earlier starts: %v", err)
	}
}

func TestWriteFilesRefusals(t *testing.T) {
	r := Merge(Job{State: Finished}, nil)
	gone := filepath.Join(t.TempDir(), "none")
	want := "cannot write " + filepath.Join(gone, statsFile) + ": no such file or directory" // one sentence, of the name that a user knows
	if err := r.WriteFiles(gone); err == nil || err.Error() != want {
		t.Errorf("a folder that is not there: %v, want %s", err, want)
	}
	dir := t.TempDir()
	for content, want := range map[string]string{"{": "not the statistics", `{"format": 9}`: "format 9"} {
		if err := os.WriteFile(filepath.Join(dir, statsFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReport(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
		if err := r.WriteFiles(dir); err != nil {
			t.Errorf("over %s: %v", content, err)
		}
	}
}
