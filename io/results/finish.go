package results

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	v15 "github.com/apache/arrow/go/v15/arrow"
)

const successName = "_SUCCESS"

// Summary counts what is committed.
type Summary struct {
	Chunks   int               `json:"chunks"`
	Rows     int64             `json:"rows"`    // of the input
	Records  int64             `json:"records"` // rows times samples
	Bad      int64             `json:"bad"`     // rows set aside
	FirstBad *BadRow           `json:"first_bad,omitempty"`
	Bytes    int64             `json:"bytes"`   // of all parts
	Digests  map[string]string `json:"digests"` // of every column; they do not depend on chunks, parts or row groups
}

func (l ledger) committed() []bool {
	c := make([]bool, len(l.lines))
	for i, line := range l.lines {
		c[i] = line != nil
	}
	return c
}

func (l ledger) summary() (s Summary) {
	sums := digests{}
	for _, line := range l.lines {
		if line == nil {
			continue
		}
		s.Chunks++
		s.Rows += line.Rows
		s.Records += line.Records
		s.Bad += line.bad
		if s.FirstBad == nil {
			s.FirstBad = line.firstBad
		}
		s.Bytes += line.Bytes
		sums.merge(line.Columns)
	}
	s.Digests = sums.texts()
	return s
}

// Finish is called by rank 0 when every chunk is committed, by whichever rank. It writes bad-rows.parquet and _SUCCESS
// and removes what is left of open rows. On a finished output it only returns the summary. When chunks are missing it
// says which; nothing is lost then.
func (out *Output) Finish(ctx context.Context) (Summary, error) {
	if out.finished {
		return out.summary, nil
	}
	if err := out.held(); err != nil {
		return Summary{}, err
	}
	l, err := out.settle(ctx)
	if err != nil {
		return Summary{}, err
	}
	name := state(out.dir, "bad-rows.parquet")
	if _, err := writeAside(out.options.fs, state(out.dir, out.temporary("bad-rows.parquet")), name, func(w io.Writer) error {
		return guard(func() error { return out.writeBadRows(w, l) })
	}, out.held); err != nil {
		return Summary{}, diskError("cannot write", name, err)
	}
	out.committed, out.summary = l.committed(), l.summary()
	if err := out.sweepOpen(); err != nil {
		return Summary{}, diskError("cannot write to", out.dir, err)
	}
	text, err := json.MarshalIndent(out.summary, "", "  ")
	if err != nil {
		return Summary{}, err
	}
	name = filepath.Join(out.dir, successName)
	if _, err := writeAside(out.options.fs, filepath.Join(out.dir, out.temporary(successName)), name, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(append(text, '\n')))
		return err
	}, out.held); err != nil {
		return Summary{}, diskError("cannot write", name, err)
	}
	return out.summary, nil
}

// settle reads the ledger until every chunk is in it. Network file systems show a rank the files of another only
// after a while; they look again when this rank changes the folder, which the temporary file does.
func (out *Output) settle(ctx context.Context) (l ledger, err error) {
	for _, wait := range []time.Duration{0, 50 * time.Millisecond, 250 * time.Millisecond, time.Second, 4 * time.Second} {
		if wait > 0 {
			probe := state(out.dir, out.temporary("look"))
			f, err := out.options.fs.Create(probe, false)
			if err != nil {
				return l, diskError("cannot write", probe, err)
			}
			if err := errors.Join(f.Close(), out.options.fs.Remove(probe)); err != nil {
				return l, diskError("cannot write", probe, err)
			}
			select {
			case <-ctx.Done():
				return l, context.Cause(ctx)
			case <-time.After(wait):
			}
		}
		if l, err = out.readLedger(ctx); err != nil {
			return l, err
		}
		if l.summary().Chunks == len(out.job.Chunks) {
			return l, nil
		}
	}
	for i, line := range l.lines {
		if line == nil {
			c := out.job.Chunks[i]
			return l, fmt.Errorf("%s: %d of %d chunks are not committed, the first being rows %d to %d; start the same command again", out.dir,
				len(l.lines)-l.summary().Chunks, len(l.lines), c.First, c.First+c.Rows()-1)
		}
	}
	return l, nil
}

// writeBadRows lists the rows set aside: row, the id where there is one, part, error.
func (out *Output) writeBadRows(w io.Writer, l ledger) error {
	columns := []column{{"row", v15.PrimitiveTypes.Int64, func(r *Record) any { return &r.Row }, true}}
	if out.layout.ID.Type != nil {
		key := out.layout.key()
		key.name = "id"
		columns = append(columns, key)
	}
	columns = append(columns,
		column{"part", v15.BinaryTypes.String, func(r *Record) any { return &r.Label }, true},
		column{"error", v15.BinaryTypes.String, func(r *Record) any { return (*reason)(&r.Error) }, true})
	var fields []v15.Field
	for _, c := range columns {
		fields = append(fields, v15.Field{Name: c.name, Type: c.typ, Nullable: true})
	}
	schema, err := adoptSchema(v15.NewSchema(fields, nil))
	if err != nil {
		return err
	}
	table, err := newTableWriter(w, schema, len(columns))
	if err != nil {
		return err
	}
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	flush := func() error {
		batch := builder.NewRecordBatch()
		defer batch.Release()
		return table.write(batch)
	}
	waiting := 0
	for _, line := range l.lines {
		rows, err := line.badRows(out.options.fs)
		if err != nil {
			return err
		}
		for _, bad := range rows {
			if err := appendRecord(columns, builder.Fields(),
				&Record{Row: bad.Row, ID: bad.ID, Label: line.Part, Error: bad.Error}); err != nil {
				return err
			}
			if waiting++; waiting == out.options.RowGroupRows {
				if err := flush(); err != nil {
					return err
				}
				waiting = 0
			}
		}
	}
	return errors.Join(flush(), table.close())
}
