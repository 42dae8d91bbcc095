package results

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/apache/arrow-go/v18/arrow"
)

// Rows are the first rows of an output, to be shown: values as encoding/json writes them, nil for null.
type Rows struct {
	Columns []string
	Values  [][]any // [rows][columns]
}

// Head reads the first n records of the output dir, from the parts that are committed so far.
func Head(ctx context.Context, dir string, n int) (Rows, error) {
	l, err := look(ctx, dir)
	if err != nil {
		return Rows{}, err
	}
	rows := Rows{}
	for _, line := range l.lines {
		if line == nil || len(rows.Values) >= n {
			continue
		}
		t, err := openTable(ctx, disk{}, filepath.Join(dir, line.Part))
		if err != nil {
			return rows, err
		}
		err = t.each(ctx, func(batch arrow.RecordBatch, _ int64) error {
			rows.add(batch, n)
			if len(rows.Values) >= n {
				return io.EOF // enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, io.EOF) {
			return rows, err
		}
	}
	return rows, nil
}

// SetAside gives the first n bad rows of the output dir with their reasons, those with an id column by their id, too; of the
// chunks that are committed so far.
func SetAside(ctx context.Context, dir string, n int) (Rows, error) {
	l, err := look(ctx, dir)
	if err != nil {
		return Rows{}, err
	}
	var bad []BadRow
	named := false
	for _, line := range l.lines {
		if line == nil || len(bad) >= n {
			continue
		}
		rows, err := line.badRows(disk{})
		if err != nil {
			return Rows{}, err
		}
		for _, b := range rows[:min(len(rows), n-len(bad))] {
			bad, named = append(bad, b), named || b.ID != nil
		}
	}
	rows := Rows{Columns: []string{"row", "error"}}
	if named {
		rows.Columns = []string{"row", "id", "error"}
	}
	for _, b := range bad {
		values := []any{b.Row, b.Error}
		if named {
			values = []any{b.Row, b.ID, b.Error}
		}
		rows.Values = append(rows.Values, values)
	}
	return rows, nil
}

// look reads what is committed in dir.
func look(ctx context.Context, dir string) (ledger, error) {
	job, err := readJob(disk{}, dir)
	if err != nil {
		return ledger{}, err
	}
	return readLedger(ctx, disk{}, dir, job.Chunks, job.Samples, func(string) {})
}

func (r *Rows) add(batch arrow.RecordBatch, n int) {
	if r.Columns == nil {
		for _, f := range batch.Schema().Fields() {
			r.Columns = append(r.Columns, f.Name)
		}
	}
	for i := 0; i < int(batch.NumRows()) && len(r.Values) < n; i++ {
		row := make([]any, batch.NumCols())
		for c := range row {
			row[c] = batch.Column(c).GetOneForMarshal(i)
		}
		r.Values = append(r.Values, row)
	}
}
