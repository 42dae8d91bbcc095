package dataset

import (
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// carryPlan says how a file's columns become the carried ones.
type carryPlan struct {
	from   []int // for each carried field: the file's column, -1 where it has none
	schema *arrow.Schema
}

// record casts a file's columns, one for each carried field, to the types of the data set.
func (p *carryPlan) record(arrays []arrow.Array, rows int64) (rec arrow.Record, err error) {
	defer guard(&err)
	defer func() {
		for _, a := range arrays {
			a.Release()
		}
	}()
	out := make([]arrow.Array, len(arrays))
	for i, a := range arrays {
		if out[i], err = cast(a, p.schema.Field(i).Type); err != nil {
			return nil, fmt.Errorf("column %s %w", p.schema.Field(i).Name, err)
		}
	}
	return array.NewRecord(p.schema, out, rows), nil
}

// carried lists the fields that go through, the same for all files, and how each file gives them.
func carried(paths []string, files [][]column, columns Columns, names [roles]string) (*arrow.Schema, []*carryPlan, error) {
	wanted := slices.Clone(columns.Carry)
	if columns.CarryAll {
		wanted = append(wanted, others(files, columns, names)...)
	}
	plans := make([]*carryPlan, len(files))
	for f := range files {
		plans[f] = &carryPlan{from: make([]int, len(wanted))}
	}
	fields := make([]arrow.Field, len(wanted))
	for i, w := range wanted {
		typ, from := arrow.DataType(arrow.Null), ""
		for f, cols := range files {
			at := find(cols, w.Name)
			plans[f].from[i] = at
			if at < 0 {
				if i < len(columns.Carry) && len(cols) > 0 { // a file without any has no row to carry
					return nil, nil, missingColumn(paths[f], w.Name, cols, "--carry")
				}
				continue
			}
			if find(cols[at+1:], w.Name) >= 0 {
				return nil, nil, twiceColumn(paths[f], w.Name)
			}
			if err := cols[at].err; err != nil {
				return nil, nil, refuse(ErrColumn, "%s: column %s %v; carry other columns by name", paths[f], w.Name, err)
			}
			both, ok := unify(typ, cols[at].Type)
			if !ok {
				return nil, nil, refuse(ErrColumn, "%s: column %s has the type %v, but %v in %s; convert one, or carry other columns", paths[f], w.Name, cols[at].Type, typ, from)
			}
			typ = both
			if from == "" {
				from = paths[f]
			}
		}
		if typ.ID() == arrow.NULL {
			typ = arrow.BinaryTypes.String // nothing but nulls: any type holds them, and not every writer has that of nulls
		}
		fields[i] = arrow.Field{Name: w.as(), Type: typ, Nullable: true}
	}
	schema := arrow.NewSchema(fields, nil)
	for f := range plans {
		plans[f].schema = schema
	}
	return schema, plans, nil
}

// others lists the columns that have no use yet, in the order in which the files show them.
func others(files [][]column, columns Columns, names [roles]string) (out []CarryColumn) {
	used := map[string]bool{}
	for _, n := range names {
		used[n] = true
	}
	for _, c := range columns.Carry {
		used[c.Name] = true
	}
	for _, cols := range files {
		for _, c := range cols {
			if !used[c.Name] {
				used[c.Name] = true
				out = append(out, CarryColumn{Name: c.Name})
			}
		}
	}
	return out
}

// bytesOf is about what the rows of an array take, of buffers that may hold others too.
func bytesOf(a arrow.Array) (n int64) {
	switch a := a.(type) {
	case interface{ ValueBytes() []byte }: // texts and binaries
		return int64(len(a.ValueBytes())) + 8*int64(a.(arrow.Array).Len())
	case array.ListLike:
		if a.Len() == 0 {
			return 0
		}
		from, _ := a.ValueOffsets(0)
		_, to := a.ValueOffsets(a.Len() - 1)
		part := array.NewSlice(a.ListValues(), from, to)
		defer part.Release()
		return bytesOf(part) + 8*int64(a.Len())
	case *array.Struct:
		for i := range a.NumField() {
			n += bytesOf(a.Field(i))
		}
		return n
	case *array.FixedSizeBinary:
		return int64(a.Len()) * int64(a.DataType().(*arrow.FixedSizeBinaryType).ByteWidth)
	}
	return 8 * int64(a.Len())
}

// widths of integers, by kind and bytes.
var (
	signed = []arrow.DataType{arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int32,
		arrow.PrimitiveTypes.Int64}
	unsigned = []arrow.DataType{arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint16, arrow.PrimitiveTypes.Uint32,
		arrow.PrimitiveTypes.Uint64}
	floats = []arrow.DataType{arrow.FixedWidthTypes.Float16, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64}
)

// unify is the type that holds the values of both, if there is one: the wider integer or float, the larger text.
func unify(a, b arrow.DataType) (arrow.DataType, bool) {
	switch {
	case arrow.TypeEqual(a, b) || b.ID() == arrow.NULL:
		return a, true
	case a.ID() == arrow.NULL:
		return b, true
	}
	rank := func(list []arrow.DataType, t arrow.DataType) int {
		return slices.IndexFunc(list, func(x arrow.DataType) bool { return x.ID() == t.ID() })
	}
	for _, list := range [][]arrow.DataType{signed, unsigned, floats} {
		if i, j := rank(list, a), rank(list, b); i >= 0 && j >= 0 {
			return list[max(i, j)], true
		}
	}
	if rank(signed, a) < 0 {
		a, b = b, a
	}
	if i, j := rank(signed, a), rank(unsigned, b); i >= 0 && j >= 0 && j < 3 {
		return signed[max(i, j+1)], true
	}
	if (rank(signed, a) >= 0 || rank(unsigned, a) >= 0) && rank(floats, b) >= 0 || (rank(unsigned, b) >= 0 && rank(floats, a) >= 0) {
		return arrow.PrimitiveTypes.Float64, true // refused by cast where a number would change
	}
	for _, pair := range [][2]arrow.DataType{{arrow.BinaryTypes.String, arrow.BinaryTypes.LargeString}, {arrow.BinaryTypes.Binary, arrow.BinaryTypes.LargeBinary}} {
		if a.ID() == pair[0].ID() && b.ID() == pair[1].ID() || a.ID() == pair[1].ID() && b.ID() == pair[0].ID() {
			return pair[1], true
		}
	}
	return nil, false
}

// cast changes an array to a type that unify gave for its own.
func cast(a arrow.Array, typ arrow.DataType) (arrow.Array, error) {
	if arrow.TypeEqual(a.DataType(), typ) {
		a.Retain()
		return a, nil
	}
	b := array.NewBuilder(memory.DefaultAllocator, typ)
	defer b.Release()
	b.Reserve(a.Len())
	for i := range a.Len() {
		if a.DataType().ID() == arrow.NULL || a.IsNull(i) {
			b.AppendNull()
			continue
		}
		if err := castValue(b, a, i); err != nil {
			return nil, err
		}
	}
	return b.NewArray(), nil
}

// castValue appends a[i], which is not null, as b's type; unify has seen to it that nothing but a large integer gets lost.
func castValue(b array.Builder, a arrow.Array, i int) error {
	n, whole := integer(a, i)
	x, exact := number(a, i)
	switch b := b.(type) {
	case *array.Int64Builder:
		b.Append(n)
	case *array.Int32Builder:
		b.Append(int32(n))
	case *array.Int16Builder:
		b.Append(int16(n))
	case *array.Uint64Builder:
		b.Append(uint64(n))
	case *array.Uint32Builder:
		b.Append(uint32(n))
	case *array.Uint16Builder:
		b.Append(uint16(n))
	case *array.Float32Builder:
		b.Append(float32(x))
	case *array.Float64Builder:
		if !exact || whole && (n > 1<<53 || n < -1<<53) {
			return errors.New("has integers in one file and floats in another, and an integer that no float holds; convert it")
		}
		b.Append(x)
	case *array.LargeStringBuilder:
		b.Append(a.(*array.String).Value(i))
	case *array.BinaryBuilder:
		b.Append(a.(*array.Binary).Value(i))
	default:
		return fmt.Errorf("has the type %v, which does not become %v", a.DataType(), b.Type())
	}
	return nil
}
