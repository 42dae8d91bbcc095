package benchmarks

import (
	"context"
	"strings"
	"testing"
)

// TestScalingWantsEnoughRows: a data set that is too small is refused before any job is run.
func TestScalingWantsEnoughRows(t *testing.T) {
	o := ScalingOptions{Program: "must not be run", Model: "../examples/austen-prmoe", Input: "../examples/prompts.parquet", Rows: 300}
	_, err := Scaling(context.Background(), o)
	if want := "../examples/prompts.parquet has 512 rows, and 2 ranks want 300 each"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}
