package results

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeOutput makes an output of records on a real disk, cut into chunks of the given rows; a chunk of which change
// makes nothing is left out.
func writeOutput(t *testing.T, layout Layout, change func(Record) *Record, o Options, rows ...int64) string {
	t.Helper()
	dir, ctx := filepath.Join(t.TempDir(), "out"), context.Background()
	chunks := cut(rows...)
	out, err := Create(ctx, dir, Fingerprint{{"dtype", "fp32"}}, layout, chunks, o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Join(ctx, dir, out.Start(), 0, layout, o)
	if err != nil {
		t.Fatal(err)
	}
	missing := false
	for _, c := range chunks {
		var records []Record
		for _, r := range recordsOf(c) {
			if r := change(r); r != nil {
				records = append(records, *r)
			}
		}
		if records == nil {
			missing = true
			continue
		}
		if err := w.Commit(ctx, c, records, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !missing {
		if _, err := out.Finish(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDiff(t *testing.T) {
	layout := Layout{Task: Generate, Logprobs: 2}
	same := func(r Record) *Record { return &r }
	a := writeOutput(t, layout, same, Options{RowGroupRows: 2}, 4, 4, 1)
	diff := func(b string, o DiffOptions) DiffReport {
		t.Helper()
		report, err := Diff(context.Background(), a, b, o)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	column := func(r DiffReport, name string) ColumnDiff {
		for _, c := range r.Columns {
			if c.Name == name {
				return c
			}
		}
		t.Fatalf("no column %s in %+v", name, r)
		return ColumnDiff{}
	}

	if r := diff(writeOutput(t, layout, same, Options{}, 1, 3, 5), DiffOptions{}); !r.Same() || r.Records != 9 || len(r.Columns) != 10 {
		t.Errorf("the same rows, cut otherwise: %+v", r)
	}

	near := writeOutput(t, layout, func(r Record) *Record {
		r.CumulativeLogprob *= 1 + 1e-6
		if len(r.TopLogprobs) > 0 {
			r.TopLogprobs[0][1].Logprob += 1e-5
		}
		return &r
	}, Options{}, 9)
	if r := diff(near, DiffOptions{}); column(r, "cumulative_logprob").Differs != 6 || column(r, "top_logprobs").Differs != 5 || column(r, "output").Differs != 0 {
		t.Errorf("bit for bit: %+v", r)
	}
	if r := diff(near, DiffOptions{Bound: 1e-4}); !r.Same() || column(r, "cumulative_logprob").Largest < 1e-7 {
		t.Errorf("within 1e-4: %+v", r)
	}
	if r := diff(near, DiffOptions{Bound: 2e-6}); column(r, "cumulative_logprob").Differs != 0 || column(r, "top_logprobs").Differs != 5 {
		t.Errorf("within 2e-6: %+v", r)
	}

	other := writeOutput(t, layout, func(r Record) *Record {
		if r.Row == 5 {
			r.Output, r.OutputIDs[0] = ptr("another text"), 99
			r.TopLogprobs[0][0].TokenID++
			r.TokenLogprobs = r.TokenLogprobs[:1]
			r.CumulativeLogprob = math.NaN()
		}
		return &r
	}, Options{}, 9)
	r := diff(other, DiffOptions{Bound: 1e9})
	for _, name := range []string{"output", "output_ids", "top_logprobs", "token_logprobs", "cumulative_logprob"} {
		if c := column(r, name); c.Differs != 1 || len(c.Examples) != 1 || !strings.HasPrefix(c.Examples[0], "record 5: ") {
			t.Errorf("%s, whatever the bound: %+v", name, c)
		}
	}

	open := writeOutput(t, layout, func(r Record) *Record {
		if r.Row == 3 || r.Row == 4 {
			return nil
		}
		return &r
	}, Options{}, 3, 2, 4)
	if r := diff(open, DiffOptions{}); r.OnlyA != 2 || r.OnlyB != 0 || r.Records != 7 || r.Same() {
		t.Errorf("rows 3 and 4 on one side: %+v", r)
	}
	longer := writeOutput(t, layout, same, Options{}, 9, 2)
	if r := diff(longer, DiffOptions{}); r.OnlyA != 0 || r.OnlyB != 2 || r.Records != 9 || r.Same() {
		t.Errorf("two rows more: %+v", r)
	}

	fewer := writeOutput(t, Layout{Task: Generate}, same, Options{}, 9)
	if r := diff(fewer, DiffOptions{}); r.Same() || cmp.Diff([]string{"token_logprobs", "top_logprobs"}, r.ColumnsA) != "" {
		t.Errorf("without log-probabilities: %+v", r)
	}

	twice := writeOutput(t, Layout{Task: Generate, Samples: 2}, func(r Record) *Record { return nil }, Options{}, 9)
	_, err := Diff(context.Background(), a, twice, DiffOptions{})
	if !errors.Is(err, ErrUnlike) || !strings.Contains(err.Error(), a+" was made with --n 1, "+twice+" with --n 2") {
		t.Errorf("two samples a row: %v", err)
	}
}

func TestHead(t *testing.T) {
	dir := writeOutput(t, Layout{Task: Generate}, func(r Record) *Record {
		if r.Row < 2 {
			return nil
		}
		return &r
	}, Options{RowGroupRows: 1}, 2, 2, 3)
	rows, err := Head(context.Background(), dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(rows.Columns, " ") != "row output output_ids finish_reason prompt_tokens output_tokens cumulative_logprob error" {
		t.Error(rows.Columns)
	}
	if len(rows.Values) != 3 || rows.Values[0][0] != int64(2) || rows.Values[0][1] != nil || rows.Values[2][1] != *textOf(4) || rows.Values[0][7] != "row 2: prompt is null" {
		t.Errorf("%v", rows.Values)
	}
	if rows, err = Head(context.Background(), dir, 100); err != nil || len(rows.Values) != 5 {
		t.Errorf("%d rows, %v", len(rows.Values), err)
	}
}
