package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/pierrec/lz4/v4"
)

// batchLoader turns the body of one record batch or dictionary into v15 arrays of plain types. It walks nodes and buffers
// in the order of the schema; those of unwanted columns are passed over unread. Every array it returns has been checked:
// buffers as long as the array needs, offsets ascending inside their data.
type batchLoader struct {
	r        ipcReader
	m        ipcMessage
	inflater *inflater
	dicts    map[int64]arrow.Array // plain values by id

	nodes, buffers, views []int64 // pairs: length and nulls; pairs: place in the body and length; buffers of each view
	codec                 int     // of bodies: -1 none, 0 LZ4 frame, 1 zstd
}

var errShort = errors.New("has a buffer shorter than its rows need")

// batch starts on a RecordBatch table, the header of a batch or the inside of a dictionary.
func (l *batchLoader) batch(t table) error {
	l.nodes, l.buffers, l.views = t.ints(1, 2), t.ints(2, 2), t.ints(4, 1)
	l.codec = -1
	if c := t.table(3); c.at != 0 {
		l.codec = int(c.uint8(0))
		if l.codec > 1 || c.uint8(1) != 0 {
			return unread(fmt.Sprintf("is compressed with codec %d, which is not read", l.codec))
		}
	}
	if t.f.bad {
		return errFlat
	}
	return nil
}

// node is the length of the next array, and whether it has nulls.
func (l *batchLoader) node() (n int, nulls bool, err error) {
	if len(l.nodes) < 2 {
		return 0, false, errors.New("has fewer arrays than its schema")
	}
	length, count := l.nodes[0], l.nodes[1]
	l.nodes = l.nodes[2:]
	if length < 0 || length > 1<<31-1 || count < 0 || count > length {
		return 0, false, fmt.Errorf("claims %d values and %d nulls", length, count)
	}
	return int(length), count > 0, nil
}

// buffer reads the next buffer, which must have at least least bytes.
func (l *batchLoader) buffer(least int64) ([]byte, error) {
	at, n, err := l.place()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := l.r.ReadAt(b, l.m.body+at); err != nil {
		return nil, err
	}
	if l.codec >= 0 && n > 0 {
		if b, err = l.inflate(b); err != nil {
			return nil, err
		}
	}
	if int64(len(b)) < least {
		return nil, errShort
	}
	return b, nil
}

func (l *batchLoader) place() (at, n int64, err error) {
	if len(l.buffers) < 2 {
		return 0, 0, errors.New("has fewer buffers than its schema")
	}
	at, n = l.buffers[0], l.buffers[1]
	l.buffers = l.buffers[2:]
	if at < 0 || n < 0 || at > l.m.bodySize || n > l.m.bodySize-at {
		return 0, 0, fmt.Errorf("claims bytes %d to %d of a body of %d", at, at+n, l.m.bodySize)
	}
	return at, n, nil
}

// inflate decompresses a buffer: its size as a 64-bit number, then the data; -1 marks data that was left as it is.
func (l *batchLoader) inflate(b []byte) (out []byte, err error) {
	defer guard(&err)
	if len(b) < 8 {
		return nil, errShort
	}
	want := int64(binary.LittleEndian.Uint64(b))
	b = b[8:]
	switch {
	case want == -1:
		return b, nil
	case want < 0 || want > maxBlock:
		return nil, fmt.Errorf("claims %d bytes in a buffer; none larger than %d is read", want, maxBlock)
	case l.codec == 0:
		return drain(lz4.NewReader(bytes.NewReader(b)), nil, int(want))
	}
	out, err = l.inflater.zstdBlock(nil, b, int(want))
	if err == nil && int64(len(out)) != want {
		err = errSize
	}
	return out, err
}

// validity reads the next array's bitmap, nil where all values are there.
func (l *batchLoader) validity(n int, nulls bool) (*memory.Buffer, int, error) {
	if !nulls {
		_, _, err := l.place()
		return nil, 0, err
	}
	b, err := l.buffer(bitutil.BytesForBits(int64(n)))
	return memory.NewBufferBytes(b), array.UnknownNullCount, err
}

// array loads the next array.
func (l *batchLoader) array(f *ipcField, typ arrow.DataType) (arrow.Array, error) {
	switch t := typ.(type) {
	case *arrow.DictionaryType:
		return l.dictionary(f, t)
	case arrow.ExtensionType:
		return l.array(f, t.StorageType())
	case *arrow.NullType:
		n, _, err := l.node()
		if err != nil {
			return nil, err
		}
		return array.NewNull(n), nil
	}
	n, nulls, err := l.node()
	if err != nil {
		return nil, err
	}
	valid, count, err := l.validity(n, nulls)
	if err != nil {
		return nil, err
	}
	plain, err := plainType(typ)
	if err != nil {
		return nil, err
	}
	if t, ok := typ.(arrow.BinaryViewDataType); ok {
		return l.view(n, valid, t)
	}
	buffers, children, err := l.content(f, typ, n)
	if err != nil {
		return nil, err
	}
	return array.MakeFromData(array.NewData(plain, n, append([]*memory.Buffer{valid}, buffers...), children, count, 0)), nil
}

// content loads what an array of n values has beside its bitmap: its buffers, and the arrays inside it.
func (l *batchLoader) content(f *ipcField, typ arrow.DataType, n int) (buffers []*memory.Buffer, inside []arrow.ArrayData, err error) {
	switch t := typ.(type) {
	case *arrow.StringType, *arrow.BinaryType:
		offsets, data, err := l.texts(n, 4)
		if err != nil {
			return nil, nil, err
		}
		return []*memory.Buffer{bytes32(offsets), data}, nil, nil
	case *arrow.LargeStringType, *arrow.LargeBinaryType:
		offsets, data, err := l.texts(n, 8)
		if err != nil {
			return nil, nil, err
		}
		return []*memory.Buffer{memory.NewBufferBytes(arrow.Int64Traits.CastToBytes(offsets)), data}, nil, nil
	case *arrow.ListType, *arrow.LargeListType, *arrow.MapType:
		width := 4
		if t.ID() == arrow.LARGE_LIST {
			width = 8
		}
		offsets, err := l.offsets(n, width)
		if err != nil {
			return nil, nil, err
		}
		end := last(offsets)
		child, err := l.child(f.children[0], func(values int64) bool { return end <= values && end <= math.MaxInt32 })
		return []*memory.Buffer{bytes32(offsets)}, []arrow.ArrayData{child}, err
	case *arrow.FixedSizeListType:
		child, err := l.child(f.children[0], func(values int64) bool { return int64(n)*int64(t.Len()) <= values })
		return nil, []arrow.ArrayData{child}, err
	case *arrow.StructType:
		for _, c := range f.children {
			child, err := l.child(c, func(values int64) bool { return values == int64(n) })
			if err != nil {
				return nil, nil, err
			}
			inside = append(inside, child)
		}
		return nil, inside, nil
	case arrow.FixedWidthDataType:
		data, err := l.buffer((int64(n)*int64(t.BitWidth()) + 7) / 8)
		if err != nil {
			return nil, nil, err
		}
		return []*memory.Buffer{memory.NewBufferBytes(data)}, nil, nil
	}
	return nil, nil, fmt.Errorf("has the type %v, which is not read", typ)
}

// child loads an array inside another one, which needs so many values of it.
func (l *batchLoader) child(f *ipcField, enough func(values int64) bool) (arrow.ArrayData, error) {
	a, err := l.array(f, f.typ)
	if err != nil {
		return nil, err
	}
	if !enough(int64(a.Len())) {
		return nil, errShort
	}
	return a.Data(), nil
}

// texts reads n+1 offsets of a width, and the bytes that they cut into n texts.
func (l *batchLoader) texts(n, width int) (offsets []int64, data *memory.Buffer, err error) {
	if offsets, err = l.offsets(n, width); err != nil {
		return nil, nil, err
	}
	b, err := l.buffer(last(offsets))
	return offsets, memory.NewBufferBytes(b), err
}

// offsets reads n+1 offsets of a width, and checks that they ascend from 0 or above. They come as 64 bits.
func (l *batchLoader) offsets(n, width int) ([]int64, error) {
	least := int64(n+1) * int64(width)
	if n == 0 {
		least = 0 // may be left out
	}
	b, err := l.buffer(least)
	if err != nil {
		return nil, err
	}
	out := make([]int64, n+1)
	if len(b) < width {
		return out, nil
	}
	for i := range out {
		if width == 4 {
			out[i] = int64(int32(littleUint32(b[4*i:])))
		} else {
			out[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		}
		if i == 0 && out[0] < 0 || i > 0 && out[i] < out[i-1] {
			return nil, fmt.Errorf("has offsets out of order at row %d of its batch", max(i-1, 0))
		}
	}
	return out, nil
}

func last(offsets []int64) int64 { return offsets[len(offsets)-1] }

func bytes32(offsets []int64) *memory.Buffer {
	b := make([]byte, 4*len(offsets))
	for i, x := range offsets {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(x))
	}
	return memory.NewBufferBytes(b)
}

// view reads a string_view or binary_view array: 16 bytes a value, short ones inside, long ones in the buffers behind.
func (l *batchLoader) view(n int, valid *memory.Buffer, typ arrow.DataType) (arrow.Array, error) {
	if len(l.views) == 0 || l.views[0] < 0 || l.views[0] > int64(len(l.buffers)/2) {
		return nil, errors.New("does not say how many buffers its views have")
	}
	count := int(l.views[0])
	l.views = l.views[1:]
	heads, err := l.buffer(16 * int64(n))
	if err != nil {
		return nil, err
	}
	data := make([][]byte, count)
	for i := range data {
		if data[i], err = l.buffer(0); err != nil {
			return nil, err
		}
	}
	plain, err := plainType(typ)
	if err != nil {
		return nil, err
	}
	b := array.NewBinaryBuilder(memory.DefaultAllocator, plain.(arrow.BinaryDataType))
	defer b.Release()
	b.Reserve(n)
	for i := range n {
		head := heads[16*i : 16*i+16]
		length := int64(int32(littleUint32(head)))
		if valid != nil && !bitutil.BitIsSet(valid.Bytes(), i) {
			b.AppendNull()
			continue
		}
		if length >= 0 && length <= 12 {
			b.Append(head[4 : 4+length])
			continue
		}
		buffer, at := int64(int32(littleUint32(head[8:]))), int64(int32(littleUint32(head[12:])))
		if length < 0 || buffer < 0 || buffer >= int64(count) || at < 0 || at+length > int64(len(data[buffer])) {
			return nil, fmt.Errorf("has a view outside its buffers at row %d of its batch", i)
		}
		b.Append(data[buffer][at : at+length])
	}
	return b.NewArray(), nil
}

// dictionary reads indices and looks up their values.
func (l *batchLoader) dictionary(f *ipcField, typ *arrow.DictionaryType) (arrow.Array, error) {
	indices, err := l.array(&ipcField{dict: -1}, typ.IndexType)
	if err != nil {
		return nil, err
	}
	index := make([]int64, indices.Len())
	for i := range index {
		if indices.IsNull(i) {
			index[i] = -1
			continue
		}
		x, ok := integer(indices, i)
		if !ok || x < 0 {
			return nil, errIndex
		}
		index[i] = x
	}
	values, ok := l.dicts[f.dict]
	if !ok {
		return nil, errors.New("comes before its dictionary")
	}
	take, err := dictionaryTaker(values.DataType())
	if err != nil {
		return nil, err
	}
	return take(values, index)
}

// pass goes over the arrays of a type that is not wanted.
func (l *batchLoader) pass(f *ipcField, typ arrow.DataType) error {
	buffers, children := 2, f.children
	switch t := typ.(type) {
	case *arrow.DictionaryType:
		children = nil
	case arrow.ExtensionType:
		return l.pass(f, t.StorageType())
	case *arrow.NullType, *arrow.RunEndEncodedType:
		buffers = 0
	case *arrow.StructType, *arrow.FixedSizeListType:
		buffers = 1
	case *arrow.StringType, *arrow.BinaryType, *arrow.LargeStringType, *arrow.LargeBinaryType, *arrow.ListViewType,
		*arrow.LargeListViewType:
		buffers = 3
	case *arrow.SparseUnionType:
		buffers = 1
	case *arrow.DenseUnionType:
		buffers = 2
	case arrow.BinaryViewDataType:
		if len(l.views) == 0 || l.views[0] < 0 || l.views[0] > int64(len(l.buffers)) {
			return errShort
		}
		buffers, l.views = 2+int(l.views[0]), l.views[1:]
	}
	if _, _, err := l.node(); err != nil {
		return err
	}
	for range buffers {
		if _, _, err := l.place(); err != nil {
			return err
		}
	}
	for _, c := range children {
		if err := l.pass(c, c.typ); err != nil {
			return err
		}
	}
	return nil
}
