package results

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	v15 "github.com/apache/arrow/go/v15/arrow"
	array15 "github.com/apache/arrow/go/v15/arrow/array"
	memory15 "github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

// testJob is a small job whose records follow from the row alone, as promise 1 has it.
type testJob struct {
	layout Layout
	chunks []Chunk
	fp     Fingerprint
}

func newTestJob() testJob {
	j := testJob{layout: Layout{Task: Generate, Logprobs: 2, Carry: []v15.Field{{Name: "source", Type: v15.BinaryTypes.String, Nullable: true}}}}
	j.fp.Add("model", map[string]any{"sha256": "6d1b", "layers": 4})
	j.fp.Add("dtype", "fp32")
	j.fp.Add("version", "1.0")
	j.chunks = cut(3, 3, 1, 2)
	return j
}

// cut makes chunks of the given numbers of rows.
func cut(rows ...int64) (chunks []Chunk) {
	first := int64(0)
	for i, n := range rows {
		chunks = append(chunks, Chunk{Index: i, File: 0, From: first, To: first + n, First: first})
		first += n
	}
	return chunks
}

func textOf(row int64) *string {
	s := fmt.Sprintf("output of row %d: %s", row, strings.Repeat("é", int(row%5)))
	return &s
}

// record is what row is: every fourth is bad.
func record(row int64) Record {
	if row%4 == 2 {
		return Record{Row: row, ID: row * 10, Error: fmt.Sprintf("row %d: prompt is null", row)}
	}
	r := Record{Row: row, ID: row * 10, Output: textOf(row), FinishReason: "stop", PromptTokens: int32(row), CumulativeLogprob: -float64(row) / 3, OutputIDs: []int32{}, TokenLogprobs: []float32{}, TopLogprobs: [][]TokenLogprob{}}
	for i := range int32(row % 3) {
		r.OutputIDs = append(r.OutputIDs, i+int32(row))
		r.TokenLogprobs = append(r.TokenLogprobs, -float32(i)/7)
		r.TopLogprobs = append(r.TopLogprobs, []TokenLogprob{{i, -1}, {i + 1, -2.5}})
	}
	r.OutputTokens = int32(len(r.OutputIDs))
	return r
}

func recordsOf(c Chunk) (records []Record) {
	for row := c.First; row < c.First+c.Rows(); row++ {
		records = append(records, record(row))
	}
	return records
}

func carryOf(c Chunk) v15.Record {
	b := array15.NewStringBuilder(memory15.DefaultAllocator)
	for row := c.First; row < c.First+c.Rows(); row++ {
		if row%3 == 0 {
			b.AppendNull()
		} else {
			b.Append(fmt.Sprint("source of ", row))
		}
	}
	schema := v15.NewSchema([]v15.Field{{Name: "source", Type: v15.BinaryTypes.String, Nullable: true}}, nil)
	return array15.NewRecord(schema, []v15.Array{b.NewArray()}, c.Rows())
}

// testOptions are those of one process of a test: all other processes are known to be dead.
func testOptions(fsys fileSystem) Options {
	return Options{fs: fsys, Beat: time.Millisecond, RowGroupRows: 2, self: &process{Host: "test", PID: 1, fate: func(process) fate { return dead }}}
}

// begin starts the job on a disk and returns the writer of its only rank.
func (j testJob) begin(t *testing.T, d *crashDisk) *Writer {
	t.Helper()
	out, err := Create(context.Background(), "/out", j.fp, j.layout, j.chunks, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Join(context.Background(), "/out", out.Start(), 0, j.layout, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run is one start: ranks writers take the open chunks in turn. stopAfter ≥ 0 stops cleanly after so many chunks, with
// some rows of the next saved.
func (j testJob) run(fsys fileSystem, ranks, stopAfter int) error {
	ctx := context.Background()
	out, err := Create(ctx, "/out", j.fp, j.layout, j.chunks, testOptions(fsys))
	if err != nil {
		return err
	}
	if out.Finished() {
		return nil
	}
	writers := make([]*Writer, ranks)
	for rank := range writers {
		if writers[rank], err = Join(ctx, "/out", out.Start(), rank, j.layout, testOptions(fsys)); err != nil {
			return err
		}
	}
	done := out.Committed()
	for i, c := range j.chunks {
		if done[i] {
			continue
		}
		w := writers[i%ranks]
		saved, err := w.Open(ctx, c)
		if err != nil {
			return err
		}
		for _, r := range saved {
			if diff := cmp.Diff(stored(record(r.Row)), r); diff != "" {
				return fmt.Errorf("saved row: %s", diff)
			}
		}
		if stopAfter == 0 {
			return errors.Join(w.SaveOpen(c, recordsOf(c)[:1]), out.Close())
		}
		if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); err != nil {
			return err
		}
		stopAfter--
	}
	for _, w := range writers {
		if err := w.Close(); err != nil {
			return err
		}
	}
	if _, err := out.Finish(ctx); err != nil {
		return err
	}
	return out.Close()
}

// stored is r as it comes back: without what has no column, and with finish_reason filled in.
func stored(r Record) Record {
	r.ID = nil
	if r.Error != "" {
		return Record{Row: r.Row, FinishReason: "error", Error: r.Error}
	}
	return r
}

// check holds the output against the records themselves, by a path that uses no digest.
func (j testJob) check(t *testing.T, fsys fileSystem, what string) {
	t.Helper()
	ctx := context.Background()
	report, err := Verify(ctx, "/out", VerifyOptions{fs: fsys})
	if err != nil || !report.Whole() {
		t.Fatalf("%s: %v, %q", what, err, report.Problems)
	}
	var got, want []Record
	var sources, wantSources []string
	for _, c := range j.chunks {
		table, err := openTable(ctx, fsys, filepath.Join("/out", partName(c.Index)))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		err = table.each(ctx, func(batch arrow.RecordBatch, _ int64) error {
			records, err := scanRecords(j.layout.columns(), batch)
			got = append(got, records...)
			for i := range records {
				sources = append(sources, batch.Column(int(batch.NumCols())-1).ValueStr(i))
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, r := range recordsOf(c) {
			want = append(want, stored(r))
			wantSources = append(wantSources, carryOf(c).Column(0).ValueStr(int(r.Row-c.First)))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: %s", what, diff)
	}
	if diff := cmp.Diff(wantSources, sources); diff != "" {
		t.Fatalf("%s: carried column: %s", what, diff)
	}
	names, err := fsys.ReadDir("/out/_dsbatch")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "open-") || strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s: %s is left over", what, name)
		}
	}
}

// begin starts an output on a fresh disk and joins it as rank 0.
func begin(t testing.TB, layout Layout, chunks []Chunk, o Options) (*Output, *Writer) {
	t.Helper()
	if o.fs == nil {
		o = testOptions(newCrashDisk())
	}
	ctx := context.Background()
	out, err := Create(ctx, "/out", Fingerprint{{"dtype", "fp32"}}, layout, chunks, o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Join(ctx, "/out", out.Start(), 0, layout, o)
	if err != nil {
		t.Fatal(err)
	}
	return out, w
}

func ptr(s string) *string { return &s }
