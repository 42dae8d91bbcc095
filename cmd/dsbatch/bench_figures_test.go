package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBenchFigures draws stored figures anew; package benchmarks tests what they are, and measures some.
func TestBenchFigures(t *testing.T) {
	const stored = "../../benchmarks/testdata/figures.json"
	folder := filepath.Join(t.TempDir(), "figures")
	told := dsbatch(t, "bench", "figures", "--from", stored, "--output", folder).want(t, done)
	for _, want := range []string{"left out: figure scaling: no mpirun", "figures are drawn in " + filepath.Join(folder, "figures.html")} {
		if !strings.Contains(told.stdout, want) {
			t.Errorf("%q does not say %q", told.stdout, want)
		}
	}
	for _, name := range []string{"figures.json", "figures.html", "inference.svg"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Error(err)
		}
	}
	dsbatch(t, "bench", "figures", "--from", filepath.Join(folder, "figures.json")).want(t, done)
	dsbatch(t, "bench", "figures", "--from", filepath.Join(folder, "none.json")).want(t, noInput)
	if err := os.Remove(filepath.Join(folder, "figures.json")); err != nil {
		t.Fatal(err)
	}
	dsbatch(t, "bench", "figures", "--from", stored, "--output", folder).want(t, badUsage)
}
