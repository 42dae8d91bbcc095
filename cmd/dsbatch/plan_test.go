package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func planned(t testing.TB, more ...string) ended {
	t.Helper()
	args := job(filepath.Join(t.TempDir(), "out"), more...)
	args[0] = "plan"
	return dsbatch(t, args...)
}

func TestPlan(t *testing.T) {
	e := planned(t, "--gpus", "4", "--gpu", "h100", "--table").want(t, done)
	for _, want := range []string{"4 × h100", "8 experts over ep 4", "[[0 1 2 3]]", "memory ", "predicted  at best", "assumed ", "for 24 rows", "in 24 rows of the input"} {
		if !strings.Contains(e.stdout, want) {
			t.Errorf("no %q in\n%s", want, e.stdout)
		}
	}
	for want, args := range map[string][]string{
		"otherwise  --es auto, experts in slices instead of replicas: weights": {"--gpus", "8", "--gpu", "h100"},
		"otherwise  --es 1, replicas of whole experts: weights":                {"--gpus", "8", "--gpu", "h100", "--es", "auto"},
	} {
		if e := planned(t, args...).want(t, done); !strings.Contains(e.stdout, want) {
			t.Errorf("no %q in\n%s", want, e.stdout)
		}
	}
	planned(t).want(t, done) // this host
	e = planned(t, "--gpus", "12", "--gpu", "h100", "--offload", "cpu", "--offload-layers", "2").want(t, done)
	for _, want := range []string{"host       2 of the fullest rank's 6 layers, ", " of it, pinned", "or bringing weights over the bus ", ", 50 GB/s from the host's memory"} {
		if !strings.Contains(e.stdout, want) {
			t.Errorf("no %q in\n%s", want, e.stdout)
		}
	}
	scored := dsbatch(t, "plan", "--model", bundled, "--input", prompts, "--output", filepath.Join(t.TempDir(), "out"), "--task", "score", "--gpu", "h100").want(t, done)
	if strings.Contains(scored.stdout, "output tokens") || strings.Contains(scored.stdout, "decode") || strings.Contains(scored.stdout, " 0s for") {
		t.Errorf("scoring generates nothing, and takes its time:\n%s", scored.stdout)
	}
	for say, args := range map[string][]string{
		"ep_size 4: 6 ranks cannot be divided into groups of 4; use 1 or 2": {"--gpus", "6", "--ep", "4", "--gpu", "h100"},
	} {
		if e := planned(t, args...).want(t, badConfig); !strings.Contains(e.stderr, say) {
			t.Errorf("no %q in\n%s", say, e.stderr)
		}
	}
	for say, args := range map[string][]string{"h200": {"--gpu", "b999"}, "--ranks": {"--ranks", "2"}, "--gpus": {"--gpus", "0"}, "prompts.parquet": {"prompts.parquet"}} {
		if e := planned(t, args...).want(t, badUsage); !strings.Contains(e.stderr, say) {
			t.Errorf("no %q in\n%s", say, e.stderr)
		}
	}
	planned(t, "--model", "/nowhere").want(t, noInput)
}

// TestPlanPlacement makes a placement of what a run has counted, in both forms of the command line; a run with the one that
// has copies of experts gives the same rows.
func TestPlanPlacement(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output)...).want(t, done)
	for _, args := range [][]string{
		{"plan", "--placement", filepath.Join(t.TempDir(), "placement.json"), "from", output, "--gpus", "2"},
		{"plan", "--placement", "from", output, "--gpus", "4", "--replicas", "1"},
	} {
		e := dsbatch(t, args...).want(t, done)
		if strings.Count(e.stdout, "times the mean in order") != 3 {
			t.Errorf("not one line a layer:\n%s", e.stdout)
		}
	}
	placed := filepath.Join(t.TempDir(), "placed")
	dsbatch(t, append(job(placed), "--ranks", "4", "--expert-placement", filepath.Join(output, "placement.json"))...).want(t, done)
	dsbatch(t, "diff", output, placed).want(t, done)
	again := filepath.Join(t.TempDir(), "again") // where nothing else is said a placement is for the layout of the run itself
	staged := []string{"--ranks", "4", "--pp", "2", "--ep", "1"}
	dsbatch(t, append(job(again), staged...)...).want(t, done)
	dsbatch(t, "plan", "--placement", "from", again).want(t, done)
	staged = append(staged, "--expert-placement", filepath.Join(again, "placement.json"))
	dsbatch(t, append(job(filepath.Join(t.TempDir(), "staged")), staged...)...).want(t, done)
	dsbatch(t, "plan", "--placement", "x.json").want(t, badUsage)
	dsbatch(t, "plan", "--placement", "x.json", "from", "/nowhere").want(t, noInput)
	dsbatch(t, "plan", "--placement", "x.json", "from", output, "--ep", "3").want(t, badUsage)
}

// TestPlanWithCeilings predicts with what a run has measured, where it has.
func TestPlanWithCeilings(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--ranks", "2")...).want(t, done)
	refuse := func(say string, more ...string) {
		t.Helper()
		if e := planned(t, append(more, "--ceilings", output)...).want(t, badUsage); !strings.Contains(e.stderr, say) {
			t.Errorf("no %q in\n%s", say, e.stderr)
		}
	}
	refuse("too short")
	file := filepath.Join(output, "stats.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	for i, rank := range report["ranks"].([]any) {
		rank.(map[string]any)["machine"].(map[string]any)["peak"] = map[string]float64{"flops": 4e12 - float64(i)*1e12, "bytes": 5e9 + float64(i)*1e9}
	}
	if text, err = json.Marshal(report); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := planned(t, "--ceilings", output).want(t, done); !strings.Contains(e.stdout, "a roofline of measured figures: 5 GB/s, 3 TFLOP/s") {
		t.Errorf("not with what was measured:\n%s", e.stdout)
	}
	refuse("no h100", "--gpu", "h100")
	refuse("bf16", "--dtype", "fp32")
}
