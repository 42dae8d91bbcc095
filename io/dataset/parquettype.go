package dataset

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
)

// node is one place of a Parquet column's tree with the Arrow type its values get. Levels are those of the Dremel
// encoding: a value is there if its definition level reaches that of its leaf, and goes on with a list if its repetition
// level is that list's.
type node struct {
	name     string
	typ      arrow.DataType
	nullable bool
	children []*node // of a struct; the one element of a list; key and value of a map

	def     int16 // from which this node is not null
	rep     int16 // list, map: of elements after the first
	elemDef int16 // list, map: from which there is an element

	room int // bytes that a null takes in an Arrow array, or more

	column int  // leaf: its index among the file's primitive columns, else -1
	leaf   leaf // leaf: set while a row group is read
}

// leaves calls visit for each primitive column below n.
func (n *node) leaves(visit func(*node) error) error {
	if n.column >= 0 {
		return visit(n)
	}
	for _, child := range n.children {
		if err := child.leaves(visit); err != nil {
			return err
		}
	}
	return nil
}

// first is the first primitive column below n: its levels tell of n.
func (n *node) first() *node {
	for n.column < 0 {
		n = n.children[0]
	}
	return n
}

// typer gives Arrow types to the columns of one file. Hints are the types that an Arrow writer stored: they decide
// between types that Parquet cannot tell apart, and are ignored where they contradict it.
type typer struct {
	schema *schema.Schema
	deep   int
}

const maxNesting = 32

// maxValue bounds the text of a row, and what one null takes: far above what a model could use.
const maxValue = 64 << 20

// atOnce is how many rows of a column are assembled at once, even if all are null.
func (n *node) atOnce() int { return min(max(batchBytes/n.room, 1), batchMost) }

// columnNode types the top-level column n. Dictionaries and views become plain: they are ways to store a value.
func (t *typer) columnNode(n schema.Node, hint arrow.DataType) (*node, error) {
	return t.node(n, hint, 0, 0)
}

func (t *typer) node(n schema.Node, hint arrow.DataType, def, rep int16) (*node, error) {
	if t.deep++; t.deep > maxNesting {
		return nil, fmt.Errorf("is nested deeper than %d", maxNesting)
	}
	defer func() { t.deep-- }()
	switch n.RepetitionType() {
	case parquet.Repetitions.Optional:
		out, err := t.required(n, hint, def+1, rep)
		if out != nil {
			out.nullable = true
		}
		return out, err
	case parquet.Repetitions.Repeated: // a bare repeated field is a list that is never null
		elem, err := t.required(n, elemOf(hint), def+1, rep+1)
		if err != nil {
			return nil, err
		}
		return listOf(n.Name(), elem, hint, def, rep+1, def+1), nil
	}
	return t.required(n, hint, def, rep)
}

// required types n as if it were required; def is the level from which it is there.
func (t *typer) required(n schema.Node, hint arrow.DataType, def, rep int16) (*node, error) {
	if ext, ok := hint.(arrow.ExtensionType); ok {
		hint = ext.StorageType()
	}
	group, ok := n.(*schema.GroupNode)
	if !ok {
		typ, err := primitiveType(n.(*schema.PrimitiveNode), hint)
		room := 8
		if fixed, ok := typ.(*arrow.FixedSizeBinaryType); ok {
			room = max(fixed.ByteWidth, room)
		}
		return &node{name: n.Name(), typ: typ, def: def, column: t.schema.ColumnIndexByNode(n), room: room}, err
	}
	switch group.LogicalType().(type) {
	case schema.ListLogicalType:
		return t.list(group, hint, def, rep)
	case schema.MapLogicalType:
		return t.mapping(group, hint, def, rep)
	}
	if group.ConvertedType() == schema.ConvertedTypes.MapKeyValue {
		return t.mapping(group, hint, def, rep)
	}
	if group.NumFields() == 0 {
		return nil, fmt.Errorf("has a group %q without fields", n.Name())
	}
	out := &node{name: n.Name(), def: def, column: -1}
	var fields []arrow.Field
	hints, _ := hint.(*arrow.StructType)
	for i := range group.NumFields() {
		var hint arrow.DataType
		if hints != nil {
			if f, ok := hints.FieldByName(group.Field(i).Name()); ok {
				hint = f.Type
			}
		}
		child, err := t.node(group.Field(i), hint, def, rep)
		if err != nil {
			return nil, err
		}
		out.children = append(out.children, child)
		out.room += child.room
		fields = append(fields, arrow.Field{Name: child.name, Type: child.typ, Nullable: child.nullable})
	}
	out.typ = arrow.StructOf(fields...)
	return out, nil
}

// list types a group annotated LIST, of the present form and of the older ones (Parquet's LogicalTypes.md).
func (t *typer) list(group *schema.GroupNode, hint arrow.DataType, def, rep int16) (*node, error) {
	if group.NumFields() != 1 || group.Field(0).RepetitionType() != parquet.Repetitions.Repeated {
		return nil, fmt.Errorf("has a list %q that is not made of one repeated field", group.Name())
	}
	repeated := group.Field(0)
	inner, isGroup := repeated.(*schema.GroupNode)
	var elem *node
	var err error
	if isGroup && inner.NumFields() == 1 && repeated.Name() != "array" && repeated.Name() != group.Name()+"_tuple" {
		elem, err = t.node(inner.Field(0), elemOf(hint), def+1, rep+1)
	} else {
		elem, err = t.required(repeated, elemOf(hint), def+1, rep+1)
	}
	if err != nil {
		return nil, err
	}
	return listOf(group.Name(), elem, hint, def, rep+1, def+1), nil
}

func listOf(name string, elem *node, hint arrow.DataType, def, rep, elemDef int16) *node {
	field := arrow.Field{Name: "item", Type: elem.typ, Nullable: elem.nullable}
	out := &node{name: name, def: def, rep: rep, elemDef: elemDef, children: []*node{elem}, column: -1, typ: arrow.ListOfField(field), room: 8}
	if fixed, ok := hint.(*arrow.FixedSizeListType); ok && fixed.Len() > 0 && int64(fixed.Len())*int64(elem.room) <= maxValue {
		out.typ, out.room = arrow.FixedSizeListOfField(fixed.Len(), field), int(fixed.Len())*elem.room
	}
	return out
}

func elemOf(hint arrow.DataType) arrow.DataType {
	if list, ok := hint.(arrow.ListLikeType); ok {
		return list.Elem()
	}
	return nil
}

// mapping types a group annotated MAP: one repeated group of a key and a value.
func (t *typer) mapping(group *schema.GroupNode, hint arrow.DataType, def, rep int16) (*node, error) {
	var entries *schema.GroupNode
	if group.NumFields() == 1 && group.Field(0).RepetitionType() == parquet.Repetitions.Repeated {
		entries, _ = group.Field(0).(*schema.GroupNode)
	}
	if entries == nil || entries.NumFields() != 2 {
		return nil, fmt.Errorf("has a map %q that is not made of repeated keys and values", group.Name())
	}
	var keyHint, valueHint arrow.DataType
	if m, ok := hint.(*arrow.MapType); ok {
		keyHint, valueHint = m.KeyType(), m.ItemType()
	}
	key, err := t.node(entries.Field(0), keyHint, def+1, rep+1)
	if err != nil {
		return nil, err
	}
	value, err := t.node(entries.Field(1), valueHint, def+1, rep+1)
	if err != nil {
		return nil, err
	}
	typ := arrow.MapOf(key.typ, value.typ)
	typ.SetItemNullable(value.nullable)
	return &node{name: group.Name(), def: def, rep: rep + 1, elemDef: def + 1, children: []*node{key, value},
		column: -1, typ: typ, room: 8}, nil
}

func primitiveType(n *schema.PrimitiveNode, hint arrow.DataType) (arrow.DataType, error) {
	if dict, ok := hint.(*arrow.DictionaryType); ok {
		hint = dict.ValueType
	}
	switch logical := n.LogicalType().(type) {
	case schema.NullLogicalType, schema.UnknownLogicalType:
		return arrow.Null, nil
	case schema.DecimalLogicalType:
		if logical.Precision() < 1 || logical.Precision() > 76 || logical.Scale() < 0 || logical.Scale() > logical.Precision() {
			return nil, fmt.Errorf("has an impossible %v", logical)
		}
		if logical.Precision() <= 38 {
			return &arrow.Decimal128Type{Precision: logical.Precision(), Scale: logical.Scale()}, nil
		}
		return &arrow.Decimal256Type{Precision: logical.Precision(), Scale: logical.Scale()}, nil
	}
	switch n.PhysicalType() {
	case parquet.Types.Boolean:
		return arrow.FixedWidthTypes.Boolean, nil
	case parquet.Types.Float:
		return arrow.PrimitiveTypes.Float32, nil
	case parquet.Types.Double:
		return arrow.PrimitiveTypes.Float64, nil
	case parquet.Types.Int32:
		return int32Type(n.LogicalType()), nil
	case parquet.Types.Int64:
		return int64Type(n.LogicalType(), hint), nil
	case parquet.Types.Int96:
		return &arrow.TimestampType{Unit: arrow.Nanosecond}, nil
	case parquet.Types.ByteArray:
		return bytesType(n.LogicalType(), hint), nil
	case parquet.Types.FixedLenByteArray:
		if _, ok := n.LogicalType().(schema.Float16LogicalType); ok && n.TypeLength() == 2 {
			return arrow.FixedWidthTypes.Float16, nil
		}
		if n.TypeLength() < 0 || n.TypeLength() > maxValue {
			return nil, fmt.Errorf("has values of %d bytes; none of more than %d is read", n.TypeLength(), maxValue)
		}
		return &arrow.FixedSizeBinaryType{ByteWidth: n.TypeLength()}, nil
	}
	return nil, fmt.Errorf("has the physical type %v, which is unknown", n.PhysicalType())
}

func int32Type(logical schema.LogicalType) arrow.DataType {
	switch logical := logical.(type) {
	case schema.IntLogicalType:
		signed := map[int8]arrow.DataType{8: arrow.PrimitiveTypes.Int8, 16: arrow.PrimitiveTypes.Int16}
		unsigned := map[int8]arrow.DataType{8: arrow.PrimitiveTypes.Uint8, 16: arrow.PrimitiveTypes.Uint16,
			32: arrow.PrimitiveTypes.Uint32}
		if t := signed[logical.BitWidth()]; t != nil && logical.IsSigned() {
			return t
		}
		if t := unsigned[logical.BitWidth()]; t != nil && !logical.IsSigned() {
			return t
		}
	case schema.DateLogicalType:
		return arrow.FixedWidthTypes.Date32
	case schema.TimeLogicalType:
		return arrow.FixedWidthTypes.Time32ms
	}
	return arrow.PrimitiveTypes.Int32
}

func int64Type(logical schema.LogicalType, hint arrow.DataType) arrow.DataType {
	unit := func(t schema.TimeUnitType) arrow.TimeUnit {
		return map[schema.TimeUnitType]arrow.TimeUnit{schema.TimeUnitMillis: arrow.Millisecond,
			schema.TimeUnitMicros: arrow.Microsecond, schema.TimeUnitNanos: arrow.Nanosecond}[t]
	}
	switch logical := logical.(type) {
	case schema.IntLogicalType:
		if !logical.IsSigned() {
			return arrow.PrimitiveTypes.Uint64
		}
	case schema.TimeLogicalType:
		return &arrow.Time64Type{Unit: unit(logical.TimeUnit())}
	case schema.TimestampLogicalType:
		typ := &arrow.TimestampType{Unit: unit(logical.TimeUnit())}
		if logical.IsAdjustedToUTC() {
			typ.TimeZone = "UTC"
			if h, ok := hint.(*arrow.TimestampType); ok && h.TimeZone != "" {
				typ.TimeZone = h.TimeZone
			}
		}
		return typ
	}
	if h, ok := hint.(*arrow.DurationType); ok {
		return h
	}
	return arrow.PrimitiveTypes.Int64
}

func bytesType(logical schema.LogicalType, hint arrow.DataType) arrow.DataType {
	text := false
	switch logical.(type) {
	case schema.StringLogicalType, schema.EnumLogicalType, schema.JSONLogicalType:
		text = true
	}
	switch hint.(type) {
	case *arrow.LargeStringType:
		if text {
			return arrow.BinaryTypes.LargeString
		}
	case *arrow.LargeBinaryType:
		if !text {
			return arrow.BinaryTypes.LargeBinary
		}
	}
	if text {
		return arrow.BinaryTypes.String
	}
	return arrow.BinaryTypes.Binary
}

// storedSchema is the Arrow schema that an Arrow writer put into the footer, nil without one or when it cannot be read:
// it is only a hint.
func storedSchema(meta *metadata.FileMetaData) (s *arrow.Schema) {
	defer func() {
		if recover() != nil {
			s = nil
		}
	}()
	stored := meta.KeyValueMetadata().FindValue("ARROW:schema")
	if stored == nil {
		return nil
	}
	message, err := base64.StdEncoding.DecodeString(*stored)
	if err != nil || checkMessage(message) != nil {
		return nil
	}
	r, err := ipc.NewReader(bytes.NewReader(message))
	if err != nil {
		return nil
	}
	defer r.Release()
	return r.Schema()
}
