package results

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// repetitive are our columns of few distinct values, which a dictionary makes small; the others are stored plain.
var repetitive = map[string]bool{"finish_reason": true, "label": true, "error": true}

// tableWriter writes one Parquet file; each batch becomes a row group. It knows zstd, whose frames carry a checksum.
type tableWriter struct {
	schema  *arrow.Schema // as it is written: a duration, which Parquet lacks, as its int64
	parquet *pqarrow.FileWriter
}

// newTableWriter starts a file of the given columns on w. The first ours of them are dsbatch's own.
func newTableWriter(w io.Writer, schema *arrow.Schema, ours int) (*tableWriter, error) {
	written, err := physical(schema)
	if err != nil {
		return nil, err
	}
	columns, err := pqarrow.ToParquet(written, nil, pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, err
	}
	options := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd),
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

// physical is schema as Parquet can store it, with Arrow's own schema in the metadata, from which readers restore it.
func physical(schema *arrow.Schema) (*arrow.Schema, error) {
	fields := make([]arrow.Field, schema.NumFields())
	for i, f := range schema.Fields() {
		if f.Type.ID() == arrow.DURATION {
			f.Type = arrow.PrimitiveTypes.Int64
		}
		fields[i] = f
	}
	original := base64.StdEncoding.EncodeToString(flight.SerializeSchema(schema, memory.DefaultAllocator))
	metadata := arrow.NewMetadata([]string{"ARROW:schema"}, []string{original})
	return arrow.NewSchema(fields, &metadata), nil
}

// checkStorable tries schema on an empty file.
func checkStorable(schema *arrow.Schema) error {
	w, err := newTableWriter(io.Discard, schema, 0)
	if err != nil {
		return err
	}
	return w.close()
}

// write adds a row group.
func (w *tableWriter) write(batch arrow.RecordBatch) error {
	columns := make([]arrow.Array, batch.NumCols())
	for i := range columns {
		columns[i] = batch.Column(i)
		if want := w.schema.Field(i).Type; columns[i].DataType().ID() == arrow.DURATION {
			data := columns[i].Data()
			columns[i] = array.MakeFromData(array.NewData(want, data.Len(), data.Buffers(), nil, data.NullN(), data.Offset()))
		}
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

// each hands every batch to visit, with the number of rows before it, and closes the table.
func (t *table) each(ctx context.Context, visit func(batch arrow.RecordBatch, before int64) error) error {
	for {
		before := t.read
		batch, err := t.next()
		if errors.Is(err, io.EOF) {
			return t.close()
		}
		if err == nil {
			err = visit(batch, before)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, t.close())
		}
	}
}

// digestPart reads a part and digests its columns; first is the global number of its first record.
func digestPart(ctx context.Context, fsys fileSystem, name string, first int64) (digests, error) {
	t, err := openTable(ctx, fsys, name)
	if err != nil {
		return nil, err
	}
	sums := digests{}
	return sums, t.each(ctx, func(batch arrow.RecordBatch, before int64) error {
		sums.add(batch, first+before)
		return nil
	})
}
