package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, columns Columns, patterns ...string) *Dataset {
	t.Helper()
	set, err := Open(context.Background(), patterns, columns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	return set
}

// all reads every row, the last range of each file first where backward.
func all(t *testing.T, set *Dataset, step int64, backward bool) (rows []*Row) {
	t.Helper()
	for i, f := range set.Files() {
		var ranges [][]*Row
		for from := int64(0); from < f.Rows; from += step {
			ranges = append(ranges, nil)
		}
		for k := range ranges {
			if backward {
				k = len(ranges) - 1 - k
			}
			from := int64(k) * step
			for row, err := range set.Read(context.Background(), i, from, min(from+step, f.Rows)) {
				if err != nil {
					t.Fatal(err)
				}
				ranges[k] = append(ranges[k], row)
			}
		}
		rows = append(rows, slices.Concat(ranges...)...)
	}
	return rows
}

// Every format holds the same 32 rows: ids and per-row settings must come out alike, whatever they are stored as.
func TestFormatsAgree(t *testing.T) {
	want := all(t, open(t, Columns{ID: "id"}, "testdata/formats/codec-none.parquet"), 1<<40, false)
	set := 0
	for _, row := range want {
		if row.Overrides.MaxNewTokens != nil && row.Overrides.Seed != nil {
			set++
		}
	}
	if set == 0 || want[0].ID == "" {
		t.Fatalf("the rows have no settings: they test nothing (%+v)", want[0])
	}
	for _, f := range readManifest(t).Good {
		if !strings.HasPrefix(f.Prompts, "158c44d08bb5") {
			continue
		}
		t.Run(f.File, func(t *testing.T) {
			columns := Columns{ID: "id"}
			onlyPrompts := strings.Contains(f.File, "stream-dictionary")
			if onlyPrompts {
				columns.ID = ""
			}
			set := open(t, columns, "testdata/"+f.File)
			for _, step := range []int64{3, 32} {
				got := all(t, set, step, true)
				for i := range got {
					if onlyPrompts {
						got[i].ID = want[i].ID
					}
					if onlyPrompts || strings.HasSuffix(f.File, "required.parquet") || strings.HasSuffix(f.File, "escapes.jsonl") { // have no settings
						got[i].Overrides = want[i].Overrides
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("step %d (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}

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
		rec, err := set.Carry(context.Background(), i, 1, 5)
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
	rec, err := set.Carry(context.Background(), 0, 0, 1)
	if err != nil || rec.Column(0).ValueStr(0) != "J A" || rec.Column(1).ValueStr(0) != "2024" {
		t.Errorf("carried %v, %v", rec, err)
	}
}

func TestWhatOpenFinds(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b/y.jsonl", "b/_y.jsonl", "b/.y.jsonl", "_tmp/z.jsonl", ".git/z.jsonl", "a.jsonl", "notes.md", "_a.jsonl"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), []byte(`{"prompt":"x"}`))
	}
	const formats = "testdata/formats/"
	for _, c := range []struct {
		name     string
		patterns []string
		want     []string // base names
	}{
		{"a folder", []string{formats + "multi"}, []string{"part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "part-00003.parquet"}},
		{"a pattern", []string{formats + "multi/*3.parquet"}, []string{"part-00003.parquet"}},
		{"as given, each once", []string{formats + "multi/part-00002.parquet", formats + "multi", formats + "multi/../multi/part-00000.parquet"},
			[]string{"part-00002.parquet", "part-00000.parquet", "part-00001.parquet", "part-00003.parquet"}},
		{"any depth", []string{formats + "**/part-0.parquet"}, []string{"part-0.parquet", "part-0.parquet"}},
		{"nothing hidden in a folder", []string{dir}, []string{"a.jsonl", "y.jsonl"}},
		{"nothing hidden in a pattern", []string{dir + "/*.jsonl"}, []string{"a.jsonl"}},
		{"nothing hidden at any depth", []string{dir + "/**/*.jsonl"}, []string{"a.jsonl", "y.jsonl"}},
		{"hidden where named", []string{dir + "/_a.jsonl", dir + "/b/_*"}, []string{"_a.jsonl", "_y.jsonl"}},
		{"a pattern of folders", []string{formats + "hive/source=*"}, []string{"part-0.parquet", "part-0.parquet"}},
	} {
		var got []string
		for _, f := range open(t, Columns{}, c.patterns...).Files() {
			got = append(got, filepath.Base(f.Path))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// What cannot work is refused by Open, in one sentence that names file, column and mend.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		writeFile(t, filepath.Join(dir, name), []byte(text))
		return filepath.Join(dir, name)
	}
	const none = "testdata/formats/codec-none.parquet"
	for _, c := range []struct {
		name     string
		patterns []string
		columns  Columns
		class    error
		says     []string
	}{
		{"no such file", []string{"testdata/none.parquet"}, Columns{}, ErrMissing, []string{"testdata/none.parquet: no such file"}},
		{"no match", []string{"testdata/*.csv"}, Columns{}, ErrMissing, []string{"no file matches"}},
		{"no input", nil, Columns{}, ErrMissing, []string{"--input"}},
		{"an empty folder", []string{t.TempDir()}, Columns{}, ErrMissing, []string{"no data files"}},
		{"no column", []string{none}, Columns{Prompt: "promt"}, ErrColumn, []string{none, `no column "promt"`, "id, prompt, source", "did you mean prompt?", "--prompt-column"}},
		{"one of several files", []string{"testdata/formats/multi-mixed"}, Columns{}, ErrColumn, []string{"d.parquet", `no column "prompt"`, "it has other"}},
		{"no column in lines", []string{"testdata/formats/prompts.jsonl"}, Columns{Prompt: "text"}, ErrColumn, []string{`no column "text"`, "id, prompt, source"}},
		{"wrong type", []string{none}, Columns{Prompt: "seed"}, ErrColumn, []string{"column seed has the type int64 where a text is needed", "--prompt-column"}},
		{"wrong type of ids", []string{none}, Columns{IDs: "prompt"}, ErrColumn, []string{"a list of integers", "--ids-column"}},
		{"wrong type of id", []string{"testdata/formats/messages.parquet"}, Columns{Messages: "messages", ID: "messages"}, ErrColumn, []string{"an integer or a text"}},
		{"no carried column", []string{none}, Columns{Carry: []CarryColumn{{"sourse", ""}}}, ErrColumn, []string{"did you mean source?", "--carry"}},
		{"two inputs", []string{none}, Columns{Prompt: "prompt", IDs: "ids"}, ErrUsage, []string{"one input"}},
		{"one name twice", []string{none}, Columns{Carry: []CarryColumn{{"id", "x"}, {"seed", "x"}}}, ErrUsage, []string{`"x"`, "NAME:OTHER"}},
		{"types clash", []string{none, file("clash.jsonl", `{"prompt":"a","source":1}`)}, Columns{Carry: []CarryColumn{{"source", ""}}}, ErrColumn, []string{"clash.jsonl: column source has the type int64, but utf8 in " + none}},
		{"ids clash", []string{none, file("ids.jsonl", `{"prompt":"a","id":1}`)}, Columns{ID: "id"}, ErrColumn, []string{"ids.jsonl: column id has the type int64, but ids are utf8 in " + none}},
		{"a JSON array", []string{file("array.json", "[\n{\"prompt\":\"a\"}\n]")}, Columns{}, ErrDamaged, []string{"jq -c"}},
		{"unknown format", []string{file("x.csv", "prompt\n")}, Columns{}, ErrDamaged, []string{"x.csv: its format is unknown"}},
		{"feather 1", []string{file("x.feather", "FEA1........FEA1")}, Columns{}, ErrDamaged, []string{"version 2"}},
	} {
		_, err := Open(context.Background(), c.patterns, c.columns)
		if !errors.Is(err, c.class) {
			t.Errorf("%s: %v is not of the class %v", c.name, err, c.class)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q does not say %q", c.name, err, says)
			}
		}
	}
}

// What the metadata shows is refused by Open, before a row is read; what only the data shows, when it is reached.
func TestWhenDamageShows(t *testing.T) {
	for file, atOpen := range map[string]bool{
		"num-rows-file-lies.parquet": true, "num-rows-group-lies.parquet": true, "num-rows-both-lie.parquet": true, "truncated.arrows": true,
		"truncated.jsonl.gz": true, "flip-zstd-crc.parquet": false, "offset-huge.arrow": false, "offset-negative.arrow": false,
	} {
		set, err := Open(context.Background(), []string{"testdata/damaged/" + file}, Columns{Carry: []CarryColumn{{"prompt", ""}}})
		if (err != nil) != atOpen {
			t.Errorf("%s: Open says %v", file, err)
			continue
		}
		if !atOpen {
			_, err = set.Carry(context.Background(), 0, 0, set.Rows())
		}
		if !errors.Is(err, ErrDamaged) || strings.HasPrefix(file, "offset") && !strings.Contains(err.Error(), "record batch 0: from row 0: column prompt: has offsets out of order") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestUnify(t *testing.T) {
	type typ = arrow.DataType
	i8, i32, i64, u8, u32, u64 := arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint32, arrow.PrimitiveTypes.Uint64
	f32, f64, text, large, list := arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64, arrow.BinaryTypes.String, arrow.BinaryTypes.LargeString, arrow.ListOf(i32)
	for _, c := range []struct{ a, b, want typ }{
		{i32, i32, i32}, {i32, i64, i64}, {u8, u32, u32}, {u8, i8, arrow.PrimitiveTypes.Int16}, {u32, i8, i64}, {u64, i64, nil}, {f32, f64, f64},
		{i64, f64, f64}, {u8, f32, f64}, {text, large, large}, {text, i32, nil}, {arrow.Null, list, list}, {list, arrow.ListOf(i64), nil}, {text, arrow.BinaryTypes.Binary, nil},
	} {
		for _, pair := range [][2]typ{{c.a, c.b}, {c.b, c.a}} {
			got, ok := unify(pair[0], pair[1])
			if ok != (c.want != nil) || ok && !arrow.TypeEqual(got, c.want) {
				t.Errorf("%v and %v: %v, want %v", pair[0], pair[1], got, c.want)
			}
		}
	}
	b := array.NewInt64Builder(memory.DefaultAllocator)
	b.AppendValues([]int64{1 << 53, 3}, []bool{true, false})
	if a, err := cast(b.NewArray(), f64); err != nil || a.(*array.Float64).Value(0) != 1<<53 || !a.IsNull(1) {
		t.Errorf("cast: %v, %v", a, err)
	}
	b.Append(1<<53 + 1)
	if a, err := cast(b.NewArray(), f64); err == nil {
		t.Errorf("an integer changes its value: %v", a)
	}
}

func TestCarryOverFiles(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.jsonl"), []byte(`{"prompt":"x","n":1,"deep":{"k":[1]},"only":true}`+"\nnot json\n"+`{"prompt":"y","n":2}`))
	writeFile(t, filepath.Join(dir, "b.jsonl"), []byte(`{"prompt":"z","n":0.5,"deep":"text","nothing":null}`))
	set := open(t, Columns{CarryAll: true}, dir)
	want := map[string]string{"n": "float64", "deep": "utf8", "only": "bool", "nothing": "utf8"}
	for _, f := range set.CarrySchema() {
		if want[f.Name] != f.Type.String() {
			t.Errorf("%s is carried as %v, want %s", f.Name, f.Type, want[f.Name])
		}
		delete(want, f.Name)
	}
	if len(want) > 0 {
		t.Errorf("not carried: %v", want)
	}
	var got []string
	for i, f := range set.Files() {
		rec, err := set.Carry(context.Background(), i, 0, f.Rows)
		if err != nil {
			t.Fatal(err)
		}
		b, err := rec.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Fields(strings.ReplaceAll(string(b), "\n", ""))...)
	}
	text := strings.Join(got, "")
	for _, part := range []string{`"n":1,`, `"deep":"{\"k\":[1]}"`, `"only":true`, `"n":null`, `"n":0.5`, `"deep":"text"`} {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
}

// Damage in one row group ends reading there: rows before it come, none after, and other row groups still read.
func TestDamageIsLocal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	writeParquet(t, path, prompts(40), 10, compress.Codecs.Zstd)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	magic, at := []byte{0x28, 0xb5, 0x2f, 0xfd}, 0 // of each page's zstd frame
	for range 3 {
		at += strings.Index(string(b[at:]), string(magic)) + 1
	}
	b[at+200] ^= 0x55 // in the third
	writeFile(t, path, b)
	set := open(t, Columns{}, path)
	rows := 0
	for row, e := range set.Read(context.Background(), 0, 0, 40) {
		if err = e; e == nil {
			if row.Number != int64(rows) {
				t.Errorf("row %d comes as %d", rows, row.Number)
			}
			rows++
		}
	}
	if rows != 20 || !errors.Is(err, ErrDamaged) || !strings.HasPrefix(fmt.Sprint(err), path+": row group 2: from row 20: column prompt: page 0: ") {
		t.Errorf("%d rows, then %v", rows, err)
	}
	rows = 0
	for _, err := range set.Read(context.Background(), 0, 30, 40) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
	}
	if rows != 10 {
		t.Errorf("%d rows behind the damage", rows)
	}
}

func TestReadStops(t *testing.T) {
	set := open(t, Columns{}, "testdata/prompts.parquet")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range set.Read(ctx, 0, 0, 512) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled read goes on: %v", err)
		}
	}
	if _, err := set.Carry(ctx, 0, 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled carry goes on: %v", err)
	}
	for range 20 { // left in the middle: the next read finds its place
		for row, err := range set.Read(context.Background(), 0, 100, 200) {
			if err != nil || row.Number != 100 {
				t.Fatal(row, err)
			}
			break
		}
	}
	for _, r := range [][3]int{{1, 0, 1}, {-1, 0, 1}, {0, -1, 1}, {0, 2, 1}, {0, 0, 513}} {
		for _, err := range set.Read(context.Background(), r[0], int64(r[1]), int64(r[2])) {
			if !errors.Is(err, ErrUsage) {
				t.Errorf("%v: %v", r, err)
			}
		}
	}
}

// A row group of 40 MB in pages of 1 MB is read in a few MB, from its start and from its middle.
func TestMemoryIsConstant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	texts := prompts(20_000)
	for len(texts) < 200_000 {
		texts = append(texts, texts[:20_000]...)
	}
	writeParquet(t, path, texts, len(texts), compress.Codecs.Snappy)
	texts = nil
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	set := open(t, Columns{}, path)
	for _, from := range []int64{0, 150_000} {
		before, most, i := heap(), uint64(0), 0
		for _, err := range set.Read(context.Background(), 0, from, 200_000) {
			if err != nil {
				t.Fatal(err)
			}
			if i++; i%10_000 == 0 {
				most = max(most, heap())
			}
		}
		if took := int64(most) - int64(before); took > 12<<20 {
			t.Errorf("from %d: %d MB for rows of 200 bytes", from, took>>20)
		}
	}
}

func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.jsonl")
	lines := jsonLines(prompts(10_000)) // 2 MB: sampled
	identity := func() string {
		writeFile(t, path, lines)
		return open(t, Columns{}, path).Files()[0].Identity
	}
	first := identity()
	if second := identity(); second != first {
		t.Error("one content, two identities")
	}
	for _, at := range []int{20, len(lines) - 20, len(lines) / 15 * 4} {
		lines[at] ^= 1
		if identity() == first {
			t.Errorf("byte %d of %d changed, the identity did not", at, len(lines))
		}
		lines[at] ^= 1
	}
}
