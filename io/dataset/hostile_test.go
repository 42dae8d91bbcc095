package dataset

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// A footer that claims a million times the rows that there are is believed until the pages end, and costs nothing.
func TestCountsWithoutRows(t *testing.T) {
	const rows = 12345
	path := filepath.Join(t.TempDir(), "x.parquet")
	writeParquet(t, path, prompts(rows), rows, compress.Codecs.Zstd)
	inFooter(t, path, rows, 1<<47) // of the file, the row group and the column
	set := open(t, Columns{}, path)
	if set.Rows() != 1<<47 {
		t.Fatalf("%d rows", set.Rows())
	}
	n := 0
	var err error
	for _, e := range set.Read(context.Background(), 0, 0, set.Rows()) {
		if err = e; err == nil {
			n++
		}
	}
	if n > rows || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), ": row group 0: from row ") {
		t.Errorf("%d rows, then %v", n, err)
	}
}

// Values that take a few bits in a page and much room in an array come in records of a bounded size, whatever their
// number, and what no bound helps against is refused.
func TestRecordsAreBounded(t *testing.T) {
	const size, rows = 300 << 10, 1000
	text := func(rep parquet.Repetition) schema.Node {
		return schema.MustPrimitive(schema.NewPrimitiveNodeLogical("v", rep, schema.StringLogicalType{}, parquet.Types.ByteArray, -1, -1))
	}
	fixed := schema.MustPrimitive(schema.NewPrimitiveNode("v", parquet.Repetitions.Optional, parquet.Types.FixedLenByteArray, -1, 12345))
	for name, c := range map[string]struct {
		node     schema.Node
		encoding parquet.Encoding
		def, rep int16 // levels of all values after the first, whose rep is 0
		width    int64 // that the footer gives fixed values
		rows     int64
		most     int64 // rows of a record
		says     string
	}{
		"one value for all":     {text(parquet.Repetitions.Optional), parquet.Encodings.PlainDict, 1, 0, 0, rows, 4, ""},
		"prefixes":              {text(parquet.Repetitions.Optional), parquet.Encodings.DeltaByteArray, 1, 0, 0, rows, 4, ""},
		"in lists":              {text(parquet.Repetitions.Repeated), parquet.Encodings.PlainDict, 1, 0, 0, rows, 16, ""},
		"a list of all":         {text(parquet.Repetitions.Repeated), parquet.Encodings.PlainDict, 1, 1, 0, 1, 0, "has a row of "},
		"nulls of a fixed size": {fixed, parquet.Encodings.Plain, 0, 0, maxValue, 3, 1, ""},
		"nulls of another":      {fixed, parquet.Encodings.Plain, 0, 0, 64 << 10, rows, 16, ""},
		"a size that none has":  {fixed, parquet.Encodings.Plain, 0, 0, 1 << 30, rows, 0, "has values of 1073741824 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.parquet")
			n := rows
			if c.width != 0 {
				n = int(c.rows)
			}
			writeLevels(t, path, c.node, c.encoding, bytes.Repeat([]byte("a"), size), n, c.def, c.rep)
			if c.width != 0 {
				inFooter(t, path, 12345, c.width)
			}
			var seen, most int64
			err := scanColumn(path, func(records int64) { seen, most = seen+records, max(most, records) })
			if c.says == "" && (err != nil || seen != c.rows) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%d of %d rows, %v", seen, c.rows, err)
			}
			if most > c.most {
				t.Errorf("a record of %d rows", most)
			}
		})
	}
}

// scanColumn reads a file's first column and shows how many rows each record has.
func scanColumn(path string, saw func(rows int64)) error {
	p, err := openParquet(path, new(atomic.Int64))
	if err != nil {
		return err
	}
	s, err := p.scan([]int{0}, 0)
	if err != nil {
		return err
	}
	defer shut(s)
	for {
		rec, _, err := s.next(1 << 20)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		saw(rec.NumRows())
		rec.Release()
	}
}

// writeLevels writes a column of n times the same value or null.
func writeLevels(t *testing.T, path string, node schema.Node, encoding parquet.Encoding, value []byte, n int, def, rep int16) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	root := schema.MustGroup(schema.NewGroupNode("schema", parquet.Repetitions.Required, schema.FieldList{node}, -1))
	props := []parquet.WriterProperty{parquet.WithCompression(compress.Codecs.Zstd), parquet.WithStats(false)}
	if encoding == parquet.Encodings.PlainDict {
		props = append(props, parquet.WithDictionaryPageSizeLimit(1<<30))
	} else {
		props = append(props, parquet.WithDictionaryDefault(false), parquet.WithEncoding(encoding))
	}
	w := file.NewParquetWriter(f, root, file.WithWriterProps(parquet.NewWriterProperties(props...)))
	rows, err := w.AppendRowGroupChecked()
	if err != nil {
		t.Fatal(err)
	}
	column, err := rows.NextColumn()
	if err != nil {
		t.Fatal(err)
	}
	values, defs, reps := make([]parquet.ByteArray, n), make([]int16, n), make([]int16, n)
	for i := range n {
		values[i], defs[i] = value, def
		if i > 0 {
			reps[i] = rep
		}
	}
	switch w := column.(type) {
	case *file.ByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(values, defs, reps)
	case *file.FixedLenByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(nil, defs, nil)
	}
	if err = errors.Join(err, column.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// inFooter puts another number wherever one stands in a file's footer, which must be somewhere.
func inFooter(t *testing.T, path string, was, is int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := len(b) - 8 - int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	if !bytes.Contains(b[begin:], binary.AppendVarint(nil, was)) {
		t.Fatalf("%d does not stand in the footer", was)
	}
	footer := bytes.ReplaceAll(b[begin:len(b)-8], binary.AppendVarint(nil, was), binary.AppendVarint(nil, is))
	b = append(b[:begin:begin], footer...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(footer)))
	writeFile(t, path, append(b, "PAR1"...))
}

// What the system cannot read is not called damage: the file may be sound, and is read when its storage is again.
func TestFailingStorage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.parquet")
	writeParquet(t, path, prompts(100), 10, compress.Codecs.Zstd)
	p, err := openParquet(path, new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.scan([]int{0}, 0)
	if err != nil {
		t.Fatal(err)
	}
	shut(s.(*parquetScan).f)
	_, _, err = s.next(10)
	if !errors.Is(err, os.ErrClosed) || errors.Is(err, ErrDamaged) || !strings.HasPrefix(err.Error(), path+": row group 0: from row 0: column prompt: cannot be read (") {
		t.Error(err)
	}
}
