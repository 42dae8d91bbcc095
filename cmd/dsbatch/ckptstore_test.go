package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRewrittenModelsRun: the bundled model converted and as slices gives the rows that it gives itself, alone and over
// ranks; verify calls all of them whole.
func TestRewrittenModelsRun(t *testing.T) {
	folder := t.TempDir()
	path := func(name string) string { return filepath.Join(folder, name) }
	dsbatch(t, "ckpt", "convert", bundled, "--to", path("whole")).want(t, done)
	dsbatch(t, "ckpt", "reshard", "--tp", "2", "--ep", "2", "--to", path("slices"), bundled).want(t, done)
	for _, m := range []string{bundled, path("whole"), path("slices")} {
		if e := dsbatch(t, "ckpt", "verify", m).want(t, done); !strings.Contains(e.stdout, "149 tensors") || !strings.Contains(e.stdout, "whole") {
			t.Errorf("verify %s says: %s", m, e.stdout)
		}
	}
	ofIDs := func(model, output string, more ...string) string {
		dsbatch(t, job(path(output), append(more, "--model", model, "--limit", "6")...)...).want(t, done)
		var ids []string
		for _, row := range head(t, path(output)) {
			ids = append(ids, fmt.Sprint(row["output_ids"], row["cumulative_logprob"]))
		}
		return strings.Join(ids, "\n")
	}
	for _, layout := range [][]string{nil, {"--ranks", "2", "--tp", "2", "--ep", "2"}} {
		n := len(layout)
		want := ofIDs(bundled, fmt.Sprint("out", n), layout...)
		for i, model := range []string{path("whole"), path("slices"), filepath.Join(path("slices"), "ds_inference_config.json")} {
			if got := ofIDs(model, fmt.Sprint("out", n, i), layout...); got != want || len(want) < 100 {
				t.Errorf("%v from %s:\n%s\nwant\n%s", layout, model, got, want)
			}
		}
	}
	dsbatch(t, "ckpt", "quantize", bundled, "--to", path("small")).want(t, done)
	if e := dsbatch(t, "ckpt", "inspect", path("small")).want(t, done); !strings.Contains(e.stdout, "I8 ") || !strings.Contains(e.stdout, "7899270") {
		t.Errorf("inspect of int8 says: %s", e.stdout)
	}
	dsbatch(t, "ckpt", "verify", path("small")).want(t, done)
	if want, got := ofIDs(bundled, "int8", "--dtype", "int8"), ofIDs(path("small"), "small.out"); got != want { // its own type, not asked for
		t.Errorf("in int8:\n%s\nwant\n%s", got, want)
	}
	refused(t, badConfig, []string{"ckpt", "convert", bundled, "--to", path("whole")}, "nothing is overwritten", path("whole"))
	refused(t, badConfig, []string{"ckpt", "reshard", bundled, "--ep", "3", "--to", path("new")}, "cannot be spread evenly", "1, 2, 4")
	refused(t, badUsage, []string{"ckpt", "reshard", bundled, "--tp", "0", "--to", path("new")}, "--tp 0")
	refused(t, badUsage, []string{"ckpt", "convert", bundled}, "--to")
	refused(t, badUsage, []string{"ckpt", "convert", bundled, "--to", path("new"), "--dtype", "int8"}, "fp32, bf16 or fp16")
	refused(t, noInput, []string{"ckpt", "verify", path("none")}, path("none"))
	if _, err := os.Stat(path("new")); err == nil {
		t.Error("a refused command has written")
	}
	if err := os.Truncate(filepath.Join(path("slices"), "tp_01.safetensors"), 5000); err != nil {
		t.Fatal(err)
	}
	if e := dsbatch(t, "ckpt", "verify", path("slices")).want(t, badData); !strings.Contains(e.stdout, "tp_01.safetensors") || !strings.Contains(e.stdout, "1 fault") {
		t.Errorf("verify of a damaged file says: %s", e.stdout)
	}
}
