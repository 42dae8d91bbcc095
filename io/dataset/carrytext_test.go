package dataset

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// texts are what the columns below are made of; two of those that are no UTF-8 are, one behind the other.
var someTexts = []string{"", "plain", "é", "\xc3", "\xa9", "a\xffb", "\xed\xa0\x80"}

// textDraw draws the value of a column's row and tells whether a text in it is no UTF-8.
type textDraw func(b array.Builder, r *rand.Rand) (bad bool)

func drawText(b array.Builder, r *rand.Rand) bool {
	i := r.IntN(4 * len(someTexts))
	switch {
	case i == len(someTexts):
		b.AppendNull()
		return false
	case i > len(someTexts):
		i %= 3 // mostly good ones
	}
	switch b := b.(type) {
	case *array.StringBuilder:
		b.Append(someTexts[i])
	case *array.LargeStringBuilder:
		b.Append(someTexts[i])
	}
	return !utf8.ValidString(someTexts[i])
}

// textColumns is a column of each kind that can hold texts.
var textColumns = []struct {
	typ  arrow.DataType
	draw textDraw
}{
	{arrow.BinaryTypes.String, drawText},
	{arrow.BinaryTypes.LargeString, drawText},
	{arrow.ListOf(arrow.BinaryTypes.String), func(b array.Builder, r *rand.Rand) (bad bool) {
		list := b.(*array.ListBuilder)
		list.Append(true)
		for range r.IntN(3) {
			bad = drawText(list.ValueBuilder(), r) || bad
		}
		return bad
	}},
	{arrow.FixedSizeListOf(2, arrow.BinaryTypes.String), func(b array.Builder, r *rand.Rand) (bad bool) {
		list := b.(*array.FixedSizeListBuilder)
		list.Append(true)
		bad = drawText(list.ValueBuilder(), r)
		return drawText(list.ValueBuilder(), r) || bad
	}},
	{arrow.StructOf(arrow.Field{Name: "n", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		arrow.Field{Name: "s", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true}), func(b array.Builder, r *rand.Rand) (bad bool) {
		s := b.(*array.StructBuilder)
		valid := r.IntN(3) > 0
		s.AppendValues([]bool{valid}) // Append would put nulls below a null
		s.FieldBuilder(0).(*array.Int32Builder).Append(7)
		list := s.FieldBuilder(1).(*array.ListBuilder)
		list.Append(true)
		for range r.IntN(3) {
			bad = drawText(list.ValueBuilder(), r) || bad
		}
		return bad && valid // nobody reads what a null spans
	}},
	{arrow.MapOf(arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String), func(b array.Builder, r *rand.Rand) (bad bool) {
		m := b.(*array.MapBuilder)
		m.Append(true)
		for i := range r.IntN(3) {
			m.KeyBuilder().(*array.Int32Builder).Append(int32(i))
			bad = drawText(m.ItemBuilder(), r) || bad
		}
		return bad
	}},
	{arrow.BinaryTypes.Binary, func(b array.Builder, r *rand.Rand) bool { // may hold anything
		b.(*array.BinaryBuilder).Append([]byte(someTexts[r.IntN(len(someTexts))]))
		return false
	}},
}

// TestCarriedTextsAreUTF8 carries columns of an Arrow file in ranges of several sizes. Values with a text that is no UTF-8 are
// null and their rows bad; all others are what they were.
func TestCarriedTextsAreUTF8(t *testing.T) {
	const rows, batch = 200, 64
	r := rand.New(rand.NewPCG(2, 7))
	fields := []arrow.Field{{Name: "prompt", Type: arrow.BinaryTypes.String}}
	for i, c := range textColumns {
		fields = append(fields, arrow.Field{Name: string(rune('a' + i)), Type: c.typ, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	f, err := os.Create(filepath.Join(t.TempDir(), "texts.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(schema))
	if err != nil {
		t.Fatal(err)
	}
	bad := make([][]bool, len(textColumns))       // by column and row
	values := make([][]string, len(textColumns))  // what they were
	wanted, reasons := []int64{}, map[int64]int{} // rows, and the first column at fault
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for row := range rows {
		b.Field(0).(*array.StringBuilder).Append("prompt")
		for i, c := range textColumns {
			is := c.draw(b.Field(i+1), r)
			bad[i] = append(bad[i], is)
			if _, known := reasons[int64(row)]; is && !known {
				wanted, reasons[int64(row)] = append(wanted, int64(row)), i
			}
		}
		if row%batch == batch-1 || row == rows-1 {
			rec := b.NewRecord()
			for i := range textColumns {
				for k := range int(rec.NumRows()) {
					values[i] = append(values[i], rec.Column(i+1).ValueStr(k))
				}
			}
			if err := w.Write(rec); err != nil {
				t.Fatal(err)
			}
			rec.Release()
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	set := open(t, Columns{Prompt: "prompt", CarryAll: true}, f.Name())
	for _, step := range []int64{rows, 50, 7, 1} {
		var got []int64
		for from := int64(0); from < rows; from += step {
			rec, set, err := set.Carry(context.Background(), 0, from, min(from+step, rows))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range set {
				got = append(got, e.Row)
				name := fields[reasons[e.Row]+1].Name
				if e.File != f.Name() || !strings.HasPrefix(e.Err.Error(), name+", which is to be carried, is not valid UTF-8") {
					t.Errorf("row %d, for column %s: %v", e.Row, name, e)
				}
			}
			for i := range textColumns {
				for k := range int(rec.NumRows()) {
					row := int(from) + k
					want := values[i][row]
					if bad[i][row] {
						want = array.NullValueStr
					}
					if a := rec.Column(i); a.ValueStr(k) != want {
						t.Fatalf("step %d, row %d, %v: %s, want %s", step, row, a.DataType(), a.ValueStr(k), want)
					}
				}
			}
			rec.Release()
		}
		if !slices.Equal(got, wanted) || len(wanted) < 50 || len(wanted) > rows-50 {
			t.Errorf("step %d: rows %v are bad, want %v", step, got, wanted)
		}
	}
}

// TestCarriedTextOfParquet is the same of a Parquet file, whose prompt is carried too.
func TestCarriedTextOfParquet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "texts.parquet")
	writeParquet(t, path, [][]byte{[]byte("good"), []byte("b\xe9d"), []byte("good too")}, 2, compress.Codecs.Zstd)
	set := open(t, Columns{Prompt: "prompt", Carry: []CarryColumn{{Name: "prompt", As: "was"}}}, path)
	rec, bad, err := set.Carry(context.Background(), 0, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	if len(bad) != 1 || bad[0].Row != 1 || rec.Column(0).NullN() != 1 || rec.Column(0).ValueStr(2) != "good too" {
		t.Errorf("%v, %v", bad, rec)
	}
}
