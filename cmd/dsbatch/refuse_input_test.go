package main_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
)

// TestBadRowsAreSetAside gives rows that cannot be used among good ones: the good ones come out as they do alone, the
// bad ones have a reason each, and nothing is lost.
func TestBadRowsAreSetAside(t *testing.T) {
	good := `{"prompt": "It was a truth universally acknowledged"}` + "\n"
	bad := []struct{ line, say string }{
		{`{"prompt": null}`, "null"},
		{`{"other": 1}`, "missing"},
		{`{"prompt": ""}`, "no token"},
		{`{"prompt": "It was", "stop": ["the", ""]}`, "stop has an empty text"},
		{`{"prompt": "` + strings.Repeat("and he said unto them ", 400) + `"}`, "512"},
		{"{\"prompt\": \"caf\xe9 au lait\"}", "UTF-8"},
		{`{"prompt": 17}`, "prompt"},
		{`{"prompt": "cut off`, "JSON"},
	}
	text := good
	for _, b := range bad {
		text += b.line + "\n" + good
	}
	output := filepath.Join(t.TempDir(), "out")
	args := []string{"--input", write(t, "rows.jsonl", text), "--temperature", "0", "--top-k", "1", "--limit", "100"}
	e := dsbatch(t, job(output, args...)...).want(t, badRows)
	t.Log(e.stderr)
	if !strings.Contains(e.stderr, "8 of them set aside") || !strings.Contains(e.stderr, "bad-rows.parquet") {
		t.Error("it does not say how many rows were set aside, and where their reasons are")
	}
	if !strings.Contains(e.stderr, "the first (row 1): prompt is null") {
		t.Error("it does not say why the first was")
	}
	dsbatch(t, "verify", output).want(t, done)

	rows := head(t, output)
	if len(rows) != 2*len(bad)+1 {
		t.Fatalf("%d rows in the output, want %d", len(rows), 2*len(bad)+1)
	}
	for i, b := range bad {
		row := rows[2*i+1]
		t.Logf("%.40q: %v", b.line, row["error"])
		if reason, _ := row["error"].(string); !strings.Contains(reason, b.say) || row["finish_reason"] != "error" || row["output"] != nil {
			t.Errorf("%.40q: %v; want finish_reason error, no output, and a reason that says %q", b.line, row, b.say)
		}
	}
	for i := 0; i < len(rows); i += 2 {
		if rows[i]["error"] != nil || rows[i]["output"] != rows[0]["output"] || rows[i]["output"] == "" {
			t.Errorf("good row %d: %v, want what row 0 has: %v", i, rows[i], rows[0])
		}
	}
	reasons, err := file.OpenParquetFile(filepath.Join(output, "_dsbatch", "bad-rows.parquet"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reasons.Close() }()
	if reasons.NumRows() != int64(len(bad)) {
		t.Errorf("bad-rows.parquet has %d rows, want %d", reasons.NumRows(), len(bad))
	}

	// started again, it ends as before
	dsbatch(t, job(output, args...)...).want(t, badRows)
}

// TestCarriedTextThatCannotBeWritten: a text of a Parquet or Arrow file is UTF-8 by the file's word only. A row that carries
// one which is not is set aside, and all texts of the output are UTF-8.
func TestCarriedTextThatCannotBeWritten(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "prompt", Type: arrow.BinaryTypes.String}, {Name: "note", Type: arrow.BinaryTypes.String}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	b.Field(0).(*array.StringBuilder).AppendValues([]string{"And it came", "And it came", "caf\xe9"}, nil)
	b.Field(1).(*array.StringBuilder).AppendValues([]string{"good", "caf\xe9", "caf\xe9"}, nil)
	rec := b.NewRecordBatch()
	defer rec.Release()
	input, output := filepath.Join(t.TempDir(), "rows.arrows"), filepath.Join(t.TempDir(), "out")
	f, err := os.Create(input)
	if err != nil {
		t.Fatal(err)
	}
	w := ipc.NewWriter(f, ipc.WithSchema(schema))
	if err := errors.Join(w.Write(rec), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	dsbatch(t, job(output, "--input", input, "--carry", "note", "--n", "2", "--max-new-tokens", "2")...).want(t, badRows)
	dsbatch(t, "verify", output).want(t, done)
	if report, err := os.ReadFile(filepath.Join(output, "stats.json")); err != nil || strings.Count(string(report), "which is to be carried") == 0 {
		t.Errorf("stats.json does not tell of the row: %v", err)
	}
	aside := dsbatch(t, "head", "--bad", output).want(t, done).stdout
	if want := "row 1  note, which is to be carried, is not valid UTF-8; convert it"; !strings.HasPrefix(aside, want) || !strings.Contains(aside, "\nrow 2  prompt is not valid UTF-8") || strings.Count(aside, "\n") != 2 {
		t.Errorf("head --bad: %s", aside)
	}
	if one := dsbatch(t, "head", "--bad", "--json", "--rows", "1", output).want(t, done).stdout; !strings.HasPrefix(one, `{"error":"note, which`) || !strings.HasSuffix(one, `"row":1}`+"\n") {
		t.Errorf("head --bad --json --rows 1: %s", one)
	}
	rows := head(t, output)
	if len(rows) != 6 {
		t.Fatalf("%d rows, want 2 samples of 3", len(rows))
	}
	for i, row := range rows {
		reason, _ := row["error"].(string)
		want := []string{"", "note, which is to be carried, is not valid UTF-8", "prompt is not valid UTF-8"}[i/2]
		if !strings.HasPrefix(reason, want) || (want == "") != (row["error"] == nil) || (row["output"] == nil) != (want != "") ||
			(row["note"] == nil) != (want != "") || row["sample"] != float64(i%2) {
			t.Errorf("record %d: %v, want the reason %q", i, row, want)
		}
	}
}

// head are the rows of an output.
func head(t testing.TB, path string) (rows []map[string]any) {
	t.Helper()
	e := dsbatch(t, "head", "--json", "--rows", "1000", path).want(t, done)
	for _, line := range lines(e.stdout) {
		row := map[string]any{}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestInputsThatCannotBeUsed gives data sets that end a job before it begins.
func TestInputsThatCannotBeUsed(t *testing.T) {
	damaged := absolute("../../io/dataset/testdata/damaged")
	for _, c := range []struct {
		name   string
		status int
		args   []string
		say    []string
	}{
		{"missing", noInput, []string{"--input", "/nowhere/rows.parquet"}, []string{"/nowhere/rows.parquet"}},
		{"a glob that finds nothing", noInput, []string{"--input", "/nowhere/*.parquet"}, []string{"/nowhere/*.parquet"}},
		{"a column missing", badData, []string{"--prompt-column", "promt"}, []string{"promt", "prompt?", "--prompt-column"}},
		{"an id column missing", badData, []string{"--id-column", "idd"}, []string{"idd", "--id-column"}},
		{"a carried column missing", badData, []string{"--carry", "sauce"}, []string{"sauce", "source"}},
		{"a column of the wrong type", badData, []string{"--prompt-column", "max_new_tokens"}, []string{"max_new_tokens", "int32"}},
		{"ids of the wrong type", badData, []string{"--ids-column", "prompt"}, []string{"prompt"}},
		{"not Parquet", badData, []string{"--input", damaged + "/not-parquet.parquet"}, []string{"not-parquet.parquet"}},
		{"cut off", badData, []string{"--input", damaged + "/truncated.parquet"}, []string{"truncated.parquet"}},
		{"a kind of file that it does not know", badData, []string{"--input", bundled + "/latest"}, []string{"latest", ".parquet", ".jsonl"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, c.status, job(filepath.Join(t.TempDir(), "out"), c.args...), c.say...)
		})
	}
}

// TestDamageFoundOnTheWay reads a file whose damage shows only when its rows are read: the job fails and names the
// place, and what came before is committed and kept.
func TestDamageFoundOnTheWay(t *testing.T) {
	damaged := absolute("../../io/dataset/testdata/damaged/flip-text-crc.parquet")
	output := filepath.Join(t.TempDir(), "out")
	first := write(t, "first.jsonl", strings.Repeat("{\"prompt\": \"And it came to pass\"}\n", 6))
	e := dsbatch(t, job(output, "--input", first, "--input", damaged, "--limit", "1000", "--max-new-tokens", "1", "--chunk-rows", "600")...)
	t.Log(e.stderr)
	if e.status != badData {
		t.Errorf("status %d, want %d", e.status, badData)
	}
	for _, word := range []string{"flip-text-crc.parquet", "row group"} {
		if !strings.Contains(e.stderr, word) {
			t.Errorf("it does not say %q", word)
		}
	}
	if parts, _ := filepath.Glob(output + "/part-*.parquet"); len(parts) == 0 {
		t.Error("nothing was committed")
	}
	if _, err := os.Stat(filepath.Join(output, "_SUCCESS")); err == nil {
		t.Error("it says that it is whole")
	}
}

// TestNoRows is a job that has nothing to do: it ends at once, and its output is whole.
func TestNoRows(t *testing.T) {
	output := filepath.Join(t.TempDir(), "out")
	dsbatch(t, job(output, "--input", absolute("../../io/dataset/testdata/formats/empty.parquet"))...).want(t, done)
	dsbatch(t, "verify", output).want(t, done)
}

// TestColumnsOfSettingsAreTold: a column that sets rows' own values over the flags is named at the first start, since it may
// well mean something else (the temperature of a weather station).
func TestColumnsOfSettingsAreTold(t *testing.T) {
	const told = "win over the flags in rows where they are not null: temperature, seed"
	rows := write(t, "rows.jsonl", `{"prompt": "It is", "seed": 3, "temperature": 21.5}`+"\n")
	output := filepath.Join(t.TempDir(), "out")
	for i, args := range [][]string{job(output, "--input", rows), job(output, "--input", rows),
		{"run", "--task", "score", "--model", bundled, "--input", rows, "--output", filepath.Join(t.TempDir(), "scored")}} {
		if e := dsbatch(t, args...).want(t, done); strings.Contains(e.stderr, told) != (i == 0) {
			t.Errorf("start %d of generate, generate again, score:\n%s", i, e.stderr)
		}
	}
}

// TestHeadOfLittle: of an output without rows head says that there are none, and a score that was set aside is one line.
func TestHeadOfLittle(t *testing.T) {
	score := func(text string) (e ended) {
		output := filepath.Join(t.TempDir(), "out")
		dsbatch(t, "run", "--task", "score", "--model", bundled, "--input", write(t, "rows.jsonl", text), "--output", output)
		return dsbatch(t, "head", output).want(t, done)
	}
	if e := score(""); e.stdout != "" || !strings.Contains(e.stderr, "holds no committed row") {
		t.Errorf("of no rows: %q, %q", e.stdout, e.stderr)
	}
	if e := score(`{"prompt": null}` + "\n"); strings.Count(e.stdout, "\n") != 1 {
		t.Errorf("of a row set aside: %q", e.stdout)
	}
}
