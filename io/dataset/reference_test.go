package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	arrow18 "github.com/apache/arrow-go/v18/arrow"
	array18 "github.com/apache/arrow-go/v18/arrow/array"
	ipc18 "github.com/apache/arrow-go/v18/arrow/ipc"
	memory18 "github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/google/go-cmp/cmp"
)

// The reference of these tests is v18's own way from files to records, pqarrow and ipc, which shares no code with ours
// above the decoding of single values. Values are compared as JSON.

// reference reads all columns of a file: name → values.
func reference(t *testing.T, path string) map[string][]any {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values := map[string][]any{}
	add := func(rec arrow18.RecordBatch) {
		for i, c := range rec.Columns() {
			name := rec.ColumnName(i)
			values[name] = append(values[name], jsonValues(t, c)...)
		}
	}
	if formatByName(path) == formatParquet {
		table, err := pqarrow.ReadTable(context.Background(), f, nil, pqarrow.ArrowReadProperties{}, memory18.DefaultAllocator)
		if err != nil {
			t.Fatal(err)
		}
		r := array18.NewTableReader(table, 1000)
		for r.Next() {
			add(r.RecordBatch())
		}
		return values
	}
	if r, err := ipc18.NewFileReader(f); err == nil {
		for i := range r.NumRecords() {
			rec, err := r.RecordBatch(i)
			if err != nil {
				t.Fatal(err)
			}
			add(rec)
		}
		return values
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, err := ipc18.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r.Next() {
		add(r.RecordBatch())
	}
	return values
}

func jsonValues(t *testing.T, a interface {
	json.Marshaler
	Len() int
	ValueStr(int) string
}) (out []any) {
	t.Helper()
	b, err := a.MarshalJSON()
	if name := reflect.TypeOf(a).String(); name == "*array.Float32" || name == "*array.Timestamp" { // NaN; and two forms of time
		for i := range a.Len() {
			out = append(out, strings.TrimSuffix(strings.Replace(a.ValueStr(i), "T", " ", 1), "Z"))
		}
		return out
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		err = d.Decode(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ours reads all columns by Carry, in ranges of step rows.
func ours(t *testing.T, path string, columns Columns, step int64) (map[string][]any, map[string]arrow.DataType) {
	t.Helper()
	columns.CarryAll = true
	set, err := Open(context.Background(), []string{path}, columns)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	values, types := map[string][]any{}, map[string]arrow.DataType{}
	for _, f := range set.CarrySchema() {
		types[f.Name] = f.Type
	}
	for from := int64(0); from < set.Rows(); from += step {
		rec, _, err := set.Carry(context.Background(), 0, from, min(from+step, set.Rows()))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range rec.Schema().Fields() {
			values[f.Name] = append(values[f.Name], jsonValues(t, rec.Column(i))...)
		}
		rec.Release()
	}
	return values, types
}

func TestCarryEqualsReference(t *testing.T) {
	var files []string
	for _, pattern := range []string{"testdata/*.parquet", "testdata/formats/*.parquet", "testdata/formats/*.arrow*", "testdata/formats/*.feather", "testdata/formats/hive/*/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 45 {
		t.Fatalf("only %d files", len(files))
	}
	for _, path := range files {
		if strings.Contains(path, "/bad-rows.") {
			continue // JSON holds no invalid UTF-8
		}
		t.Run(path, func(t *testing.T) {
			want := reference(t, path)
			columns := Columns{Prompt: "prompt"}
			for _, input := range []string{"input_ids", "messages"} {
				if _, ok := want[input]; ok {
					columns = Columns{Messages: input} // the type is not looked at before rows are read
					if input == "input_ids" {
						columns = Columns{IDs: input}
					}
				}
			}
			for _, step := range []int64{1 << 40, 3} {
				got, _ := ours(t, path, columns, step)
				for name, values := range got {
					if name == "source" && len(want[name]) == 0 {
						continue // a partition
					}
					if diff := cmp.Diff(want[name], values); diff != "" {
						t.Errorf("step %d, column %s (-want +got):\n%s", step, name, diff)
					}
				}
				if len(got)+1 < len(want)-len(overrideNames) {
					t.Errorf("%d of %d columns", len(got), len(want))
				}
			}
		})
	}
}

// nestedFields are columns of many types, a prompt first.
func nestedFields() []arrow18.Field {
	list, elem := arrow18.ListOf, arrow18.PrimitiveTypes.Int32
	text := arrow18.BinaryTypes.String
	pair := arrow18.StructOf(arrow18.Field{Name: "x", Type: elem, Nullable: true}, arrow18.Field{Name: "y", Type: list(text), Nullable: true})
	types := []arrow18.DataType{
		elem, text, list(elem), list(text), list(list(elem)), pair, list(pair), arrow18.MapOf(text, elem),
		list(arrow18.MapOf(text, list(elem))), arrow18.StructOf(arrow18.Field{Name: "p", Type: pair, Nullable: true}),
		arrow18.FixedSizeListOf(3, elem), arrow18.ListOfNonNullable(elem), list(arrow18.StructOf(arrow18.Field{Name: "r", Type: text}, arrow18.Field{Name: "s", Type: pair, Nullable: true})),
		arrow18.FixedWidthTypes.Boolean, arrow18.PrimitiveTypes.Float64, arrow18.PrimitiveTypes.Uint64, arrow18.PrimitiveTypes.Int8,
		arrow18.FixedWidthTypes.Timestamp_us, arrow18.FixedWidthTypes.Date32, &arrow18.Decimal128Type{Precision: 30, Scale: 4},
		&arrow18.FixedSizeBinaryType{ByteWidth: 5}, arrow18.BinaryTypes.LargeString, arrow18.FixedWidthTypes.Time64ns, arrow18.FixedWidthTypes.Float16,
	}
	fields := []arrow18.Field{{Name: "prompt", Type: text, Nullable: true}}
	for i, typ := range types {
		fields = append(fields, arrow18.Field{Name: fmt.Sprintf("c%02d", i), Type: typ, Nullable: true})
	}
	return fields
}

func randomRecord(r *rand.Rand, fields []arrow18.Field, rows int) arrow18.RecordBatch {
	b := array18.NewRecordBuilder(memory18.DefaultAllocator, arrow18.NewSchema(fields, nil))
	defer b.Release()
	for range rows {
		for _, column := range b.Fields() {
			appendRandom(r, column)
		}
	}
	return b.NewRecordBatch()
}

// TestNestedBatches does the same for Arrow files and streams, with what only they have: dictionaries, views, large lists.
func TestNestedBatches(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	fields := nestedFields()
	text := arrow18.BinaryTypes.String
	for i, typ := range []arrow18.DataType{
		&arrow18.DictionaryType{IndexType: arrow18.PrimitiveTypes.Uint8, ValueType: text}, &arrow18.DictionaryType{IndexType: arrow18.PrimitiveTypes.Int32, ValueType: arrow18.PrimitiveTypes.Int64},
		arrow18.BinaryTypes.StringView, arrow18.LargeListOf(arrow18.PrimitiveTypes.Int32), arrow18.LargeListOf(arrow18.BinaryTypes.StringView),
		arrow18.ListOf(&arrow18.DictionaryType{IndexType: arrow18.PrimitiveTypes.Int8, ValueType: text}), arrow18.Null, arrow18.FixedWidthTypes.Duration_ms,
	} {
		fields = append(fields, arrow18.Field{Name: fmt.Sprintf("d%02d", i), Type: typ, Nullable: true})
	}
	for name, options := range map[string][]ipc18.Option{
		"plain.arrow": nil, "zstd.arrow": {ipc18.WithZstd()}, "lz4.arrows": {ipc18.WithLZ4()}, "plain.arrows": nil,
	} {
		path := filepath.Join(t.TempDir(), name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		schema := arrow18.NewSchema(fields, nil)
		options = append(options, ipc18.WithSchema(schema), ipc18.WithDictionaryDeltas(strings.HasSuffix(name, "s")))
		var w interface {
			Write(arrow18.RecordBatch) error
			Close() error
		} = ipc18.NewWriter(f, options...)
		if strings.HasSuffix(name, ".arrow") {
			if w, err = ipc18.NewFileWriter(f, options...); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string][]any{}
		batches := []int{70, 1, 0, 33}
		if strings.HasSuffix(name, ".arrow") {
			batches = []int{104} // a dictionary cannot be replaced in a file
		}
		for _, rows := range batches {
			rec := randomRecord(r, fields, rows)
			for k, c := range rec.Columns() {
				want[rec.ColumnName(k)] = append(want[rec.ColumnName(k)], jsonValues(t, c)...)
			}
			if err := w.Write(rec); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		delete(want, "prompt")
		for _, step := range []int64{1 << 40, 1, 11} {
			got, _ := ours(t, path, Columns{}, step)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s, step %d (-want +got):\n%s", name, step, diff)
			}
		}
	}
}

// TestNestedColumns writes random nested columns with pqarrow, under many settings of pages and encodings, and reads them.
func TestNestedColumns(t *testing.T) {
	fields := nestedFields()
	r := rand.New(rand.NewPCG(3, 4))
	for i, props := range [][]parquet.WriterProperty{
		{parquet.WithDictionaryDefault(false)},
		{parquet.WithDataPageSize(64), parquet.WithBatchSize(3), parquet.WithCompression(compress.Codecs.Zstd)},
		{parquet.WithDataPageVersion(parquet.DataPageV2), parquet.WithDataPageSize(100), parquet.WithBatchSize(2), parquet.WithCompression(compress.Codecs.Snappy)},
		{parquet.WithDataPageVersion(parquet.DataPageV2), parquet.WithDictionaryDefault(false), parquet.WithDataPageSize(50), parquet.WithBatchSize(1)},
		{parquet.WithDictionaryPageSizeLimit(40), parquet.WithDataPageSize(64), parquet.WithBatchSize(5), parquet.WithCompression(compress.Codecs.Gzip)},
		{parquet.WithMaxRowGroupLength(17), parquet.WithCompression(compress.Codecs.Lz4Raw)},
		{parquet.WithDictionaryDefault(false), parquet.WithEncoding(parquet.Encodings.DeltaByteArray), parquet.WithEncodingFor("c00", parquet.Encodings.DeltaBinaryPacked)},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			rec := randomRecord(r, fields, 150)
			defer rec.Release()
			path := filepath.Join(t.TempDir(), "nested.parquet")
			if i == 6 { // only byte arrays have that encoding
				rec = array18.NewRecordBatch(arrow18.NewSchema(fields[:2], nil), rec.Columns()[:2], rec.NumRows())
			}
			write18(t, path, rec, props)
			want := map[string][]any{}
			for k, c := range rec.Columns() {
				want[rec.ColumnName(k)] = jsonValues(t, c)
			}
			if i == 5 { // the writer loses its place in lists of fixed size where row groups part them: take what it wrote
				want["c10"] = reference(t, path)["c10"]
			}
			delete(want, "prompt")
			for _, step := range []int64{1 << 40, 1, 11} {
				got, _ := ours(t, path, Columns{}, step)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("step %d (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}

func write18(t *testing.T, path string, rec arrow18.RecordBatch, props []parquet.WriterProperty) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := pqarrow.NewFileWriter(rec.Schema(), f, parquet.NewWriterProperties(props...), pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// appendRandom appends a random value, null or empty with some luck.
func appendRandom(r *rand.Rand, b array18.Builder) {
	if r.IntN(5) == 0 && b.Type().ID() != arrow18.FIXED_SIZE_LIST { // pqarrow writes no null ones
		if l, ok := b.Type().(arrow18.ListLikeType); !ok || l.ElemField().Nullable || b.Type().ID() != arrow18.LIST {
			b.AppendNull()
			return
		}
	}
	switch b := b.(type) {
	case *array18.StructBuilder:
		b.Append(true)
		for i := range b.NumField() {
			if b.Type().(*arrow18.StructType).Field(i).Nullable {
				appendRandom(r, b.FieldBuilder(i))
				continue
			}
			b.FieldBuilder(i).(*array18.StringBuilder).Append(fmt.Sprint(r.IntN(20)))
		}
	case *array18.MapBuilder:
		b.Append(true)
		for k := range r.IntN(4) {
			b.KeyBuilder().(*array18.StringBuilder).Append(fmt.Sprint(k))
			appendRandom(r, b.ItemBuilder())
		}
	case *array18.FixedSizeListBuilder:
		b.Append(true)
		for range 3 {
			appendRandom(r, b.ValueBuilder())
		}
	case *array18.ListBuilder:
		b.Append(true)
		for range r.IntN(4) {
			if !b.Type().(*arrow18.ListType).ElemField().Nullable {
				b.ValueBuilder().(*array18.Int32Builder).Append(r.Int32N(9))
				continue
			}
			appendRandom(r, b.ValueBuilder())
		}
	case *array18.LargeListBuilder:
		b.Append(true)
		for range r.IntN(4) {
			appendRandom(r, b.ValueBuilder())
		}
	case *array18.NullBuilder:
		b.AppendNull()
	case *array18.DurationBuilder:
		b.Append(arrow18.Duration(r.Int64N(1e9)))
	case *array18.StringViewBuilder:
		b.Append(strings.Repeat(fmt.Sprint(r.IntN(100)), 1+r.IntN(20)))
	case *array18.Int32Builder:
		b.Append(r.Int32N(1000) - 500)
	case *array18.Decimal128Builder:
		if err := b.AppendValueFromString(fmt.Sprintf("%d.25", r.IntN(1e6)-5e5)); err != nil {
			panic(err)
		}
	case *array18.FixedSizeBinaryBuilder:
		b.Append([]byte(fmt.Sprintf("%05d", r.IntN(1e5))))
	case *array18.BooleanBuilder:
		b.Append(r.IntN(2) == 0)
	case *array18.TimestampBuilder:
		b.Append(arrow18.Timestamp(r.Int64N(1e15)))
	case *array18.Date32Builder:
		b.Append(arrow18.Date32(r.Int32N(20000)))
	case *array18.Time64Builder:
		b.Append(arrow18.Time64(r.Int64N(86400e9)))
	default:
		s := fmt.Sprint(r.IntN(100))
		if err := b.AppendValueFromString(s); err != nil {
			panic(err)
		}
	}
}
