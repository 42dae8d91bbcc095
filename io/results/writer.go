package results

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	v15 "github.com/apache/arrow/go/v15/arrow"
)

// Writer commits the chunks of one rank. It is safe for use by several goroutines, as long as each commits chunks of
// its own.
type Writer struct {
	dir         string
	start, rank int
	options     Options
	columns     []column
	own         *arrow.Schema // the columns above
	schema      *arrow.Schema // and the carried ones
	samples     int
	told        *Phase // by Tell

	table  sync.Mutex // held while a part's table is made: of parts that are committed at once only the disk is waited for at once
	onDisk sync.Mutex // held while commit lines are made durable; before mu
	synced int        // lines that are; under onDisk

	mu      sync.Mutex // guards what follows
	commits handle     // nil when closed
	lines   int        // written so far
	written int64      // bytes of the parts that they name
	broken  error      // once a commit line could not be written, none is any more
}

// Join opens the output dir for one rank of a start, whose number is Output.Start, and makes the rank's commits file.
// So a rank that cannot write there says so at once, and one on a network file system, having changed the folder, sees
// what rank 0 has just put there, however fresh its idea of the folder was.
func Join(_ context.Context, dir string, start, rank int, layout Layout, o Options) (*Writer, error) {
	if start < 1 || rank < 0 {
		return nil, fmt.Errorf("cannot join %s as rank %d of start %d", dir, rank, start)
	}
	if err := layout.Check(); err != nil {
		return nil, err
	}
	schema, err := adoptSchema(layout.Schema())
	if err != nil {
		return nil, err
	}
	columns := layout.columns()
	own := arrow.NewSchema(schema.Fields()[:len(columns)], nil)
	w := &Writer{
		dir: dir, start: start, rank: rank, options: o.withDefaults(),
		columns: columns, own: own, schema: schema, samples: layout.samples(),
	}
	if w.commits, err = w.options.fs.Create(w.commitsName(), true); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is %w: rank %d does not see the folder that rank 0 has made there; give an --output that all ranks see, on a shared file system and by its whole path",
			dir, ErrUnusable, rank)
	} else if err != nil {
		return nil, diskError("cannot make", w.commitsName(), err)
	}
	if err := w.options.fs.SyncDir(filepath.Join(dir, stateFolder)); err != nil {
		return nil, errors.Join(diskError("cannot write to", dir, err), w.commits.Close())
	}
	return w, nil
}

func (w *Writer) commitsName() string {
	return state(w.dir, fmt.Sprintf("commits-%06d-%05d.jsonl", w.start, w.rank))
}

// Commit writes the part of a chunk and makes it count; when it returns nil, no kill and no power failure undoes it.
// records are all of the chunk in the order of its rows, with --n the samples of a row in turn; a row set aside is one
// record with an Error (with --n it is written once a sample). carry holds the carried columns, one row a row of the
// chunk, and may be nil when there are none. It fails with ErrLost when another job has taken the output over.
func (w *Writer) Commit(ctx context.Context, chunk Chunk, records []Record, carry v15.Record) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	records, bad, err := w.complete(chunk, records)
	if err != nil {
		return fmt.Errorf("chunk %d: %w", chunk.Index, err)
	}
	carried, err := w.adoptCarry(chunk, carry)
	if err != nil {
		return fmt.Errorf("chunk %d: %w", chunk.Index, err)
	}
	if err := fence(w.options.fs, w.dir, w.start); err != nil {
		return err
	}
	name, sums, whole := partName(chunk.Index), digests{}, sha256.New()
	size, err := w.aside(filepath.Join(w.dir, name), func(to io.Writer) error {
		w.table.Lock()
		defer w.table.Unlock()
		return guard(func() error { return w.writePart(io.MultiWriter(to, whole), chunk, records, carried, sums) })
	})
	if err != nil {
		return diskError("cannot write", filepath.Join(w.dir, name), err)
	}
	line := commitLine{
		Chunk: chunk.Index, Part: name, First: chunk.First, Rows: chunk.Rows(), Records: int64(len(records)),
		Bytes: size, SHA256: hex.EncodeToString(whole.Sum(nil)), Columns: sums, Bad: bad,
	}
	if err := w.append(line); err != nil {
		return err
	}
	err = w.options.fs.Remove(state(w.dir, openName(chunk.Index)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.options.Log.Warn("cannot remove the open rows of a committed chunk; the next start tries again", "chunk", chunk.Index, "error", err)
	}
	return nil
}

// aside writes a file whole or not at all, and not at all when the output is lost.
func (w *Writer) aside(name string, write func(io.Writer) error) (size int64, err error) {
	folder, base := filepath.Split(name)
	temporary := filepath.Join(folder, temporaryName(base, w.start, w.rank))
	return writeAside(w.options.fs, temporary, name, write, func() error { return fence(w.options.fs, w.dir, w.start) })
}

// complete checks that records are the chunk's, in order, and repeats those of bad rows once a sample.
func (w *Writer) complete(chunk Chunk, records []Record) (all []Record, bad []BadRow, err error) {
	all = make([]Record, 0, chunk.Rows()*int64(w.samples))
	next := 0
	for row := chunk.First; row < chunk.First+chunk.Rows(); row++ {
		failed := ""
		for sample := range int32(w.samples) {
			if next == len(records) || records[next].Row != row || records[next].Sample != sample {
				return nil, nil, fmt.Errorf("row %d, sample %d: there is no record, or not in its place", row, sample)
			}
			r := records[next]
			if r.Error != "" {
				if failed == "" {
					failed = validText(r.Error)
					bad = append(bad, BadRow{row, w.idOf(r), failed})
				}
			}
			all = append(all, r)
			next++
			if alone := next == len(records) || records[next].Row != row; r.Error != "" && sample == 0 && alone {
				for again := int32(1); again < int32(w.samples); again++ {
					r.Sample = again
					all = append(all, r)
				}
				break
			}
		}
	}
	if next != len(records) {
		return nil, nil, fmt.Errorf("%d records more than its %d rows have", len(records)-next, chunk.Rows())
	}
	return all, bad, nil
}

// idOf is what bad-rows.parquet shows beside the row's number: its id, where the output has one.
func (w *Writer) idOf(r Record) any {
	if id, ok := w.columns[0].of(&r).(*any); ok {
		return *id
	}
	return nil
}

// adoptCarry checks the carried columns against the layout and takes them over without copying.
func (w *Writer) adoptCarry(chunk Chunk, carry v15.Record) ([]arrow.Array, error) {
	fields := w.schema.Fields()[len(w.columns):]
	if carry == nil && len(fields) == 0 {
		return nil, nil
	}
	if carry == nil || int(carry.NumCols()) != len(fields) || carry.NumRows() != chunk.Rows() {
		return nil, fmt.Errorf("the carried columns have to be %d, of %d rows", len(fields), chunk.Rows())
	}
	same, err := adoptSchema(carry.Schema())
	if err != nil {
		return nil, err
	}
	columns := make([]arrow.Array, len(fields))
	for i, f := range fields {
		if got := same.Field(i); got.Name != f.Name || !arrow.TypeEqual(got.Type, f.Type) {
			return nil, fmt.Errorf("carried column %d is %s of type %s, not %s of type %s", i, got.Name, got.Type, f.Name, f.Type)
		}
		columns[i] = adopt(carry.Column(i), f.Type)
	}
	return columns, nil
}

// writePart writes the table of a chunk, row group by row group, and adds its columns to sums.
func (w *Writer) writePart(to io.Writer, chunk Chunk, records []Record, carried []arrow.Array, sums digests) error {
	table, err := newTableWriter(to, w.schema, len(w.columns))
	if err != nil {
		return err
	}
	var perRow int64 // bytes of the carried columns, on the average
	for _, c := range carried {
		perRow += int64(c.Data().SizeInBytes()) / max(chunk.Rows(), 1)
	}
	for from := 0; from < len(records) || from == 0; {
		to, size := from, int64(0)
		for ; to < len(records) && to-from < w.options.RowGroupRows; to++ {
			if size += records[to].footprint() + perRow; to > from && size > w.options.RowGroupBytes {
				break
			}
		}
		batch, err := w.batch(records[from:to], from, carried)
		if err != nil {
			return err
		}
		sums.add(batch, chunk.First*int64(w.samples)+int64(from))
		if err := table.write(batch); err != nil {
			return err
		}
		batch.Release()
		if from = to; from == len(records) {
			break
		}
	}
	return table.close()
}

// batch makes the columns of records, which begin at position from of the chunk.
func (w *Writer) batch(records []Record, from int, carried []arrow.Array) (arrow.RecordBatch, error) {
	own, err := buildBatch(w.columns, w.own, records)
	if err != nil {
		return nil, err
	}
	columns := append([]arrow.Array(nil), own.Columns()...)
	for _, c := range carried {
		piece, err := w.carriedPiece(c, from, from+len(records))
		if err != nil {
			return nil, err
		}
		columns = append(columns, piece)
	}
	return array.NewRecordBatch(w.schema, columns, int64(len(records))), nil
}

// carriedPiece is what column c, of one value a row, says of records from to to.
func (w *Writer) carriedPiece(c arrow.Array, from, to int) (arrow.Array, error) {
	if w.samples == 1 {
		return array.NewSlice(c, int64(from), int64(to)), nil
	}
	values := make([]arrow.Array, to-from)
	for i := range values {
		row := int64((from + i) / w.samples)
		values[i] = array.NewSlice(c, row, row+1)
	}
	return array.Concatenate(values, memory.DefaultAllocator)
}

// buildBatch makes the columns of records.
func buildBatch(columns []column, schema *arrow.Schema, records []Record) (arrow.RecordBatch, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	b.Reserve(len(records))
	for i := range records {
		if err := appendRecord(columns, b.Fields(), &records[i]); err != nil {
			return nil, err
		}
	}
	return b.NewRecordBatch(), nil
}

// append writes a commit line and waits until it is on the disk. Lines of parts that are committed at once go there
// together.
func (w *Writer) append(c commitLine) error {
	line, err := c.encode()
	if err != nil {
		return err
	}
	number, err := w.write(line)
	if err == nil {
		err = w.keep(number)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written += c.Bytes
	return nil
}

// keep waits until the first lines of the commits file, so many, are on the disk.
func (w *Writer) keep(number int) error {
	w.onDisk.Lock()
	defer w.onDisk.Unlock()
	if w.synced >= number {
		return nil
	}
	w.mu.Lock()
	lines, commits, broken := w.lines, w.commits, w.broken
	w.mu.Unlock()
	if broken != nil {
		return broken
	}
	if err := commits.Sync(); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.fail(err)
	}
	w.synced = lines
	return nil
}

// write writes a commit line, and returns how many lines there are then.
func (w *Writer) write(line []byte) (lines int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return 0, w.broken
	}
	if _, err := w.commits.Write(line); err != nil {
		return 0, w.fail(err)
	}
	w.lines++
	return w.lines, nil
}

// fail is called when a commit line could not be written: the file may end in half a line, and nothing may follow it.
func (w *Writer) fail(err error) error {
	w.broken = diskError("cannot write", w.commitsName(), err)
	return w.broken
}

// Written is the bytes of the parts that this writer has committed.
func (w *Writer) Written() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// Close closes the rank's commits file, and removes it when the rank has committed nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.commits == nil {
		return nil
	}
	err := w.commits.Close()
	if w.lines == 0 && w.broken == nil {
		err = errors.Join(err, w.options.fs.Remove(w.commitsName()))
	}
	w.commits, w.broken = nil, fmt.Errorf("%s: the writer is closed", w.dir)
	return err
}
