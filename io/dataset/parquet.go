package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// parquetFile is a Parquet file whose footer has been read and checked.
type parquetFile struct {
	path  string
	first int64 // global number of its first row: set once all files are counted
	size  int64
	cols  []column
	heads []int64                // first row of each row group, and the number of all rows
	meta  *metadata.FileMetaData // nil where footers together would take too much memory: read again by each scan
}

// Footers are kept in memory up to footerBudget bytes of a data set, and no larger one than maxFooter is read.
const (
	footerBudget = 64 << 20
	maxFooter    = 512 << 20
)

func openParquet(path string, budget *atomic.Int64) (*parquetFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer shut(f)
	p := &parquetFile{path: path}
	meta, footer, err := p.footer(f)
	if err != nil {
		return nil, err
	}
	if p.heads, err = groupHeads(meta); err != nil {
		return nil, err
	}
	if p.cols, err = parquetColumns(meta); err != nil {
		return nil, err
	}
	if budget.Add(-footer) >= 0 {
		p.meta = meta
	}
	return p, nil
}

// footer reads and decodes the metadata at the file's end.
func (p *parquetFile) footer(f *os.File) (meta *metadata.FileMetaData, size int64, err error) {
	defer guard(&err)
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	p.size = info.Size()
	var tail [8]byte
	if p.size < 12 {
		return nil, 0, fmt.Errorf("%d bytes cannot be a Parquet file", p.size)
	}
	if _, err := f.ReadAt(tail[:], p.size-8); err != nil {
		return nil, 0, err
	}
	switch string(tail[4:]) {
	case "PAR1":
	case "PARE":
		return nil, 0, unread("it is encrypted, which is not read: write it in the clear")
	default:
		return nil, 0, errors.New("it does not end as a Parquet file does: it is cut short or of another format")
	}
	size = int64(littleUint32(tail[:]))
	if size > p.size-12 || size > maxFooter {
		return nil, 0, fmt.Errorf("its footer claims %d bytes of a file of %d", size, p.size)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, p.size-8-size); err != nil {
		return nil, 0, err
	}
	walk := compact{r: bufio.NewReader(bytes.NewReader(data)), left: size}
	if err := walk.footer(); err != nil {
		return nil, 0, fmt.Errorf("its footer cannot be read: %w", err)
	}
	meta, err = metadata.NewFileMetaData(data, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("its footer cannot be read: %w", err)
	}
	if meta.IsSetEncryptionAlgorithm() {
		return nil, 0, unread("it is encrypted, which is not read: write it in the clear")
	}
	return meta, size, nil
}

// groupHeads sums up the row groups, whose rows must come to the file's.
func groupHeads(meta *metadata.FileMetaData) (heads []int64, err error) {
	defer guard(&err)
	heads = make([]int64, 1, meta.NumRowGroups()+1)
	var rows int64
	for g := range meta.NumRowGroups() {
		n := meta.RowGroup(g).NumRows()
		if n < 0 || n > 1<<48 {
			return nil, fmt.Errorf("row group %d claims %d rows", g, n)
		}
		rows += n
		heads = append(heads, rows)
	}
	if stated := meta.GetNumRows(); stated != rows {
		return nil, fmt.Errorf("the footer claims %d rows, its row groups %d", stated, rows)
	}
	return heads, nil
}

func parquetColumns(meta *metadata.FileMetaData) (cols []column, err error) {
	defer guard(&err)
	stored := storedSchema(meta)
	root := meta.Schema.Root()
	for i := range root.NumFields() {
		n, err := typeColumn(meta, i, stored)
		c := column{err: err, Field: arrow.Field{Name: root.Field(i).Name()}}
		if err == nil {
			c.Type, c.Nullable = n.typ, n.nullable
		}
		cols = append(cols, c)
	}
	return cols, nil
}

func typeColumn(meta *metadata.FileMetaData, i int, stored *arrow.Schema) (n *node, err error) {
	defer guard(&err)
	field := meta.Schema.Root().Field(i)
	var hint arrow.DataType
	if stored != nil {
		if f, ok := stored.FieldsByName(field.Name()); ok {
			hint = f[0].Type
		}
	}
	t := typer{schema: meta.Schema}
	return t.columnNode(field, hint)
}

func (p *parquetFile) columns() []column { return p.cols }
func (p *parquetFile) rows() int64       { return p.heads[len(p.heads)-1] }

// metadata returns the footer, read anew where it was not kept.
func (p *parquetFile) metadata(f *os.File) (*metadata.FileMetaData, error) {
	if p.meta != nil {
		return p.meta, nil
	}
	was := p.size
	meta, _, err := (&parquetFile{path: p.path}).footer(f)
	if err != nil {
		return nil, err
	}
	heads, err := groupHeads(meta)
	if info, statErr := f.Stat(); err == nil &&
		(statErr != nil || info.Size() != was || len(heads) != len(p.heads) || heads[len(heads)-1] != p.rows()) {
		err = errChanged
	}
	return meta, err
}

// check compares the column chunks' metadata with the file's bounds and the row groups' counts.
func (p *parquetFile) check(columns []int) error {
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer shut(f)
	meta, err := p.metadata(f)
	if err != nil {
		return err
	}
	stored := storedSchema(meta)
	for _, c := range columns {
		n, err := typeColumn(meta, c, stored)
		if err != nil {
			return fmt.Errorf("column %s %w", p.cols[c].Name, err)
		}
		for g := range meta.NumRowGroups() {
			err := n.leaves(func(l *node) error {
				_, err := p.chunk(meta, g, l.column)
				return err
			})
			if err != nil {
				return fmt.Errorf("row group %d: column %s %w", g, n.name, err)
			}
		}
	}
	return nil
}

// chunk is where a column's pages lie in a row group.
type chunk struct {
	start, size, values int64
	codec               compress.Compression
	column              *schema.Column
}

func (p *parquetFile) chunk(meta *metadata.FileMetaData, group, index int) (c chunk, err error) {
	defer guard(&err)
	rg := meta.RowGroup(group)
	if rg.NumColumns() != meta.Schema.NumColumns() {
		return c, fmt.Errorf("is one of %d where the schema has %d", rg.NumColumns(), meta.Schema.NumColumns())
	}
	col, err := rg.ColumnChunk(index)
	if err != nil {
		return c, err
	}
	c.column, c.codec, c.values = meta.Schema.Column(index), col.Compression(), col.NumValues()
	c.start, c.size = col.DataPageOffset(), col.TotalCompressedSize()
	if col.HasDictionaryPage() && col.DictionaryPageOffset() > 0 {
		c.start = min(c.start, col.DictionaryPageOffset())
	}
	switch {
	case col.CryptoMetadata() != nil:
		return c, unread("is encrypted, which is not read: write it in the clear")
	case col.FilePath() != "":
		return c, unread(fmt.Sprintf("lies in another file, %q, which is not read", col.FilePath()))
	case col.Type() != c.column.PhysicalType():
		return c, fmt.Errorf("is stored as %v where the schema says %v", col.Type(), c.column.PhysicalType())
	case c.codec == compress.Codecs.Lzo || c.codec > compress.Codecs.Lz4Raw || c.codec < 0:
		return c, unread(fmt.Sprintf("is compressed with codec %d, which is not read: write it with zstd", c.codec))
	case c.values < 0 || c.column.MaxRepetitionLevel() == 0 && c.values != rg.NumRows():
		return c, fmt.Errorf("has %d values for %d rows", c.values, rg.NumRows())
	case c.values == 0 && rg.NumRows() == 0:
		c.start, c.size = 0, 0
	case c.start < 0 || c.size < 0 || c.start > p.size-8 || c.size > p.size-8-c.start:
		return c, fmt.Errorf("claims bytes %d to %d of a file of %d", c.start, c.start+c.size, p.size)
	}
	return c, nil
}

// parquetScan reads the wanted columns row group by row group.
type parquetScan struct {
	*parquetFile
	f        *os.File
	meta     *metadata.FileMetaData
	wanted   []int
	nodes    []*node
	fields   *arrow.Schema
	inflater inflater
	row      int64 // file-local, of the next row
	group    int   // that is open, -1 at first
}

func (p *parquetFile) scan(columns []int, from int64) (scanner, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	s := &parquetScan{parquetFile: p, f: f, wanted: columns, row: from, group: -1}
	if s.meta, err = p.metadata(f); err != nil {
		shut(f)
		return nil, place{file: p.path, group: -1, row: -1}.damaged(err)
	}
	var fields []arrow.Field
	stored := storedSchema(s.meta)
	for _, c := range columns {
		n, err := typeColumn(s.meta, c, stored)
		if err != nil {
			shut(f)
			return nil, refuse(ErrColumn, "%s: column %s %v", p.path, p.cols[c].Name, err)
		}
		s.nodes = append(s.nodes, n)
		fields = append(fields, p.cols[c].Field)
	}
	s.fields = arrow.NewSchema(fields, nil)
	return s, nil
}

func (s *parquetScan) at() int64 { return s.row }

func (s *parquetScan) Close() error {
	s.inflater.close()
	return s.f.Close()
}

func (s *parquetScan) next(limit int64) (arrow.Record, int, error) {
	if s.row >= s.rows() {
		return nil, 0, io.EOF
	}
	if s.group < 0 || s.row >= s.heads[s.group+1] {
		if err := s.open(); err != nil {
			return nil, s.group, err
		}
	}
	left := s.heads[s.group+1] - s.row
	rows, err := s.ready(int(min(limit, left, batchMost)))
	if err != nil {
		return nil, s.group, err
	}
	arrays := make([]arrow.Array, 0, len(s.nodes))
	defer func() {
		for _, a := range arrays {
			a.Release()
		}
	}()
	for _, n := range s.nodes {
		a, err := s.column(n, rows)
		if err == nil && int64(rows) == left {
			err = n.leaves(func(l *node) error { return l.leaf.end() })
		}
		if err != nil {
			return nil, s.group, s.place(n.name).damaged(err)
		}
		arrays = append(arrays, a)
	}
	s.row += int64(rows)
	return array.NewRecord(s.fields, arrays, int64(rows)), s.group, nil
}

// ready is how many of the next rows all columns have decoded, at least one.
func (s *parquetScan) ready(rows int) (int, error) {
	for _, n := range s.nodes {
		rows = min(rows, n.atOnce())
		err := n.leaves(func(l *node) error {
			r, err := l.leaf.ready(rows)
			rows = min(rows, r)
			return err
		})
		if err != nil {
			return 0, s.place(n.name).damaged(err)
		}
	}
	return rows, nil
}

func (s *parquetScan) column(n *node, rows int) (a arrow.Array, err error) {
	defer guard(&err)
	return n.rows(rows)
}

func (s *parquetScan) place(column string) place {
	return place{file: s.path, unit: "row group", group: s.group, row: s.first + s.row, column: column}
}

// open starts the row group of the next row and passes the rows before it.
func (s *parquetScan) open() error {
	s.group++
	for s.heads[s.group+1] <= s.row {
		s.group++
	}
	for _, n := range s.nodes {
		err := n.leaves(func(l *node) error {
			c, err := s.chunk(s.meta, s.group, l.column)
			if err != nil {
				return err
			}
			pages := openPages(s.f, c.start, c.size, c.values, c.column, c.codec, &s.inflater)
			if l.leaf, err = newLeaf(pages, l.typ); err != nil {
				return err
			}
			return l.leaf.skip(s.row - s.heads[s.group])
		})
		if err != nil {
			return s.place(n.name).damaged(err)
		}
	}
	return nil
}
