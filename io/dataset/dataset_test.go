package dataset

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
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
	twice := filepath.Join(dir, "twice.arrow")
	writeIPC(t, twice, arrow.NewSchema([]arrow.Field{textField("prompt"), textField("text"), textField("prompt")}, nil))
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
		{"a JSON array in one line", []string{file("line.json", "[{\"prompt\":\"a\"},{\"prompt\":\"b\"}]\n")}, Columns{}, ErrDamaged, []string{"line.json", "jq -c"}},
		{"an object over several lines", []string{file("pretty.json", "{\r\n  \"prompt\": \"a\"\r\n}\r\n")}, Columns{}, ErrDamaged, []string{"pretty.json: its first JSON object goes over several lines", "jq -c"}},
		{"UTF-16", []string{file("wide.jsonl", "\xff\xfe{\x00}\x00\n\x00")}, Columns{}, ErrDamaged, []string{"wide.jsonl: it is UTF-16", "iconv"}},
		{"one column twice", []string{twice}, Columns{}, ErrColumn, []string{`twice.arrow: two columns have the name "prompt"; rename one`}},
		{"a carried column twice", []string{twice}, Columns{Prompt: "text", CarryAll: true}, ErrColumn, []string{`twice.arrow: two columns have the name "prompt"`}},
		{"unknown format", []string{file("x.dat", "prompt\n")}, Columns{}, ErrDamaged, []string{"x.dat: its format is unknown"}},
		{"a table of text", []string{file("x.csv", "prompt\n")}, Columns{}, ErrDamaged, []string{"x.csv: it is a table of text", "write it as Parquet or JSON Lines"}},
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

func TestReadStops(t *testing.T) {
	set := open(t, Columns{}, "testdata/prompts.parquet")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range set.Read(ctx, 0, 0, 512) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled read goes on: %v", err)
		}
	}
	if _, _, err := set.Carry(ctx, 0, 0, 1); !errors.Is(err, context.Canceled) {
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
	lines := jsonLines(prompts(10_000)) // 2 MB: read as a whole
	identity := func() string {
		writeFile(t, path, lines)
		return open(t, Columns{}, path).Files()[0].Identity
	}
	first := identity()
	if second := identity(); second != first {
		t.Error("one content, two identities")
	}
	_, sampled, err := fingerprint(path, 10_000, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		byte    int
		sampled bool
	}{{20, true}, {len(lines) - 20, true}, {len(lines) / 15 * 4, true}, {100_000, false}} {
		lines[c.byte] ^= 1
		if identity() == first {
			t.Errorf("byte %d of %d changed, the identity did not", c.byte, len(lines))
		}
		if _, now, err := fingerprint(path, 10_000, 0); err != nil || now == sampled == c.sampled {
			t.Errorf("byte %d of %d changed: %v, the identity by samples changed: %v", c.byte, len(lines), err, now != sampled)
		}
		lines[c.byte] ^= 1
	}
	for files, want := range map[int]int64{1: 64 << 20, 8: 32 << 20, 10_000: 1 << 20} {
		if most := wholeMost(files); most != want {
			t.Errorf("of %d files those up to %d bytes are read as a whole, want %d", files, most, want)
		}
	}
}

func textField(name string) arrow.Field {
	return arrow.Field{Name: name, Type: arrow.BinaryTypes.String}
}

// writeIPC makes an Arrow file without rows.
func writeIPC(t testing.TB, path string, schema *arrow.Schema) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(schema))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
