package dataset

import (
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// plainType is the type in which a column is read and carried: dictionaries, views, extensions and large lists, which are
// other ways to store the same values, become the plain ones; all else stays.
func plainType(typ arrow.DataType) (arrow.DataType, error) {
	switch t := typ.(type) {
	case *arrow.DictionaryType:
		if _, err := dictionaryTaker(t.ValueType); err != nil {
			return nil, err
		}
		return plainType(t.ValueType)
	case arrow.ExtensionType:
		return plainType(t.StorageType())
	case *arrow.StringViewType:
		return arrow.BinaryTypes.String, nil
	case *arrow.BinaryViewType:
		return arrow.BinaryTypes.Binary, nil
	case *arrow.ListType:
		return plainList(t.ElemField(), func(f arrow.Field) arrow.DataType { return arrow.ListOfField(f) })
	case *arrow.LargeListType:
		return plainList(t.ElemField(), func(f arrow.Field) arrow.DataType { return arrow.ListOfField(f) })
	case *arrow.FixedSizeListType:
		return plainList(t.ElemField(), func(f arrow.Field) arrow.DataType { return arrow.FixedSizeListOfField(t.Len(), f) })
	case *arrow.MapType:
		key, err := plainType(t.KeyType())
		if err != nil {
			return nil, err
		}
		item, err := plainType(t.ItemType())
		if err != nil {
			return nil, err
		}
		out := arrow.MapOf(key, item)
		out.KeysSorted = t.KeysSorted
		out.SetItemNullable(t.ItemField().Nullable)
		return out, nil
	case *arrow.StructType:
		fields := make([]arrow.Field, len(t.Fields()))
		for i, f := range t.Fields() {
			typ, err := plainType(f.Type)
			if err != nil {
				return nil, err
			}
			fields[i] = arrow.Field{Name: f.Name, Type: typ, Nullable: f.Nullable}
		}
		return arrow.StructOf(fields...), nil
	case arrow.UnionType, *arrow.RunEndEncodedType, *arrow.ListViewType, *arrow.LargeListViewType:
		return nil, fmt.Errorf("has the type %v, which is not read", typ)
	}
	return typ, nil
}

func plainList(elem arrow.Field, list func(arrow.Field) arrow.DataType) (arrow.DataType, error) {
	typ, err := plainType(elem.Type)
	if err != nil {
		return nil, err
	}
	return list(arrow.Field{Name: "item", Type: typ, Nullable: elem.Nullable}), nil
}

// taker builds the array of values[index[i]] for i in 0..n; an index below 0 stands for null.
type taker func(values arrow.Array, index []int64) (arrow.Array, error)

// dictionaryTaker returns how to look up values of a type.
func dictionaryTaker(typ arrow.DataType) (taker, error) {
	switch t := typ.(type) {
	case arrow.ExtensionType:
		return dictionaryTaker(t.StorageType())
	case *arrow.StringType, *arrow.BinaryType, *arrow.StringViewType, *arrow.BinaryViewType, *arrow.LargeStringType,
		*arrow.LargeBinaryType, *arrow.BooleanType:
		return takeByBuilder, nil
	case *arrow.NullType:
		return func(_ arrow.Array, index []int64) (arrow.Array, error) { return array.NewNull(len(index)), nil }, nil
	case arrow.FixedWidthDataType:
		if _, nested := typ.(arrow.NestedType); !nested && t.BitWidth()%8 == 0 && t.BitWidth() > 0 {
			return takeFixed, nil
		}
	}
	return nil, fmt.Errorf("is a dictionary of %v, which is not read", typ)
}

var errIndex = errors.New("has an index outside its dictionary")

func takeByBuilder(values arrow.Array, index []int64) (arrow.Array, error) {
	b := array.NewBuilder(memory.DefaultAllocator, values.DataType())
	defer b.Release()
	b.Reserve(len(index))
	for _, i := range index {
		if i < 0 {
			b.AppendNull()
			continue
		}
		if i >= int64(values.Len()) {
			return nil, errIndex
		}
		if values.IsNull(int(i)) {
			b.AppendNull()
			continue
		}
		switch v := values.(type) {
		case *array.String:
			b.(*array.StringBuilder).Append(v.Value(int(i)))
		case *array.LargeString:
			b.(*array.LargeStringBuilder).Append(v.Value(int(i)))
		case *array.Binary:
			b.(*array.BinaryBuilder).Append(v.Value(int(i)))
		case *array.LargeBinary:
			b.(*array.BinaryBuilder).Append(v.Value(int(i)))
		case *array.Boolean:
			b.(*array.BooleanBuilder).Append(v.Value(int(i)))
		default:
			return nil, fmt.Errorf("is a dictionary of %v, which is not read", values.DataType())
		}
	}
	return b.NewArray(), nil
}

func takeFixed(values arrow.Array, index []int64) (arrow.Array, error) {
	typ := values.DataType()
	width := typ.(arrow.FixedWidthDataType).BitWidth() / 8
	src := values.Data().Buffers()[1].Bytes()[values.Data().Offset()*width:]
	dst, valid := make([]byte, len(index)*width), make([]byte, bitutil.BytesForBits(int64(len(index))))
	nulls := 0
	for k, i := range index {
		if i >= int64(values.Len()) {
			return nil, errIndex
		}
		if i < 0 || values.IsNull(int(i)) {
			nulls++
			continue
		}
		bitutil.SetBit(valid, k)
		copy(dst[k*width:(k+1)*width], src[int(i)*width:])
	}
	buffers := []*memory.Buffer{memory.NewBufferBytes(valid), memory.NewBufferBytes(dst)}
	return array.MakeFromData(array.NewData(typ, len(index), buffers, nil, nulls, 0)), nil
}
