package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/apache/arrow/go/v15/arrow"
	"golang.org/x/sync/errgroup"
)

// Open finds the files of the patterns (files, folders, globs), checks that each has the columns that the job needs, with
// types that fit, and counts rows: from metadata where a format has them, else in one pass. The first file that does not
// fit, in their order, is the error: before any row is read, and before any model is loaded.
//
// Order: files as given, those of a folder or glob by path; a file named twice is read once, names that begin with _ or .
// are passed over, and folders named KEY=VALUE on the way give a column KEY.
func Open(ctx context.Context, patterns []string, columns Columns) (*Dataset, error) {
	return OpenTogether(ctx, patterns, columns, Peers{})
}

// OpenTogether is Open by all ranks of a job, who count the rows of files of lines between them. A rank that cannot open
// the data set makes it an error of all.
func OpenTogether(ctx context.Context, patterns []string, columns Columns, peers Peers) (*Dataset, error) {
	names, err := columns.names()
	if err != nil { // of the request: the same on all ranks
		return nil, err
	}
	paths, err := expand(patterns)
	lines, err := indexLines(ctx, paths, columns.ID != "" || len(columns.Carry) > 0 || columns.CarryAll, peers, err)
	if err != nil {
		return nil, err
	}
	parts := make([][]partition, len(paths))
	for i, path := range paths {
		parts[i] = partitions(path)
	}
	o := opener{columns: columns, names: names, whole: wholePartitions(parts), lines: lines, wholeMost: wholeMost(len(paths))}
	o.budget.Store(footerBudget)
	opened := make([]openedFile, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(min(16, 4*runtime.GOMAXPROCS(0)))
	for i, path := range paths {
		group.Go(func() error {
			if ctx.Err() == nil {
				opened[i], opened[i].err = o.open(i, path, parts[i])
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
	for _, name := range overrideNames {
		if slices.ContainsFunc(cols, func(file []column) bool { return find(file, name) >= 0 }) {
			d.own = append(d.own, name)
		}
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
		if len(wanted) == 0 {
			continue
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
		is := arrow.PrimitiveTypes.Int64
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

// opener opens files; budget is what footers kept in memory may still take.
type opener struct {
	columns Columns
	names   [roles]string
	whole   map[string]bool
	lines   map[int]*jsonlFile // the files of lines, by place
	budget  atomic.Int64

	wholeMost int64 // of a file that its identity is of as a whole
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

func (o *opener) open(i int, path string, parts []partition) (f openedFile, err error) {
	format, err := formatOfFile(path)
	if err != nil {
		return f, named(path, err)
	}
	if format == formatJSONL {
		err = o.openLines(o.lines[i], parts, &f)
	} else {
		err = o.openColumns(path, format, parts, &f)
	}
	if err == nil {
		f.bytes, f.identity, err = fingerprint(path, f.rows.rows(), o.wholeMost)
	}
	return f, named(path, err)
}

func (o *opener) openLines(p *jsonlFile, parts []partition, f *openedFile) error {
	if err := p.settle(); err != nil {
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
func isSystem(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && !errors.Is(err, io.ErrUnexpectedEOF)
}
