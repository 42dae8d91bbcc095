package slurm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Minute, "1:30": 90 * time.Second, "4:00:00": 4 * time.Hour, "0:0:1": time.Second, "UNLIMITED": 0, "infinite": 0,
		"2-12": 60 * time.Hour, "1-0:30": 24*time.Hour + 30*time.Minute, "2-01:02:03": 49*time.Hour + 2*time.Minute + 3*time.Second,
	} {
		if got, err := parseLimit(text); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, wrong := range []string{"", "0", "-1", "4h", "1:2:3:4", "1-", "-1:00", "1-2:3:4:5", "99999999999", "1:-2", "0:00:00"} {
		if got, err := parseLimit(wrong); err == nil {
			t.Errorf("%q accepted as %v", wrong, got)
		}
	}
}

func TestDeadline(t *testing.T) {
	for text, want := range map[string]time.Time{"": {}, "1795324066": time.Unix(1795324066, 0), "2026-11-22T05:07:46Z": time.Unix(1795324066, 0)} {
		t.Setenv(endTimeVariable, text)
		if got, err := Deadline(); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	t.Setenv(endTimeVariable, "tomorrow")
	if _, err := Deadline(); err == nil || !strings.Contains(err.Error(), "tomorrow") {
		t.Errorf("tomorrow: %v", err)
	}
}

// command puts a shell script of that name in front of PATH.
func command(t *testing.T, name, script string) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
}

// TestFollow asks a scontrol that answers as Slurm 22.05 does, and in other ways.
func TestFollow(t *testing.T) {
	end := time.Unix(1795324371, 0)
	local := end.Local().Format("2006-01-02T15:04:05")
	const job = "JobId=7 JobName=a EndTimeX=1 StartTime=1795324071 EndTime=%s Deadline=N/A"
	for name, c := range map[string]struct {
		script, environment string
		want                time.Time
		refused             string
	}{
		"seconds":                  {script: fmt.Sprintf(`[ "$SLURM_TIME_FORMAT" = %%s ] && [ "$4" = 7 ] && echo "`+job+`"`, "1795324371"), want: end},
		"a date":                   {script: fmt.Sprintf(`echo "`+job+`"`, local), want: end},
		"no limit":                 {script: fmt.Sprintf(`echo "`+job+`"`, "Unknown")},
		"no answer, but told once": {script: "exit 1", environment: "1795324371", want: end},
		"no answer":                {script: "echo no controller >&2; exit 1", refused: "no controller"},
		"nonsense":                 {script: "echo hello", refused: "no EndTime"},
		"no time":                  {script: fmt.Sprintf(`echo "`+job+`"`, "soon"), refused: "soon"},
	} {
		t.Run(name, func(t *testing.T) {
			command(t, "scontrol", c.script)
			t.Setenv("SLURM_JOB_ID", "7")
			t.Setenv("SLURM_JOB_END_TIME", c.environment)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var got time.Time
			err := Follow(ctx, func(end time.Time) { got = end; cancel() })
			if !got.Equal(c.want) {
				t.Errorf("it ends %v, want %v", got, c.want)
			}
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("error %v, want %q", err, c.refused)
			}
		})
	}
	t.Run("outside of Slurm", func(t *testing.T) {
		t.Setenv("SLURM_JOB_ID", "")
		if err := Follow(t.Context(), func(end time.Time) { t.Errorf("an end, %v", end) }); err != nil {
			t.Error(err)
		}
	})
}
