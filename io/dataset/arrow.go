package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
)

// ipcFile is an Arrow IPC file, a Feather V2 file (the same) or an Arrow stream, known by its first bytes. v15 decodes
// the schema. Its batch reader decodes every column, takes memory by the lengths it finds and believes offsets, so
// batches are loaded here (arrowbatch.go): only the columns wanted, every length checked.
type ipcFile struct {
	path    string
	first   int64
	cols    []column
	fields  []*ipcField
	heads   []int64 // first row of each batch, and the number of all rows
	batches []ipcMessage
	dicts   []ipcMessage // in order; a batch needs those before its own number
}

// ipcMessage is where a message lies in the file.
type ipcMessage struct {
	meta, body int64 // places
	metaSize   int32
	bodySize   int64
	before     int32 // batches before it: dictionaries may come between batches of a stream
}

// ipcField is a field with the dictionary ids of its tree, which v15 keeps to itself.
type ipcField struct {
	typ      arrow.DataType
	dict     int64 // -1: no dictionary
	children []*ipcField
}

// Kinds of messages.
const (
	messageSchema     = 1
	messageDictionary = 2
	messageBatch      = 3
)

var fileMagic, feather1Magic = []byte("ARROW1"), []byte("FEA1")

const maxMessage = 256 << 20 // bytes of metadata

func openIPC(path string) (_ *ipcFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer shut(f)
	defer guard(&err)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := &ipcFile{path: path, heads: []int64{0}}
	if info.Size() == 0 {
		return nil, errors.New("it has no bytes, not even a schema")
	}
	magic := make([]byte, len(fileMagic))
	if _, err := f.ReadAt(magic, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	in := ipcReader{f, info.Size()}
	switch {
	case bytes.Equal(magic, fileMagic):
		err = p.openFile(in)
	case bytes.HasPrefix(magic, feather1Magic):
		err = unread("it is Feather of version 1, which is not read: write version 2")
	default:
		err = p.openStream(in)
	}
	return p, err
}

// ipcReader reads messages of a file, each inside its bounds.
type ipcReader struct {
	io.ReaderAt
	size int64
}

// message reads the message at a place: its header and where the body lies. A zero kind is the stream's end.
func (r ipcReader) message(at int64) (head table, m ipcMessage, err error) {
	var prefix [8]byte
	n, err := r.ReadAt(prefix[:], at)
	if n < 4 {
		return head, m, cut(n, err)
	}
	m.meta, m.metaSize = at+8, int32(littleUint32(prefix[4:]))
	if word := littleUint32(prefix[:]); word != 0xffffffff { // before format 0.15 there was no such mark
		m.meta, m.metaSize = at+4, int32(word)
	} else if n < 8 {
		return head, m, cut(n, err)
	}
	if m.metaSize == 0 {
		return head, m, nil
	}
	if m.metaSize < 0 || m.metaSize > maxMessage {
		return head, m, fmt.Errorf("a message at byte %d claims %d bytes of metadata", at, m.metaSize)
	}
	if int64(m.metaSize) > r.size-m.meta {
		return head, m, fmt.Errorf("it is cut short inside a message that begins at byte %d", at)
	}
	head, err = r.head(m)
	if err != nil {
		return head, m, err
	}
	m.body, m.bodySize = m.meta+int64(m.metaSize), head.int64(3)
	if head.f.bad || m.bodySize < 0 {
		return head, m, errFlat
	}
	if m.bodySize > r.size-m.body {
		return head, m, fmt.Errorf("it is cut short inside a message that begins at byte %d", at)
	}
	return head, m, nil
}

func cut(n int, err error) error {
	if n == 0 && errors.Is(err, io.EOF) {
		return io.EOF
	} else if err == nil || errors.Is(err, io.EOF) {
		return errors.New("it is cut short between two messages")
	}
	return err
}

func (r ipcReader) head(m ipcMessage) (table, error) {
	b := make([]byte, m.metaSize)
	if _, err := r.ReadAt(b, m.meta); err != nil {
		return table{}, err
	}
	f := &flat{b: b}
	return f.root(), nil
}

// schema decodes the schema message at a place.
func (p *ipcFile) schema(r ipcReader, at int64) (next int64, err error) {
	head, m, err := r.message(at)
	if err != nil {
		return 0, err
	}
	if m.metaSize == 0 || head.uint8(1) != messageSchema {
		return 0, errors.New("it does not begin with an Arrow schema")
	}
	if head.table(2).uint8(0) != 0 {
		return 0, unread("its numbers are big-endian, which is not read: write it on another machine")
	}
	message := make([]byte, 8, 8+len(head.f.b))
	binary.LittleEndian.PutUint32(message, 0xffffffff)
	binary.LittleEndian.PutUint32(message[4:], uint32(m.metaSize))
	message = append(message, head.f.b...)
	if err := checkMessage(message); err != nil {
		return 0, err
	}
	reader, err := ipc.NewReader(bytes.NewReader(message))
	if err != nil {
		return 0, fmt.Errorf("its schema cannot be decoded: %w", err)
	}
	defer reader.Release()
	for i, t := range head.table(2).tables(1) {
		field := reader.Schema().Field(i)
		tree, err := newIPCField(t, field.Type, 0)
		if err != nil {
			return 0, err
		}
		c := column{Field: field}
		c.Type, c.err = plainType(field.Type)
		c.Metadata = arrow.Metadata{}
		p.cols, p.fields = append(p.cols, c), append(p.fields, tree)
	}
	return m.body + m.bodySize, nil
}

// newIPCField pairs a field of the metadata with its v15 type.
func newIPCField(t table, typ arrow.DataType, deep int) (*ipcField, error) {
	if deep > maxNesting {
		return nil, fmt.Errorf("its schema is nested deeper than %d", maxNesting)
	}
	f := &ipcField{typ: typ, dict: -1}
	if d := t.table(4); d.at != 0 {
		f.dict = d.int64(0)
	}
	inner := typ
	if d, ok := inner.(*arrow.DictionaryType); ok {
		inner = d.ValueType
	}
	if e, ok := inner.(arrow.ExtensionType); ok {
		inner = e.StorageType()
	}
	var types []arrow.DataType
	switch n := inner.(type) {
	case *arrow.MapType:
		types = []arrow.DataType{n.Elem()}
	case arrow.NestedType:
		for _, child := range n.Fields() {
			types = append(types, child.Type)
		}
	}
	children := t.tables(5)
	if len(children) != len(types) || t.f.bad {
		return nil, errFlat
	}
	for i, c := range children {
		child, err := newIPCField(c, types[i], deep+1)
		if err != nil {
			return nil, err
		}
		f.children = append(f.children, child)
	}
	return f, nil
}

// openStream lists the messages of a stream by going from one to the next.
func (p *ipcFile) openStream(r ipcReader) error {
	at, err := p.schema(r, 0)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	for {
		head, m, err := r.message(at)
		if errors.Is(err, io.EOF) || err == nil && m.metaSize == 0 {
			return nil // a stream may end without its mark
		}
		if err != nil {
			return fmt.Errorf("%w; its first %d rows, in %d batches, are whole", err, p.rows(), len(p.batches))
		}
		if err := p.add(head, m); err != nil {
			return err
		}
		at = m.body + m.bodySize
	}
}

// add notes a dictionary or a batch.
func (p *ipcFile) add(head table, m ipcMessage) error {
	m.before = int32(len(p.batches))
	switch head.uint8(1) {
	case messageDictionary:
		p.dicts = append(p.dicts, m)
	case messageBatch:
		rows, nodes := head.table(2).int64(0), head.table(2).ints(1, 2)
		if head.f.bad || rows < 0 || rows > 1<<31-1 || len(p.fields) > 0 && (len(nodes) == 0 || nodes[0] != rows) {
			return fmt.Errorf("record batch %d claims %d rows, which its columns do not have", len(p.batches), rows)
		}
		p.batches, p.heads = append(p.batches, m), append(p.heads, p.rows()+rows)
	default:
		return fmt.Errorf("it has a message of kind %d", head.uint8(1))
	}
	return nil
}

// openFile takes the places of the messages from the footer.
func (p *ipcFile) openFile(r ipcReader) error {
	const tail = 4 + 6 // the footer's length and the magic
	if r.size < 8+tail {
		return errors.New("it is too short for an Arrow file")
	}
	var end [tail]byte
	if _, err := r.ReadAt(end[:], r.size-tail); err != nil {
		return err
	}
	if !bytes.Equal(end[4:], fileMagic) {
		return errors.New("it does not end as an Arrow file does: cut short")
	}
	size := int64(int32(littleUint32(end[:])))
	if size <= 0 || size > r.size-tail-8 || size > maxMessage {
		return fmt.Errorf("its footer claims %d bytes of a file of %d", size, r.size)
	}
	footer, err := r.head(ipcMessage{meta: r.size - tail - size, metaSize: int32(size)})
	if err != nil {
		return err
	}
	if _, err := p.schema(r, 8); err != nil {
		return err
	}
	for _, list := range []struct {
		slot int
		kind uint8
	}{{2, messageDictionary}, {3, messageBatch}} {
		blocks := footer.ints(list.slot, 3)
		if footer.f.bad {
			return errFlat
		}
		for b := range slices.Chunk(blocks, 3) {
			if b[0] < 8 || b[0] > r.size {
				return fmt.Errorf("its footer names a message at byte %d", b[0])
			}
			head, m, err := r.message(b[0])
			if err == nil && (m.metaSize == 0 || head.uint8(1) != list.kind || m.bodySize != b[2]) {
				err = fmt.Errorf("its footer disagrees with the message at byte %d", b[0])
			}
			if err == nil {
				err = p.add(head, m)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *ipcFile) columns() []column { return p.cols }
func (p *ipcFile) rows() int64       { return p.heads[len(p.heads)-1] }

// check has nothing to look at: what a batch says of its columns is read with it.
func (p *ipcFile) check([]int) error { return nil }

// checkMessage walks an encapsulated schema message, so that v15 can decode it without taking memory by a number in it.
func checkMessage(message []byte) error {
	if len(message) < 8 {
		return errFlat
	}
	n, at := int64(littleUint32(message)), int64(4)
	if n == 0xffffffff {
		n, at = int64(littleUint32(message[4:])), 8
	}
	if n <= 0 || n > int64(len(message))-at {
		return errFlat
	}
	f := &flat{b: message[at : at+n]}
	head := f.root()
	if head.uint8(1) != messageSchema || head.int64(3) != 0 {
		return errFlat
	}
	schema := head.table(2)
	checkMetadata(schema, 2)
	schema.ints(3, 1)
	left := len(f.b) // a field takes bytes: this bounds tables that point at each other
	for _, t := range schema.tables(1) {
		checkField(t, 0, &left)
	}
	if f.bad {
		return errFlat
	}
	return nil
}

func checkField(t table, deep int, left *int) {
	if *left -= 8; deep > maxNesting || *left < 0 {
		t.f.bad = true
	}
	if t.f.bad {
		return
	}
	checkMetadata(t, 6)
	t.vector(0, 1)
	const union = 14
	if t.uint8(2) == union {
		t.table(3).vector(1, 4)
	}
	for _, child := range t.tables(5) {
		checkField(child, deep+1, left)
	}
}

func checkMetadata(t table, slot int) {
	for _, pair := range t.tables(slot) {
		pair.vector(0, 1)
		pair.vector(1, 1)
	}
}
