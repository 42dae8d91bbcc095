package results

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	v15 "github.com/apache/arrow/go/v15/arrow"
	ipc15 "github.com/apache/arrow/go/v15/arrow/ipc"
)

// Why two Arrows: callers speak v15, but its Parquet reader panics on damaged pages in goroutines of its own, and a
// binary cannot hold both Parquet packages (the assembly of each defines clib·_memcpy). So Parquet is v18's, which is
// also twice as fast, and arrays cross over without a copy: the memory format is the same.

// adoptSchema is a v15 schema in v18's types, by way of Arrow's own serialization.
func adoptSchema(schema *v15.Schema) (*arrow.Schema, error) {
	var message bytes.Buffer
	if err := ipc15.NewWriter(&message, ipc15.WithSchema(schema)).Close(); err != nil {
		return nil, err
	}
	r, err := ipc.NewReader(&message)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	return r.Schema(), nil
}

// adopt is a v15 array as a v18 array of the same type, sharing its memory. It must not outlive a.
func adopt(a v15.Array, typ arrow.DataType) arrow.Array {
	data := adoptData(a.Data(), typ)
	defer data.Release()
	return array.MakeFromData(data)
}

func adoptData(from v15.ArrayData, typ arrow.DataType) *array.Data {
	buffers := make([]*memory.Buffer, len(from.Buffers()))
	for i, b := range from.Buffers() {
		if b != nil {
			buffers[i] = memory.NewBufferBytes(b.Bytes())
		}
	}
	if dictionary, ok := typ.(*arrow.DictionaryType); ok {
		values := adoptData(from.Dictionary(), dictionary.ValueType)
		defer values.Release()
		return array.NewDataWithDictionary(typ, from.Len(), buffers, from.NullN(), from.Offset(), values)
	}
	children := make([]arrow.ArrayData, len(from.Children()))
	for i, child := range from.Children() {
		children[i] = adoptData(child, typ.(arrow.NestedType).Fields()[i].Type)
	}
	return array.NewData(typ, from.Len(), buffers, children, from.NullN(), from.Offset())
}

// storable says whether Parquet can hold every carried column.
func (l Layout) storable() error {
	for _, f := range l.Carry {
		schema, err := adoptSchema(v15.NewSchema([]v15.Field{f}, nil))
		if err == nil {
			err = guard(func() error { return checkStorable(schema) })
		}
		if err != nil {
			return fmt.Errorf("carried column %q of type %s cannot be stored in Parquet (%w); leave it out of --carry", f.Name, f.Type, err)
		}
	}
	return nil
}

var errLibrary = errors.New("the Parquet library gave up")

// guard turns a panic of the Parquet library into an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errLibrary, p)
		}
	}()
	return f()
}
