package results

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	v15 "github.com/apache/arrow/go/v15/arrow"
	array15 "github.com/apache/arrow/go/v15/arrow/array"
	memory15 "github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

// carriedTypes are all types of Arrow v15 that can be carried.
func carriedTypes() []v15.DataType {
	types := []v15.DataType{
		v15.Null, v15.FixedWidthTypes.Boolean, v15.PrimitiveTypes.Int8, v15.PrimitiveTypes.Uint8, v15.PrimitiveTypes.Int16, v15.PrimitiveTypes.Uint16,
		v15.PrimitiveTypes.Int32, v15.PrimitiveTypes.Uint32, v15.PrimitiveTypes.Int64, v15.PrimitiveTypes.Uint64,
		v15.FixedWidthTypes.Float16, v15.PrimitiveTypes.Float32, v15.PrimitiveTypes.Float64,
		v15.BinaryTypes.String, v15.BinaryTypes.LargeString, v15.BinaryTypes.Binary, v15.BinaryTypes.LargeBinary,
		&v15.FixedSizeBinaryType{ByteWidth: 5}, &v15.Decimal128Type{Precision: 20, Scale: 3}, &v15.Decimal128Type{Precision: 7, Scale: 2},
		&v15.Decimal256Type{Precision: 60, Scale: 3}, &v15.Decimal256Type{Precision: 20, Scale: 3},
		v15.FixedWidthTypes.Date32, v15.FixedWidthTypes.Date64,
		v15.FixedWidthTypes.Time32s, v15.FixedWidthTypes.Time32ms, v15.FixedWidthTypes.Time64us, v15.FixedWidthTypes.Time64ns,
		v15.FixedWidthTypes.Duration_s, v15.FixedWidthTypes.Duration_ns,
		&v15.DictionaryType{IndexType: v15.PrimitiveTypes.Int8, ValueType: v15.BinaryTypes.String},
		&v15.DictionaryType{IndexType: v15.PrimitiveTypes.Int32, ValueType: v15.PrimitiveTypes.Int64},
	}
	for _, unit := range []v15.TimeUnit{v15.Second, v15.Millisecond, v15.Microsecond, v15.Nanosecond} {
		types = append(types, &v15.TimestampType{Unit: unit}, &v15.TimestampType{Unit: unit, TimeZone: "Europe/Berlin"})
	}
	return append(types,
		v15.ListOf(v15.BinaryTypes.String), v15.LargeListOf(v15.PrimitiveTypes.Int16), v15.FixedSizeListOf(3, v15.PrimitiveTypes.Float32),
		v15.ListOf(v15.ListOf(v15.PrimitiveTypes.Int64)), v15.MapOf(v15.BinaryTypes.String, v15.PrimitiveTypes.Int32),
		v15.StructOf(v15.Field{Name: "role", Type: v15.BinaryTypes.String, Nullable: true}, v15.Field{Name: "at", Type: v15.FixedWidthTypes.Date32, Nullable: true}),
		&v15.DictionaryType{IndexType: v15.PrimitiveTypes.Uint16, ValueType: v15.BinaryTypes.Binary},
		v15.FixedSizeListOf(3, v15.ListOf(v15.BinaryTypes.String)), v15.ListOf(v15.FixedSizeListOf(3, v15.PrimitiveTypes.Int8)),
		v15.ListOf(v15.FixedWidthTypes.Duration_us), v15.LargeListOf(v15.StructOf(v15.Field{Name: "l", Type: v15.FixedSizeListOf(3, v15.BinaryTypes.LargeString), Nullable: true})),
		v15.StructOf(v15.Field{Name: "l", Type: v15.ListOf(v15.BinaryTypes.String), Nullable: true}, v15.Field{Name: "m", Type: v15.MapOf(v15.BinaryTypes.String, v15.PrimitiveTypes.Int8), Nullable: true}),
		v15.ListOf(v15.StructOf(v15.Field{Name: "role", Type: v15.BinaryTypes.String, Nullable: true}, v15.Field{Name: "parts", Type: v15.ListOf(v15.BinaryTypes.String), Nullable: true})),
	)
}

// drawValue appends a random value, nulls and empty ones among them.
func drawValue(t *testing.T, chance *rand.Rand, b array15.Builder) {
	if chance.IntN(4) == 0 {
		b.AppendNull()
		return
	}
	number := func(low, high int64) int64 { return low + int64(chance.Uint64N(uint64(high-low)+1)) }
	text := func() string { return strings.Repeat("é𝄞", chance.IntN(5)) + fmt.Sprint(chance.IntN(9)) }
	switch b := b.(type) {
	case *array15.NullBuilder:
		b.AppendNull()
	case *array15.StringBuilder:
		b.Append(text())
	case *array15.LargeStringBuilder:
		b.Append(text())
	case *array15.BinaryBuilder:
		b.Append([]byte(text()))
	case *array15.FixedSizeBinaryBuilder:
		b.Append([]byte(fmt.Sprintf("%05d", number(0, 99999))))
	case *array15.BinaryDictionaryBuilder:
		if err := b.AppendString([]string{"", "a", "bc"}[chance.IntN(3)]); err != nil {
			t.Fatal(err)
		}
	case *array15.Int64DictionaryBuilder:
		if err := b.Append(number(-3, 3)); err != nil {
			t.Fatal(err)
		}
	case *array15.MapBuilder: // before the list that it is made of
		b.Append(true)
		for k := range int(number(0, 3)) {
			b.KeyBuilder().(*array15.StringBuilder).Append(fmt.Sprint("key ", k))
			drawValue(t, chance, b.ItemBuilder())
		}
	case *array15.FixedSizeListBuilder:
		b.Append(true)
		for range 3 {
			drawValue(t, chance, b.ValueBuilder())
		}
	case *array15.StructBuilder:
		b.Append(true)
		for i := range b.NumField() {
			drawValue(t, chance, b.FieldBuilder(i))
		}
	case array15.ListLikeBuilder:
		b.Append(true)
		for range int(number(0, 3)) {
			drawValue(t, chance, b.ValueBuilder())
		}
	case *array15.Date64Builder:
		b.Append(v15.Date64(number(-10, 20000) * 86_400_000)) // whole days, as Arrow wants them
	case *array15.Date32Builder:
		b.Append(v15.Date32(number(-1<<31, 1<<31-1)))
	case *array15.Time32Builder, *array15.Time64Builder, *array15.BooleanBuilder:
		if err := b.AppendValueFromString(map[bool]string{true: "true", false: "false"}[number(0, 1) == 0]); err != nil {
			if err := b.AppendValueFromString(fmt.Sprintf("%02d:00:%02d", number(0, 23), number(0, 59))); err != nil {
				t.Fatal(err)
			}
		}
	case *array15.TimestampBuilder:
		b.Append(v15.Timestamp(number(-1<<40, 1<<40)))
	case *array15.Decimal128Builder, *array15.Decimal256Builder:
		if err := b.AppendValueFromString(fmt.Sprint(number(-999, 999))); err != nil {
			t.Fatal(err)
		}
	case *array15.DurationBuilder:
		b.Append(v15.Duration(chance.Uint64()))
	default:
		if err := b.AppendValueFromString(fmt.Sprint(number(0, 99))); err != nil {
			t.Fatalf("%T: %v", b, err)
		}
	}
}

// TestCarriedTypes: every type that Check lets pass comes back with its values, whatever the row groups; the digest
// is the same for all row groups.
func TestCarriedTypes(t *testing.T) {
	for _, typ := range carriedTypes() {
		for seed := range uint64(5) {
			chance := rand.New(rand.NewPCG(seed, 11))
			field := v15.Field{Name: "c", Type: typ, Nullable: true}
			layout := Layout{Task: Embed, Carry: []v15.Field{field}}
			if err := layout.Check(); err != nil {
				t.Fatal(err)
			}
			rows, skip := 1+chance.IntN(20), chance.IntN(3) // the array begins inside its buffers
			b := array15.NewBuilder(memory15.DefaultAllocator, typ)
			for range rows + skip {
				drawValue(t, chance, b)
			}
			values := array15.NewSlice(veil(chance, b.NewArray()), int64(skip), int64(rows+skip))
			carry := array15.NewRecord(v15.NewSchema([]v15.Field{field}, nil), []v15.Array{values}, int64(rows))
			records := make([]Record, rows)
			for i := range records {
				records[i] = Record{Row: int64(i), Embedding: []float32{float32(i)}}
			}
			var first digests
			for _, groupRows := range []int{1 << 16, 1, 2 + chance.IntN(9)} {
				o := testOptions(newCrashDisk())
				o.RowGroupRows = groupRows
				w, sums, err := commitOne(layout, records, carry, o)
				if err != nil {
					t.Fatalf("%s, seed %d, row groups of %d: %v", typ, seed, groupRows, err)
				}
				if first == nil {
					first = sums
				} else if names := first.differing(sums); names != nil {
					t.Fatalf("%s, seed %d: row groups of %d: columns %s have another digest", typ, seed, groupRows, names)
				}
				checkCarried(t, w, values)
			}
		}
	}
}

// veil makes values null that have content all the same, as other programs do; and, in dictionaries, entries.
func veil(chance *rand.Rand, a v15.Array) v15.Array {
	data := a.Data()
	if a.DataType().ID() == v15.NULL {
		return a
	}
	bits, nulls := make([]byte, (a.Len()+7)/8), 0
	for i := range a.Len() {
		if a.IsNull(i) || chance.IntN(4) == 0 {
			nulls++
		} else {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	buffers := append([]*memory15.Buffer{memory15.NewBufferBytes(bits)}, data.Buffers()[1:]...)
	if d, ok := a.(*array15.Dictionary); ok {
		entries := d.Dictionary()
		if _, text := entries.(*array15.String); text {
			entries = veil(chance, entries)
		}
		return array15.MakeFromData(array15.NewDataWithDictionary(a.DataType(), a.Len(), buffers, nulls, data.Offset(), entries.Data().(*array15.Data)))
	}
	return array15.MakeFromData(array15.NewData(a.DataType(), a.Len(), buffers, data.Children(), nulls, data.Offset()))
}

// commitOne writes records as the only chunk of an output and reads its digests back from the part.
func commitOne(layout Layout, records []Record, carry v15.Record, o Options) (*Writer, digests, error) {
	ctx, chunks := context.Background(), cut(int64(len(records)))
	out, err := Create(ctx, "/out", nil, layout, chunks, o)
	if err != nil {
		return nil, nil, err
	}
	w, err := Join(ctx, "/out", out.Start(), 0, layout, o)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(w.Commit(ctx, chunks[0], records, carry), out.Close()); err != nil {
		return nil, nil, err
	}
	var line commitLine
	err = readCommits(o.fs, "/out", func(c commitLine) error { line = c; return nil }, func(string, int) {})
	if err != nil {
		return nil, nil, err
	}
	sums, err := digestPart(ctx, o.fs, "/out/part-0000000.parquet", 0)
	if err == nil && !sums.equal(line.Columns) {
		err = fmt.Errorf("read back, columns %s differ from what the commit line says", sums.differing(line.Columns))
	}
	return w, sums, err
}

// checkCarried compares the carried column with values, as texts.
func checkCarried(t *testing.T, w *Writer, values v15.Array) {
	var got []string
	table, err := openTable(context.Background(), w.options.fs, "/out/part-0000000.parquet")
	if err != nil {
		t.Fatal(err)
	}
	if err := table.each(context.Background(), func(batch arrow.RecordBatch, _ int64) error {
		a := batch.Column(int(batch.NumCols()) - 1)
		for i := range a.Len() {
			if times, ok := a.(*array.Timestamp); ok && times.IsValid(i) {
				got = append(got, showTime(times.Value(i).ToTime(times.DataType().(*arrow.TimestampType).Unit)))
				continue
			}
			got = append(got, showValue(a.GetOneForMarshal(i)))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range values.Len() {
		if times, ok := values.(*array15.Timestamp); ok && times.IsValid(i) {
			want = append(want, showTime(times.Value(i).ToTime(times.DataType().(*v15.TimestampType).Unit)))
			continue
		}
		text := showValue(values.GetOneForMarshal(i))
		if strings.Contains(values.DataType().String(), "duration") { // whose bare numbers come back
			text = regexp.MustCompile(`"?(-?\d+)[mun]?s"?`).ReplaceAllString(text, "$1")
		}
		want = append(want, text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: %s", values.DataType(), diff)
	}
}

func showTime(t time.Time) string { return fmt.Sprint(t.Unix(), " s ", t.Nanosecond(), " ns") }

func showValue(v any) string {
	if raw, ok := v.(interface{ MarshalJSON() ([]byte, error) }); ok {
		if text, err := raw.MarshalJSON(); err == nil {
			return string(text)
		}
	}
	return fmt.Sprintf("%v", v)
}

// digestPart reads a part and digests its columns; first is the global number of its first record.
func digestPart(ctx context.Context, fsys fileSystem, name string, first int64) (digests, error) {
	t, err := openTable(ctx, fsys, name)
	if err != nil {
		return nil, err
	}
	sums := digests{}
	return sums, t.each(ctx, func(batch arrow.RecordBatch, before int64) error {
		sums.add(batch, first+before)
		return nil
	})
}
