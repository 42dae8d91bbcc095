package dataset

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/google/go-cmp/cmp"
)

func TestHiveFolder(t *testing.T) {
	set := open(t, Columns{ID: "id", Carry: []CarryColumn{{"source", "book"}, {"seed", ""}}}, "testdata/formats/hive")
	var paths []string
	for _, f := range set.Files() {
		paths = append(paths, f.Path)
	}
	if want := []string{"testdata/formats/hive/source=austen/part-0.parquet", "testdata/formats/hive/source=kjv/part-0.parquet"}; !slices.Equal(paths, want) {
		t.Fatalf("files %v, want %v", paths, want)
	}
	if got := arrow.NewSchema(set.CarrySchema(), nil).String(); !strings.Contains(got, "book: type=utf8") || !strings.Contains(got, "seed: type=int64") {
		t.Errorf("carried %s", got)
	}
	for i, book := range []string{"austen", "kjv"} {
		rec, _, err := set.Carry(context.Background(), i, 1, 5)
		if err != nil {
			t.Fatal(err)
		}
		if rec.NumRows() != 4 || rec.Column(0).ValueStr(0) != book || rec.Column(0).ValueStr(3) != book {
			t.Errorf("file %d carries %v", i, rec.Column(0))
		}
		rec.Release()
	}
}

func TestPartitionsInLinesAndNumbers(t *testing.T) {
	dir := t.TempDir()
	for year, lines := range map[string]string{"2024": `{"prompt":"a"}`, "2025": `{"prompt":"b","year":7}`, "__HIVE_DEFAULT_PARTITION__": `{"prompt":"c"}`} {
		if err := os.MkdirAll(filepath.Join(dir, "year="+year, "who=J%20A"), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "year="+year, "who=J%20A", "x.jsonl"), []byte(lines))
	}
	set := open(t, Columns{ID: "year", Carry: []CarryColumn{{"who", ""}, {"year", ""}}}, filepath.Join(dir, "**", "*.jsonl"))
	rows := all(t, set, 10, false)
	var ids []any
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	if diff := cmp.Diff([]any{int64(2024), int64(7), nil}, ids); diff != "" || rows[2].Err == nil {
		t.Errorf("ids (-want +got):\n%s%v", diff, rows[2].Err)
	}
	rec, _, err := set.Carry(context.Background(), 0, 0, 1)
	if err != nil || rec.Column(0).ValueStr(0) != "J A" || rec.Column(1).ValueStr(0) != "2024" {
		t.Errorf("carried %v, %v", rec, err)
	}
}
