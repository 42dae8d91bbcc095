// Package dataset reads the rows of a job's input: Parquet, Arrow files and streams (Feather too) and JSON Lines, in many
// files, in constant memory, only the columns that are needed.
//
// A row is one prompt with what belongs to it; rows are numbered through all files from 0. A bad row (null, no UTF-8, a
// broken line) is given out with its reason and the next one follows. Damage (a checksum, a count, a length that cannot
// be) ends reading with an error that names file, row group and row; no row from the damaged place on is given out.
//
// The border: input files and arrow types, v15 throughout. No model, no tokenizer, no output. Parquet is decoded by
// arrow-go v18, whose pages are checked here first (page.go); nothing takes memory because a number in a file says so, and
// no panic of a library leaves the package.
package dataset

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// Dataset is the opened input of a job. Its methods may be called from several goroutines.
type Dataset struct {
	files  []File
	inside []rowFile
	carry  *arrow.Schema
	plans  []*carryPlan
	idType arrow.DataType
	own    []string // see OwnSettings

	mu   sync.Mutex
	idle []idleCursor // where readers stopped, newest last: the next chunk often goes on there
}

// File is one input file.
type File struct {
	Path     string // as the user wrote it, or as found under what they wrote
	Rows     int64
	First    int64 // global number of its first row
	Bytes    int64
	Identity string // digest of size, rows and samples of the content, for the job's fingerprint: not a checksum
}

// rowFile is a file of any format once its columns are bound.
type rowFile interface {
	rows() int64
	// open starts at a row, or before it; with a plan it reads carried columns, else rows.
	open(from int64, carry *carryPlan, textIDs bool) (cursor, error)
}

// cursor reads a file in order from a place. It is one goroutine's.
type cursor interface {
	at() int64
	rows(limit int64) ([]*Row, error)             // 1 to limit rows; with an error, the good ones before it
	record(limit int64) (arrow.Record, error)     // of 1 to limit rows
	reaches(row int64) bool                       // whether forward to a row is better than a new cursor
	forward(ctx context.Context, row int64) error // passes rows
	Close() error
}

type idleCursor struct {
	file  int
	carry bool
	cursor
}

// Files lists the input files in order.
func (d *Dataset) Files() []File { return d.files }

// Rows counts the rows of all files.
func (d *Dataset) Rows() int64 {
	var n int64
	for _, f := range d.files {
		n += f.Rows
	}
	return n
}

// CarrySchema lists the columns that go through to the output, under their names there; all are nullable.
func (d *Dataset) CarrySchema() []arrow.Field { return d.carry.Fields() }

// IDType is the type of the rows' ids, int64 or utf8; nil without an id column.
func (d *Dataset) IDType() arrow.DataType { return d.idType }

// OwnSettings lists the columns, found in any of the files, by which rows have settings of their own (Overrides).
func (d *Dataset) OwnSettings() []string { return d.own }

// Close releases the files that stay open between reads.
func (d *Dataset) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for _, c := range d.idle {
		err = errors.Join(err, c.Close())
	}
	d.idle = nil
	return err
}

// Read gives out the rows from..to-1 of a file, counted from the file's first. Memory is bounded by a batch of rows, a
// Parquet page a column, or an Arrow batch. Entering a file costs nothing before the row group or batch; inside a row
// group whole pages are passed undecoded; compressed JSON Lines are decompressed from where a reader last stopped before.
// An error ends it: of the context, or a sentence that wraps ErrDamaged.
func (d *Dataset) Read(ctx context.Context, file int, from, to int64) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		c, err := d.take(ctx, file, from, to, false)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { d.leave(file, c, err) }()
		for c.at() < to {
			if err = ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			var rows []*Row
			rows, err = c.rows(to - c.at())
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// maxCarried bounds the carried columns of a chunk: writing them takes some four times as much.
const maxCarried = 1 << 30

// Carry returns the carried columns of the rows from..to-1 of a file; the caller releases it. Bad rows are in it with
// what they have. A value whose text is not UTF-8 is null there, and its row is listed as bad. The rows of a chunk are held
// at once, and more than maxCarried of them is refused.
func (d *Dataset) Carry(ctx context.Context, file int, from, to int64) (_ arrow.Record, bad []*RowError, err error) {
	c, err := d.take(ctx, file, from, to, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() { d.leave(file, c, err) }()
	var records []arrow.Record
	var held int64
	defer func() {
		for _, r := range records {
			r.Release()
		}
	}()
	for c.at() < to {
		if err = ctx.Err(); err != nil {
			return nil, nil, err
		}
		var r arrow.Record
		first := c.at()
		if r, err = c.record(to - first); err != nil {
			return nil, nil, err
		}
		r, reasons := withoutBadText(r)
		for row := range r.NumRows() {
			if reason := reasons[int(row)]; reason != nil {
				bad = append(bad, &RowError{File: d.files[file].Path, Row: d.files[file].First + first + row, Err: reason})
			}
		}
		records = append(records, r)
		for _, column := range r.Columns() {
			held += bytesOf(column)
		}
		if held > maxCarried {
			err = refuse(ErrUsage, "%s: the rows %d to %d of a chunk have more than %d MiB in the columns that are carried; set a smaller --chunk-rows, or carry fewer columns",
				d.files[file].Path, d.files[file].First+from, d.files[file].First+to-1, maxCarried>>20)
			return nil, nil, err
		}
	}
	whole, err := d.joined(records, to-from)
	return whole, bad, err
}

// joined puts records one behind the other.
func (d *Dataset) joined(records []arrow.Record, rows int64) (_ arrow.Record, err error) {
	defer guard(&err)
	if len(records) == 1 {
		records[0].Retain()
		return records[0], nil
	}
	arrays := make([]arrow.Array, d.carry.NumFields())
	for i := range arrays {
		pieces := make([]arrow.Array, len(records))
		for k, r := range records {
			pieces[k] = r.Column(i)
		}
		if len(pieces) == 0 {
			b := array.NewBuilder(memory.DefaultAllocator, d.carry.Field(i).Type)
			arrays[i] = b.NewArray()
			b.Release()
		} else if arrays[i], err = array.Concatenate(pieces, memory.DefaultAllocator); err != nil {
			return nil, err
		}
	}
	defer func() {
		for _, a := range arrays {
			a.Release()
		}
	}()
	return array.NewRecord(d.carry, arrays, rows), nil
}

// mostIdle bounds the files that stay open between reads.
const mostIdle = 8

// take finds a cursor at a row: one that was left there, or before it, or a new one.
func (d *Dataset) take(ctx context.Context, file int, from, to int64, carry bool) (idleCursor, error) {
	if file < 0 || file >= len(d.files) || from < 0 || to < from || to > d.files[file].Rows {
		return idleCursor{}, refuse(ErrUsage, "rows %d to %d of file %d: there are %d files, and this range is not in one", from, to, file, len(d.files))
	}
	if c, ok := d.takeIdle(file, from, carry); ok {
		return c.entered(ctx, from)
	}
	var plan *carryPlan
	if carry {
		plan = d.plans[file]
	}
	c, err := d.inside[file].open(from, plan, d.idType != nil && d.idType.ID() == arrow.STRING)
	if err != nil {
		return idleCursor{}, named(d.files[file].Path, err)
	}
	return idleCursor{file, carry, c}.entered(ctx, from)
}

// entered is the cursor once it is at a row; where it does not get there, it is closed.
func (c idleCursor) entered(ctx context.Context, row int64) (idleCursor, error) {
	if err := c.forward(ctx, row); err != nil {
		return idleCursor{}, errors.Join(err, c.Close())
	}
	return c, nil
}

// progressKey is that of a context's function for WithProgress.
type progressKey struct{}

// WithProgress has what is read under the context call f from time to time on the way to its first row, which in a compressed
// file may be minutes away.
func WithProgress(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

func (d *Dataset) takeIdle(file int, from int64, carry bool) (idleCursor, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	best := -1
	for i, c := range d.idle {
		if c.file == file && c.carry == carry && c.reaches(from) && (best < 0 || c.at() > d.idle[best].at()) {
			best = i
		}
	}
	if best < 0 {
		return idleCursor{}, false
	}
	c := d.idle[best]
	d.idle = append(d.idle[:best], d.idle[best+1:]...)
	return c, true
}

// leave keeps a cursor that ended well for the next read, and closes one that did not, and the oldest of too many.
func (d *Dataset) leave(file int, c idleCursor, err error) {
	if err != nil || c.at() >= d.files[file].Rows {
		shut(c)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, c)
	if len(d.idle) > mostIdle {
		shut(d.idle[0])
		d.idle = append(d.idle[:0], d.idle[1:]...)
	}
}
