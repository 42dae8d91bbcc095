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
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"golang.org/x/sync/errgroup"
)

// Dataset is the opened input of a job. Its methods may be called from several goroutines.
type Dataset struct {
	files  []File
	inside []rowFile
	carry  *arrow.Schema
	plans  []*carryPlan
	idType arrow.DataType

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
	// open starts at a row; with a plan it reads carried columns, else rows.
	open(from int64, carry *carryPlan, textIDs bool) (cursor, error)
}

// cursor reads a file in order from a place. It is one goroutine's.
type cursor interface {
	at() int64
	rows(limit int64) ([]*Row, error)         // 1 to limit rows; with an error, the good ones before it
	record(limit int64) (arrow.Record, error) // of 1 to limit rows
	reaches(row int64) bool                   // whether forward to a row is better than a new cursor
	forward(row int64) error                  // passes rows
	Close() error
}

type idleCursor struct {
	file  int
	carry bool
	cursor
}

// Open finds the files of the patterns (files, folders, globs), checks that each has the columns that the job needs, with
// types that fit, and counts rows: from metadata where a format has them, else in one pass. The first file that does not
// fit, in their order, is the error: before any row is read, and before any model is loaded.
//
// Order: files as given, those of a folder or glob by path; a file named twice is read once, names that begin with _ or .
// are passed over, and folders named KEY=VALUE on the way give a column KEY.
func Open(ctx context.Context, patterns []string, columns Columns) (*Dataset, error) {
	names, err := columns.names()
	if err != nil {
		return nil, err
	}
	paths, err := expand(patterns)
	if err != nil {
		return nil, err
	}
	parts := make([][]partition, len(paths))
	for i, path := range paths {
		parts[i] = partitions(path)
	}
	o := opener{columns: columns, names: names, whole: wholePartitions(parts)}
	o.budget.Store(footerBudget)
	opened := make([]openedFile, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(16, 4*runtime.GOMAXPROCS(0)))
	for i, path := range paths {
		group.Go(func() error {
			if ctx.Err() == nil {
				opened[i], opened[i].err = o.open(path, parts[i])
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return o.assemble(paths, opened)
}

// assemble puts the opened files together: numbers, ids, carried columns.
func (o *opener) assemble(paths []string, opened []openedFile) (*Dataset, error) {
	d := &Dataset{}
	var rows int64
	cols := make([][]column, len(opened))
	for i := range opened {
		f := &opened[i]
		if f.err != nil {
			return nil, f.err
		}
		f.setFirst(rows)
		d.files = append(d.files, File{Path: paths[i], Rows: f.rows.rows(), First: rows, Bytes: f.bytes, Identity: f.identity})
		d.inside = append(d.inside, f.rows)
		cols[i] = f.cols
		rows += f.rows.rows()
	}
	var err error
	if d.idType, err = idType(paths, cols, o.names[roleID]); err != nil {
		return nil, err
	}
	d.carry, d.plans, err = carried(paths, cols, o.columns, o.names)
	if err != nil {
		return nil, err
	}
	for i, f := range opened {
		if f.source == nil {
			continue
		}
		var wanted []int
		for _, c := range d.plans[i].from {
			if c >= 0 {
				wanted = append(wanted, c)
			}
		}
		if err := f.source.check(wanted); err != nil {
			return nil, place{file: paths[i], group: -1, row: -1}.damaged(err)
		}
	}
	return d, nil
}

// idType is what the ids of all files are: 64-bit integers or texts.
func idType(paths []string, files [][]column, name string) (arrow.DataType, error) {
	if name == "" {
		return nil, nil
	}
	var typ arrow.DataType
	var from string
	for i, cols := range files {
		at := find(cols, name)
		if at < 0 {
			continue // a file of lines, none of which is good
		}
		is := arrow.DataType(arrow.PrimitiveTypes.Int64)
		switch {
		case cols[at].Type.ID() == arrow.NULL:
			continue
		case isText(cols[at].Type):
			is = arrow.BinaryTypes.String
		}
		if typ == nil {
			typ, from = is, paths[i]
		}
		if typ.ID() != is.ID() {
			return nil, refuse(ErrColumn, "%s: column %s has the type %v, but ids are %v in %s; convert one", paths[i], name, cols[at].Type, typ, from)
		}
	}
	if typ == nil {
		typ = arrow.BinaryTypes.String
	}
	return typ, nil
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
		c, err := d.take(file, from, to, false)
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

// Carry returns the carried columns of the rows from..to-1 of a file; the caller releases it. Bad rows are in it with
// what they have. The rows of a chunk are held at once: choose from and to accordingly.
func (d *Dataset) Carry(ctx context.Context, file int, from, to int64) (_ arrow.Record, err error) {
	c, err := d.take(file, from, to, true)
	if err != nil {
		return nil, err
	}
	defer func() { d.leave(file, c, err) }()
	var records []arrow.Record
	defer func() {
		for _, r := range records {
			r.Release()
		}
	}()
	for c.at() < to {
		if err = ctx.Err(); err != nil {
			return nil, err
		}
		var r arrow.Record
		if r, err = c.record(to - c.at()); err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return d.joined(records, to-from)
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
func (d *Dataset) take(file int, from, to int64, carry bool) (idleCursor, error) {
	if file < 0 || file >= len(d.files) || from < 0 || to < from || to > d.files[file].Rows {
		return idleCursor{}, refuse(ErrUsage, "rows %d to %d of file %d: there are %d files, and this range is not in one", from, to, file, len(d.files))
	}
	if c, ok := d.takeIdle(file, from, carry); ok {
		err := c.forward(from)
		if err != nil {
			return idleCursor{}, errors.Join(err, c.Close())
		}
		return c, nil
	}
	var plan *carryPlan
	if carry {
		plan = d.plans[file]
	}
	c, err := d.inside[file].open(from, plan, d.idType != nil && d.idType.ID() == arrow.STRING)
	if err != nil {
		return idleCursor{}, named(d.files[file].Path, err)
	}
	return idleCursor{file, carry, c}, nil
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
		_ = c.Close() // the file was only read
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, c)
	if len(d.idle) > mostIdle {
		_ = d.idle[0].Close()
		d.idle = append(d.idle[:0], d.idle[1:]...)
	}
}

// opener opens files; budget is what footers kept in memory may still take.
type opener struct {
	columns Columns
	names   [roles]string
	whole   map[string]bool
	budget  atomic.Int64
}

// openedFile is one file on its way into a Dataset.
type openedFile struct {
	rows     rowFile
	source   source // nil for lines
	cols     []column
	setFirst func(int64)
	bytes    int64
	identity string
	err      error
}

func (o *opener) open(path string, parts []partition) (f openedFile, err error) {
	format, err := formatOfFile(path)
	if err != nil {
		return f, named(path, err)
	}
	if format == formatJSONL {
		err = o.openLines(path, parts, &f)
	} else {
		err = o.openColumns(path, format, parts, &f)
	}
	if err == nil {
		f.bytes, f.identity, err = fingerprint(path, f.rows.rows())
	}
	return f, named(path, err)
}

func (o *opener) openLines(path string, parts []partition, f *openedFile) error {
	p, err := openJSONL(path, o.columns.ID != "" || len(o.columns.Carry) > 0 || o.columns.CarryAll)
	if err != nil {
		return err
	}
	p.addPartitions(parts, o.whole)
	f.rows, f.cols, f.setFirst = p, p.cols, func(n int64) { p.first = n }
	return p.bind(o.names)
}

func (o *opener) openColumns(path string, format format, parts []partition, f *openedFile) error {
	var s source
	if format == formatParquet {
		p, err := openParquet(path, &o.budget)
		if err != nil {
			return err
		}
		s, f.setFirst = p, func(n int64) { p.first = n }
	} else {
		p, err := openIPC(path)
		if err != nil {
			return err
		}
		s, f.setFirst = p, func(n int64) { p.first = n }
	}
	f.source = withPartitions(s, parts, o.whole)
	f.cols = f.source.columns()
	b, err := bind(path, f.cols, o.names)
	if err != nil {
		return err
	}
	t := &tableFile{source: f.source, path: path, binding: b}
	setSource := f.setFirst
	f.setFirst = func(n int64) { setSource(n); t.first = n }
	f.rows = t
	return f.source.check(b.wanted)
}

// named gives an error of the system or of a format its sentence; refusals have theirs.
func named(path string, err error) error {
	var r *refusal
	switch {
	case err == nil || errors.As(err, &r):
		return err
	case isSystem(err):
		return refuse(ErrMissing, "%s: %v", path, cause(err))
	}
	return place{file: path, group: -1, row: -1}.damaged(fmt.Errorf("%w", err))
}
