package results

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// DiffOptions of Diff. The zero value wants the same bits everywhere.
type DiffOptions struct {
	// Bound is how far two floating-point numbers (log-probabilities, logits, embeddings, perplexities) may lie apart:
	// |a−b| ≤ Bound·max(1, |a|, |b|). Texts, ids, counts and lengths have to be the same whatever it is.
	Bound float64
}

// DiffReport of Diff. Row numbers are those of records: rows times samples.
type DiffReport struct {
	Records      int64    // there on both sides, and compared
	OnlyA, OnlyB int64    // records committed on one side alone
	ColumnsA     []string // columns of one side alone; they are not compared
	ColumnsB     []string
	Columns      []ColumnDiff // those of both sides, in a's order
}

// ColumnDiff tells how a column differs.
type ColumnDiff struct {
	Name     string
	Differs  int64    // in how many records
	Largest  float64  // the largest |a−b|/max(1, |a|, |b|), of numbers within the bound too
	Examples []string // the first few
}

// Same tells whether all records are on both sides and alike.
func (r DiffReport) Same() bool {
	return r.OnlyA == 0 && r.OnlyB == 0 && len(r.ColumnsA) == 0 && len(r.ColumnsB) == 0 &&
		!slices.ContainsFunc(r.Columns, func(c ColumnDiff) bool { return c.Differs > 0 })
}

// Diff compares what two outputs have committed, record by record, however their chunks, parts and row groups are cut.
// Outputs of unlike numbers of samples are ErrUnlike.
func Diff(ctx context.Context, a, b string, o DiffOptions) (DiffReport, error) {
	var report DiffReport
	left, err := openStream(ctx, disk{}, a)
	if err != nil {
		return report, err
	}
	right, err := openStream(ctx, disk{}, b)
	if err != nil {
		return report, err
	}
	if left.samples != right.samples {
		return report, fmt.Errorf("%s was made with --n %d, %s with --n %d: they %w record by record", a, left.samples, b, right.samples, ErrUnlike)
	}
	err = report.compare(ctx, left, right, o)
	return report, errors.Join(err, left.close(), right.close())
}

func (r *DiffReport) compare(ctx context.Context, left, right *stream, o DiffOptions) error {
	for {
		if err := errors.Join(left.fill(ctx), right.fill(ctx)); err != nil {
			return err
		}
		switch {
		case left.batch == nil && right.batch == nil:
			return nil
		case right.batch == nil || left.batch != nil && left.record < right.record:
			n := left.rest()
			if right.batch != nil {
				n = min(n, right.record-left.record)
			}
			r.OnlyA += n
			left.skip(n)
		case left.batch == nil || right.record < left.record:
			n := right.rest()
			if left.batch != nil {
				n = min(n, left.record-right.record)
			}
			r.OnlyB += n
			right.skip(n)
		default:
			n := min(left.rest(), right.rest())
			if err := guard(func() error { r.compareBatch(left, right, int(n), o); return nil }); err != nil {
				return fmt.Errorf("%s and %s, records from %d on: %w", left.table.name, right.table.name, left.record, err)
			}
			left.skip(n)
			right.skip(n)
		}
	}
}

// compareBatch compares the next n records of both sides.
func (r *DiffReport) compareBatch(left, right *stream, n int, o DiffOptions) {
	if r.Columns == nil {
		r.matchColumns(left.batch.Schema(), right.batch.Schema())
	}
	r.Records += int64(n)
	for c := range r.Columns {
		column := &r.Columns[c]
		a := left.batch.Column(left.batch.Schema().FieldIndices(column.Name)[0])
		b := right.batch.Column(right.batch.Schema().FieldIndices(column.Name)[0])
		hashA, hashB := hasher(a), hasher(b)
		apart := distance(a, b)
		for k := range n {
			i, j := left.at+k, right.at+k
			if hashA(0, i) == hashB(0, j) {
				continue
			}
			d := apart(i, j)
			if !math.IsInf(d, 0) {
				column.Largest = max(column.Largest, d)
			}
			if o.Bound > 0 && d <= o.Bound {
				continue
			}
			column.Differs++
			if len(column.Examples) < 3 {
				column.Examples = append(column.Examples,
					fmt.Sprintf("record %d: %s | %s", left.record+int64(k), brief(a.ValueStr(i)), brief(b.ValueStr(j))))
			}
		}
	}
}

func (r *DiffReport) matchColumns(a, b *arrow.Schema) {
	for _, f := range a.Fields() {
		if b.HasField(f.Name) {
			r.Columns = append(r.Columns, ColumnDiff{Name: f.Name})
		} else {
			r.ColumnsA = append(r.ColumnsA, f.Name)
		}
	}
	for _, f := range b.Fields() {
		if !a.HasField(f.Name) {
			r.ColumnsB = append(r.ColumnsB, f.Name)
		}
	}
}

// distance tells how far value i of a lies from value j of b, floating-point numbers being the only ones that can be
// near each other: 0 for the same, +Inf where anything else differs.
func distance(a, b arrow.Array) func(i, j int) float64 {
	value := valueDistance(a, b)
	return func(i, j int) float64 {
		switch {
		case a.IsNull(i) && b.IsNull(j):
			return 0
		case a.IsNull(i) || b.IsNull(j):
			return math.Inf(1)
		}
		return value(i, j)
	}
}

func valueDistance(a, b arrow.Array) func(i, j int) float64 {
	switch a := a.(type) {
	case *array.Float32:
		if b, ok := b.(*array.Float32); ok {
			return func(i, j int) float64 { return apart(float64(a.Value(i)), float64(b.Value(j))) }
		}
	case *array.Float64:
		if b, ok := b.(*array.Float64); ok {
			return func(i, j int) float64 { return apart(a.Value(i), b.Value(j)) }
		}
	case array.ListLike:
		if b, ok := b.(array.ListLike); ok {
			element := distance(a.ListValues(), b.ListValues())
			return func(i, j int) float64 {
				from, to := a.ValueOffsets(i)
				other, end := b.ValueOffsets(j)
				if to-from != end-other {
					return math.Inf(1)
				}
				largest := 0.0
				for k := range to - from {
					largest = max(largest, element(int(from+k), int(other+k)))
				}
				return largest
			}
		}
	case *array.Struct:
		if b, ok := b.(*array.Struct); ok && a.NumField() == b.NumField() {
			fields := make([]func(i, j int) float64, a.NumField())
			for f := range fields {
				fields[f] = distance(a.Field(f), b.Field(f))
			}
			return func(i, j int) float64 {
				largest := 0.0
				for _, field := range fields {
					largest = max(largest, field(i, j))
				}
				return largest
			}
		}
	}
	hashA, hashB := hasher(a), hasher(b)
	return func(i, j int) float64 {
		if hashA(0, i) == hashB(0, j) {
			return 0
		}
		return math.Inf(1)
	}
}

func apart(a, b float64) float64 {
	switch {
	case a == b || math.IsNaN(a) && math.IsNaN(b):
		return 0
	case math.IsNaN(a-b) || math.IsInf(a-b, 0):
		return math.Inf(1)
	}
	return math.Abs(a-b) / max(1, math.Abs(a), math.Abs(b))
}

// stream reads the committed records of an output in their order.
type stream struct {
	fs      fileSystem
	dir     string
	samples int
	lines   []*commitLine // of the parts still to be opened
	table   *table        // the open one, or nil
	batch   arrow.RecordBatch
	at      int   // of the next record in batch
	record  int64 // its global number
}

func openStream(ctx context.Context, fsys fileSystem, dir string) (*stream, error) {
	job, err := readJob(fsys, dir)
	if err != nil {
		return nil, err
	}
	l, err := readLedger(ctx, fsys, dir, job.Chunks, job.Samples, func(string) {})
	if err != nil {
		return nil, err
	}
	s := &stream{fs: fsys, dir: dir, samples: job.Samples}
	for _, line := range l.lines {
		if line != nil {
			s.lines = append(s.lines, line)
		}
	}
	return s, nil
}

// fill sees to it that batch has a next record; batch is nil at the end.
func (s *stream) fill(ctx context.Context) error {
	for s.batch == nil || s.rest() == 0 {
		s.batch = nil
		if s.table == nil {
			if len(s.lines) == 0 {
				return nil
			}
			var err error
			if s.table, err = openTable(ctx, s.fs, filepath.Join(s.dir, s.lines[0].Part)); err != nil {
				return err
			}
			s.record = s.lines[0].First * int64(s.samples)
			s.lines = s.lines[1:]
		}
		batch, err := s.table.next()
		if errors.Is(err, io.EOF) {
			err, s.table = s.table.close(), nil
		}
		if err != nil {
			return err
		}
		s.batch, s.at = batch, 0
	}
	return ctx.Err()
}

func (s *stream) rest() int64 { return s.batch.NumRows() - int64(s.at) }

func (s *stream) skip(n int64) { s.at, s.record = s.at+int(n), s.record+n }

func (s *stream) close() error {
	if s.table == nil {
		return nil
	}
	return s.table.close()
}
