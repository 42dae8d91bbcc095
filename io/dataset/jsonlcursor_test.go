package dataset

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// TestFarIntoACompressedFile: on the way to a row that is far away a read tells that it gets on, and ends with its context.
func TestFarIntoACompressedFile(t *testing.T) {
	const rows = 5*passRows + 7
	var file bytes.Buffer
	w := gzip.NewWriter(&file)
	if _, err := w.Write([]byte(strings.Repeat("{\"prompt\": \"x\"}\n", rows))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl.gz")
	writeFile(t, path, file.Bytes())
	set := open(t, Columns{Prompt: "prompt"}, path)
	for _, c := range []struct{ ends, calls, rows int }{{0, 6, 1}, {3, 3, 0}} {
		ctx, cancel := context.WithCancel(context.Background())
		calls, got := 0, 0
		for row, err := range set.Read(WithProgress(ctx, func() {
			if calls++; calls == c.ends {
				cancel()
			}
		}), 0, rows-1, rows) {
			if errors.Is(err, context.Canceled) != (c.ends > 0) {
				t.Error(err)
			}
			if row != nil {
				got++
			}
		}
		cancel()
		if calls != c.calls || got != c.rows {
			t.Errorf("cancelled at call %d: %d calls and %d rows, want %d and %d", c.ends, calls, got, c.calls, c.rows)
		}
	}
}
