package dataset

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

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
		rec, _, err := set.Carry(context.Background(), i, 0, f.Rows)
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

// TestColonInAName: who forgets the backslash is told of it.
func TestColonInAName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.jsonl")
	writeFile(t, path, []byte(`{"prompt":"a","time:utc":"b"}`))
	_, err := Open(t.Context(), []string{path}, Columns{Carry: []CarryColumn{{"time", "utc"}}})
	if err == nil || !strings.Contains(err.Error(), `a colon of a name stands behind a backslash: time\:utc`) {
		t.Error(err)
	}
}
