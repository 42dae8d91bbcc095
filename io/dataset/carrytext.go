package dataset

import (
	"fmt"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// The texts of Parquet and Arrow files are UTF-8 by their word only, and readers of an output may refuse a whole file for
// one byte that is not. So a carried value with such a text, at any depth, is not carried, and its row is set aside.

// withoutBadText is the record with null for the values that hold a text that is not UTF-8, and why, by row. The record
// given is released where it is not what is returned.
func withoutBadText(r arrow.Record) (arrow.Record, map[int]error) {
	var reasons map[int]error
	columns := r.Columns()
	for i, column := range columns {
		bad := badTexts(column)
		if len(bad) == 0 {
			continue
		}
		if reasons == nil {
			reasons, columns = map[int]error{}, append([]arrow.Array(nil), columns...)
		}
		for _, row := range bad {
			if reasons[row] == nil {
				reasons[row] = fmt.Errorf("%s, which is to be carried, %w, or write the column as binary", r.ColumnName(i), errUTF8)
			}
		}
		columns[i] = withNulls(column, bad)
		defer columns[i].Release()
	}
	if reasons == nil {
		return r, nil
	}
	defer r.Release()
	return array.NewRecord(r.Schema(), columns, r.NumRows()), reasons
}

// badTexts lists the values that are or hold a text that is not UTF-8, ascending.
func badTexts(a arrow.Array) (bad []int) {
	switch a := a.(type) {
	case *array.String:
		return badAmong(a, a.Value)
	case *array.LargeString:
		return badAmong(a, a.Value)
	case array.ExtensionArray:
		return badTexts(a.Storage())
	case *array.Struct:
		holds := make([]bool, a.Len())
		for f := range a.NumField() {
			for _, i := range badTexts(a.Field(f)) {
				holds[i] = true
			}
		}
		for i, is := range holds {
			if is && a.IsValid(i) {
				bad = append(bad, i)
			}
		}
	case array.ListLike:
		if a.Len() == 0 {
			return nil
		}
		begin, _ := a.ValueOffsets(0)
		_, end := a.ValueOffsets(a.Len() - 1)
		values := array.NewSlice(a.ListValues(), begin, end)
		defer values.Release()
		inside := badTexts(values)
		for i := 0; i < a.Len() && len(inside) > 0; i++ {
			_, to := a.ValueOffsets(i)
			before := len(inside)
			for len(inside) > 0 && int64(inside[0]) < to-begin {
				inside = inside[1:]
			}
			if len(inside) < before && a.IsValid(i) {
				bad = append(bad, i)
			}
		}
	}
	return bad
}

func badAmong(a arrow.Array, value func(int) string) (bad []int) {
	for i := range a.Len() {
		if a.IsValid(i) && !utf8.ValidString(value(i)) {
			bad = append(bad, i)
		}
	}
	return bad
}

// withNulls is an array with null for some of its values; the others lie where they lay.
func withNulls(a arrow.Array, null []int) arrow.Array {
	data := a.Data()
	valid := memory.NewResizableBuffer(memory.DefaultAllocator)
	defer valid.Release()
	valid.Resize(int(bitutil.BytesForBits(int64(data.Offset() + data.Len()))))
	for i := range a.Len() {
		bitutil.SetBitTo(valid.Bytes(), data.Offset()+i, a.IsValid(i))
	}
	for _, i := range null {
		bitutil.ClearBit(valid.Bytes(), data.Offset()+i)
	}
	buffers := append([]*memory.Buffer{valid}, data.Buffers()[1:]...)
	changed := array.NewData(data.DataType(), data.Len(), buffers, data.Children(), array.UnknownNullCount, data.Offset())
	defer changed.Release()
	return array.MakeFromData(changed)
}
