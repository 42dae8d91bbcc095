package results

import (
	"encoding/base64"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// What the Parquet writer of arrow-go 18.8 does not take, or takes wrongly, is brought into a form that it does:
//
//	duration                                      int64; Parquet has none
//	large list, fixed-size list                   list; slices of the latter are written from their buffer's start
//	a null list that still spans some elements    an empty span, also where a parent is null
//	a dictionary with a null entry                a null in its place
//	an extension type                             what it is stored as
//
// The footer keeps the columns' own types under arrowSchemaKey, from which readers such as pyarrow restore them.

const arrowSchemaKey = "ARROW:schema"

// physicalSchema is schema in the types that are written.
func physicalSchema(schema *arrow.Schema) *arrow.Schema {
	fields := make([]arrow.Field, schema.NumFields())
	for i, f := range schema.Fields() {
		fields[i] = physicalField(f)
	}
	original := base64.StdEncoding.EncodeToString(flight.SerializeSchema(schema, memory.DefaultAllocator))
	metadata := arrow.NewMetadata([]string{arrowSchemaKey}, []string{original})
	return arrow.NewSchema(fields, &metadata)
}

func physicalField(f arrow.Field) arrow.Field {
	f.Type = physicalType(f.Type)
	return f
}

func physicalType(t arrow.DataType) arrow.DataType {
	switch t := t.(type) {
	case *arrow.DurationType:
		return arrow.PrimitiveTypes.Int64
	case *arrow.MapType:
		return arrow.MapOfFields(physicalField(t.KeyField()), physicalField(t.ItemField()))
	case *arrow.ListType:
		return arrow.ListOfField(physicalField(t.ElemField()))
	case *arrow.LargeListType:
		return arrow.ListOfField(physicalField(t.ElemField()))
	case *arrow.FixedSizeListType:
		return arrow.ListOfField(physicalField(t.ElemField()))
	case *arrow.StructType:
		fields := make([]arrow.Field, t.NumFields())
		for i, f := range t.Fields() {
			fields[i] = physicalField(f)
		}
		return arrow.StructOf(fields...)
	case arrow.ExtensionType:
		return physicalType(t.StorageType())
	}
	return t
}

// physical is a in its physicalType. live tells which values have no null parent; nil: all.
func physical(a arrow.Array, live func(i int) bool) arrow.Array {
	switch a := a.(type) {
	case *array.Duration:
		return array.MakeFromData(array.NewData(arrow.PrimitiveTypes.Int64, a.Len(), a.Data().Buffers(), nil,
			a.NullN(), a.Data().Offset()))
	case *array.Dictionary:
		return physicalDictionary(a)
	case array.ListLike:
		return physicalList(a, live)
	case *array.Struct:
		return physicalStruct(a, live)
	case array.ExtensionArray:
		return physical(a.Storage(), live)
	}
	return a
}

// physicalList copies offsets and nulls, and the elements only where there are gaps between those of two lists.
func physicalList(a array.ListLike, live func(i int) bool) arrow.Array {
	offsets := make([]int32, 1, a.Len()+1)
	var runs [][2]int64 // of elements
	valid, nulls := bitmap(a.Len(), func(i int) bool {
		end := offsets[len(offsets)-1]
		if a.IsNull(i) || live != nil && !live(i) {
			offsets = append(offsets, end)
			return false
		}
		from, to := a.ValueOffsets(i)
		offsets = append(offsets, end+int32(to-from))
		switch last := len(runs) - 1; {
		case from == to:
		case last >= 0 && runs[last][1] == from:
			runs[last][1] = to
		default:
			runs = append(runs, [2]int64{from, to})
		}
		return true
	})
	if runs == nil {
		runs = [][2]int64{{0, 0}}
	}
	pieces := make([]arrow.Array, len(runs))
	for i, r := range runs {
		pieces[i] = array.NewSlice(a.ListValues(), r[0], r[1])
	}
	elements := pieces[0]
	if len(pieces) > 1 {
		var err error
		if elements, err = array.Concatenate(pieces, memory.DefaultAllocator); err != nil {
			panic(err) // arrays of one type; guard makes an error of it
		}
	}
	buffers := []*memory.Buffer{valid, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets))}
	children := []arrow.ArrayData{physical(elements, nil).Data()}
	return array.MakeFromData(array.NewData(physicalType(a.DataType()), a.Len(), buffers, children, nulls, 0))
}

func physicalStruct(a *array.Struct, live func(i int) bool) arrow.Array {
	alive := func(i int) bool { return a.IsValid(i) && (live == nil || live(i)) }
	children := make([]arrow.ArrayData, a.NumField())
	for f := range children {
		children[f] = physical(a.Field(f), alive).Data()
	}
	valid, nulls := bitmap(a.Len(), alive)
	return array.MakeFromData(array.NewData(physicalType(a.DataType()), a.Len(), []*memory.Buffer{valid}, children, nulls, 0))
}

func physicalDictionary(a *array.Dictionary) arrow.Array {
	entries := a.Dictionary()
	if entries.NullN() == 0 {
		return a
	}
	valid, nulls := bitmap(a.Len(), func(i int) bool { return a.IsValid(i) && entries.IsValid(a.GetValueIndex(i)) })
	if offset := a.Data().Offset(); offset > 0 { // the indices are a slice of their buffer, so the nulls have to be, too
		shifted := make([]byte, bitutil.BytesForBits(int64(offset+a.Len())))
		bitutil.CopyBitmap(valid.Bytes(), 0, a.Len(), shifted, offset)
		valid = memory.NewBufferBytes(shifted)
	}
	from := entries.Data()
	buffers := append([]*memory.Buffer{nil}, from.Buffers()[1:]...) // no entry is null any more, nor used where it was
	whole := array.NewData(from.DataType(), from.Len(), buffers, from.Children(), 0, from.Offset())
	buffers = []*memory.Buffer{valid, a.Data().Buffers()[1]}
	return array.MakeFromData(array.NewDataWithDictionary(a.DataType(), a.Len(), buffers, nulls, a.Data().Offset(), whole))
}

// bitmap has a bit for each of n values, and counts those that are not valid.
func bitmap(n int, valid func(i int) bool) (bits *memory.Buffer, nulls int) {
	b := make([]byte, bitutil.BytesForBits(int64(n)))
	for i := range n {
		if valid(i) {
			bitutil.SetBit(b, i)
		} else {
			nulls++
		}
	}
	return memory.NewBufferBytes(b), nulls
}
