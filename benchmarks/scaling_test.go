package benchmarks

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestRepeatRows: each rank's rows are alike in length and settings, whatever the data set's own number of rows is, and none is
// what an earlier one was.
func TestRepeatRows(t *testing.T) {
	const ranks = 2
	for _, each := range []int{100, 512, 1024} { // of 512
		path := filepath.Join(t.TempDir(), "rows.jsonl")
		if err := repeatRows(t.Context(), path, "../examples/prompts.parquet", ranks*each, each); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var rows []promptRow
		seen := map[string]bool{}
		for line := range bytes.Lines(text) {
			var row promptRow
			if err := json.Unmarshal(line, &row); err != nil {
				t.Fatal(err)
			}
			if seen[row.Prompt] && each <= 512 {
				t.Errorf("%d rows a rank: row %d, %q, has been there before", each, len(rows), row.Prompt)
			}
			rows, seen[row.Prompt] = append(rows, row), true
		}
		if len(rows) != ranks*each {
			t.Fatalf("%d rows, want %d", len(rows), ranks*each)
		}
		sorted := func(text string) []string { return slices.Sorted(strings.SplitSeq(text, " ")) }
		for i, row := range rows[each:] {
			first := rows[i]
			words, settings := slices.Equal(sorted(row.Prompt), sorted(first.Prompt)), row
			settings.Prompt = first.Prompt
			if !words || !reflect.DeepEqual(settings, first) {
				t.Fatalf("%d rows a rank: row %d is not like row %d:\n%q\n%q", each, each+i, i, row.Prompt, first.Prompt)
			}
		}
	}
}
