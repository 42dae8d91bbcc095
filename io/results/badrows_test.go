package results

import (
	"context"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	v15 "github.com/apache/arrow/go/v15/arrow"
	"github.com/google/go-cmp/cmp"
)

// TestBadRows: the list at the end has every bad row of every rank and start, in the order of the rows.
func TestBadRows(t *testing.T) {
	layout := Layout{Task: Generate, ID: v15.Field{Name: "key", Type: v15.PrimitiveTypes.Int64}}
	chunks := cut(3, 4, 5)
	out, first := begin(t, layout, chunks, Options{})
	second, err := Join(context.Background(), "/out", out.Start(), 1, layout, first.options)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range map[int]*Writer{2: first, 0: second, 1: first} {
		if err := w.Commit(context.Background(), chunks[i], recordsOf(chunks[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := out.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	table, err := openTable(context.Background(), first.options.fs, "/out/_dsbatch/bad-rows.parquet")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := table.each(context.Background(), func(batch arrow.RecordBatch, _ int64) error {
		for i := range int(batch.NumRows()) {
			line := ""
			for c, f := range batch.Schema().Fields() {
				line += f.Name + "=" + batch.Column(c).ValueStr(i) + " "
			}
			got = append(got, line)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"row=2 id=20 part=part-0000000.parquet error=row 2: prompt is null ",
		"row=6 id=60 part=part-0000001.parquet error=row 6: prompt is null ",
		"row=10 id=100 part=part-0000002.parquet error=row 10: prompt is null ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
