package dataset

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// tableFile is a source of columns with what they are used for.
type tableFile struct {
	source
	path    string
	first   int64
	binding binding
}

func (t *tableFile) open(from int64, carry *carryPlan, textIDs bool) (cursor, error) {
	wanted := t.binding.wanted
	if carry != nil {
		wanted = nil
		for _, c := range carry.from {
			if c >= 0 {
				wanted = append(wanted, c)
			}
		}
	}
	s, err := t.scan(wanted, from)
	if err != nil {
		return nil, err
	}
	return &tableCursor{scanner: s, tableFile: t, wanted: wanted, carry: carry}, nil
}

type tableCursor struct {
	scanner
	*tableFile
	wanted []int
	carry  *carryPlan
	single bool // rows are read one at a time, to find the first that is damaged
}

func (c *tableCursor) reaches(row int64) bool               { return c.at() == row }
func (c *tableCursor) forward(context.Context, int64) error { return nil } // it is there

func (c *tableCursor) rows(limit int64) ([]*Row, error) {
	number := c.first + c.at()
	rec, _, err := c.batch(limit)
	if err != nil {
		return nil, c.early(err)
	}
	defer rec.Release()
	out := make([]*Row, rec.NumRows())
	for i := range out {
		row := &Row{Number: number + int64(i)}
		out[i] = row.checked(c.path, c.binding.row(rec, i, row))
	}
	return out, nil
}

// batch is next, but when a batch cannot be decoded it begins again and goes row by row: those before the damaged one are
// good, and the error names that.
func (c *tableCursor) batch(limit int64) (arrow.Record, int, error) {
	if c.single {
		return c.next(1)
	}
	rec, group, err := c.next(limit)
	if !errors.Is(err, ErrDamaged) {
		return rec, group, err
	}
	again, openErr := c.scan(c.wanted, c.at())
	if openErr != nil {
		return nil, group, err
	}
	shut(c.scanner)
	c.scanner, c.single = again, true
	return c.next(1)
}

// early is for a file that has fewer rows than it had.
func (c *tableCursor) early(err error) error {
	if errors.Is(err, io.EOF) {
		return place{file: c.path, group: -1, row: c.first + c.at()}.damaged(errChanged)
	}
	return err
}

func (c *tableCursor) record(limit int64) (arrow.Record, error) {
	rec, _, err := c.next(limit)
	if err != nil {
		return nil, c.early(err)
	}
	defer rec.Release()
	arrays, own := make([]arrow.Array, len(c.carry.from)), 0
	for i, from := range c.carry.from {
		if from < 0 {
			arrays[i] = array.NewNull(int(rec.NumRows()))
			continue
		}
		arrays[i] = rec.Column(own)
		arrays[i].Retain()
		own++
	}
	out, err := c.carry.record(arrays, rec.NumRows())
	if err != nil {
		return nil, refuse(ErrColumn, "%s: %v", c.path, err)
	}
	return out, nil
}

// checked is the row, or what is left of it when it is bad.
func (r *Row) checked(path string, bad error) *Row {
	if bad == nil {
		return r
	}
	return &Row{Number: r.Number, ID: r.ID, Err: &RowError{File: path, Row: r.Number, Err: bad}}
}
