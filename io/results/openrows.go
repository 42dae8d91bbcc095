package results

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"

	"github.com/apache/arrow-go/v18/arrow"
	v15 "github.com/apache/arrow/go/v15/arrow"
)

// SaveOpen keeps the rows of a chunk that are finished when a job stops before the chunk is whole, in any order; with
// --n a row may have some of its samples only. It replaces what an earlier start has saved of the chunk, so records
// have to hold that too. The next start finds them with Open.
func (w *Writer) SaveOpen(chunk Chunk, records []Record) error {
	if len(records) == 0 {
		return nil
	}
	name := state(w.dir, openName(chunk.Index))
	columns, schema := w.openColumns()
	_, err := w.aside(name, func(to io.Writer) error {
		return guard(func() error {
			batch, err := buildBatch(columns, schema, records)
			if err != nil {
				return err
			}
			sums := digests{}
			sums.add(batch, 0)
			table, err := newTableWriter(to, schema, len(columns))
			if err != nil {
				return err
			}
			text, err := json.Marshal(sums)
			if err != nil {
				return err
			}
			return errors.Join(table.write(batch), table.parquet.AppendKeyValueMetadata(digestKey, string(text)), table.close())
		})
	})
	if err != nil {
		return diskError("cannot write", name, err)
	}
	return nil
}

// Open gives the rows of a chunk that an earlier start has saved, nil when there are none. Damaged ones count as none:
// they are done again.
func (w *Writer) Open(ctx context.Context, chunk Chunk) ([]Record, error) {
	name := state(w.dir, openName(chunk.Index))
	columns, _ := w.openColumns()
	var records []Record
	sums, saved := digests{}, ""
	t, err := openTable(ctx, w.options.fs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		saved = t.meta(digestKey)
		err = t.each(ctx, func(batch arrow.RecordBatch, before int64) error {
			sums.add(batch, before)
			r, err := scanRecords(columns, batch)
			records = append(records, r...)
			return err
		})
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if text, _ := json.Marshal(sums); err == nil && string(text) != saved { // a map of texts always marshals
		err = errors.New("its columns are not as they were written")
	}
	if err != nil {
		w.options.Log.Warn("open rows cannot be read; they are done again", "file", name, "error", err)
		return nil, nil
	}
	for _, r := range records {
		if r.Row < chunk.First || r.Row >= chunk.First+chunk.Rows() {
			w.options.Log.Warn("open rows are of another chunk; they are done again", "file", name, "row", r.Row)
			return nil, nil
		}
	}
	return records, nil
}

// digestKey is where the footer of an open-rows file holds its digests.
const digestKey = "dsbatch.digests"

// openColumns are ours behind the global row number, which an id column hides.
func (w *Writer) openColumns() ([]column, *arrow.Schema) {
	row := column{"_row", v15.PrimitiveTypes.Int64, func(r *Record) any { return &r.Row }, true}
	fields := append([]arrow.Field{{Name: row.name, Type: arrow.PrimitiveTypes.Int64}}, w.own.Fields()...)
	return append([]column{row}, w.columns...), arrow.NewSchema(fields, nil)
}
