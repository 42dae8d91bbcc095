package results

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// repetitive are our columns of few distinct values, which a dictionary makes small; the others are stored plain.
var repetitive = map[string]bool{"finish_reason": true, "label": true, "error": true}

// zstdLevel is zstd's fastest: on prose it takes two thirds of the time of the usual 3 for parts 8 % larger, and
// compression is most of what a commit costs.
const zstdLevel = 1

// tableWriter writes one Parquet file; each batch becomes a row group. It knows zstd, whose frames carry a checksum.
type tableWriter struct {
	schema  *arrow.Schema // in the types that are written
	parquet *pqarrow.FileWriter
}

// newTableWriter starts a file of the given columns on w. The first ours of them are dsbatch's own.
func newTableWriter(w io.Writer, schema *arrow.Schema, ours int) (*tableWriter, error) {
	written := physicalSchema(schema)
	columns, err := pqarrow.ToParquet(written, nil, pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, err
	}
	options := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCompressionLevel(zstdLevel),
		parquet.WithMaxRowGroupLength(1 << 40), // we cut row groups ourselves
		parquet.WithCreatedBy("dsbatch"),
	}
	own := map[string]bool{}
	for _, f := range schema.Fields()[:ours] {
		own[f.Name] = true
	}
	for i := range columns.NumColumns() {
		leaf := columns.Column(i)
		if root := leaf.ColumnPath()[0]; own[root] {
			options = append(options, parquet.WithDictionaryPath(leaf.ColumnPath(), repetitive[root]))
		}
		if len(leaf.ColumnPath()) > 1 || leaf.PhysicalType() == parquet.Types.ByteArray {
			options = append(options, parquet.WithStatsPath(leaf.ColumnPath(), false)) // nobody searches by them
		}
	}
	fw, err := pqarrow.NewFileWriter(written, w, parquet.NewWriterProperties(options...), pqarrow.DefaultWriterProps())
	return &tableWriter{written, fw}, err
}

// checkStorable tries schema on a row of nulls.
func checkStorable(schema *arrow.Schema) error {
	w, err := newTableWriter(io.Discard, schema, 0)
	if err != nil {
		return err
	}
	nulls := make([]arrow.Array, schema.NumFields())
	for i, f := range schema.Fields() {
		nulls[i] = array.MakeArrayOfNull(memory.DefaultAllocator, f.Type, 1)
	}
	return errors.Join(w.write(array.NewRecordBatch(schema, nulls, 1)), w.close())
}

// write adds a row group.
func (w *tableWriter) write(batch arrow.RecordBatch) error {
	columns := make([]arrow.Array, batch.NumCols())
	for i, c := range batch.Columns() {
		columns[i] = physical(c, nil)
	}
	return w.parquet.Write(array.NewRecordBatch(w.schema, columns, batch.NumRows()))
}

func (w *tableWriter) close() error { return w.parquet.Close() }

// table reads one Parquet file batch by batch. A panic of the library, damaged pages, and fewer or more rows than the
// footer promises are errors that name the file.
type table struct {
	name    string
	handle  io.Closer
	batches pqarrow.RecordReader
	meta    func(key string) string // what the footer holds under key
	rows    int64                   // as the footer says
	read    int64
}

func openTable(ctx context.Context, fsys fileSystem, name string) (*table, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	t := &table{name: name, handle: f}
	if err := guard(func() error { return t.open(ctx, f) }); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return t, nil
}

func (t *table) open(ctx context.Context, f handle) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	r, err := file.NewParquetReader(io.NewSectionReader(f, 0, size))
	if err != nil {
		return err
	}
	footer := r.MetaData().KeyValueMetadata()
	t.meta = func(key string) string {
		if v := footer.FindValue(key); v != nil {
			return *v
		}
		return ""
	}
	for _, entry := range footer {
		if entry.Key == arrowSchemaKey {
			entry.Key = "" // v18 gives up at a duration; values are the same without
		}
	}
	t.rows = r.NumRows()
	columns, err := pqarrow.NewFileReader(r, pqarrow.ArrowReadProperties{BatchSize: 8192}, memory.DefaultAllocator)
	if err != nil {
		return err
	}
	t.batches, err = columns.GetRecordReader(ctx, nil, nil)
	return err
}

// next is the next batch, good until the call after, or io.EOF.
func (t *table) next() (batch arrow.RecordBatch, err error) {
	err = guard(func() error {
		batch, err = t.batches.Read()
		return err
	})
	switch {
	case errors.Is(err, io.EOF) && t.read != t.rows:
		return nil, fmt.Errorf("%s: %d rows where the footer says %d", t.name, t.read, t.rows)
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("%s: after row %d of the file: %w", t.name, t.read, err)
	}
	t.read += batch.NumRows()
	return batch, nil
}

func (t *table) close() error {
	err := guard(func() error { t.batches.Release(); return nil })
	return errors.Join(err, t.handle.Close())
}

// named puts the file before what the Parquet library could not do.
func named(file string, err error) error {
	if errors.Is(err, errLibrary) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return err
}

// each hands every batch to visit, with the number of rows before it, and closes the table.
func (t *table) each(ctx context.Context, visit func(batch arrow.RecordBatch, before int64) error) error {
	for {
		before := t.read
		batch, err := t.next()
		if errors.Is(err, io.EOF) {
			return t.close()
		}
		if err == nil { // a damaged file may make arrays that are not whole
			err = named(t.name, guard(func() error { return visit(batch, before) }))
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, t.close())
		}
	}
}
