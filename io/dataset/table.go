package dataset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"

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
	return &tableCursor{scanner: s, tableFile: t, carry: carry}, nil
}

type tableCursor struct {
	scanner
	*tableFile
	carry *carryPlan
}

func (c *tableCursor) reaches(row int64) bool { return c.at() == row }
func (c *tableCursor) forward(int64) error    { return nil } // it is there

func (c *tableCursor) rows(limit int64) ([]*Row, error) {
	number := c.first + c.at()
	rec, _, err := c.next(limit)
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

func isSystem(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && !errors.Is(err, io.ErrUnexpectedEOF)
}

// The samples of a file's content that make its identity: enough to notice a file written anew, in a fixed time.
const (
	samples    = 16
	sampleSize = 64 << 10
)

// fingerprint is the file's size, and a digest of it, the rows and samples from begin to end (where Parquet and Arrow
// keep offsets and statistics of all the rest).
func fingerprint(path string, rows int64) (size int64, digest string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	size = info.Size()
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, [2]int64{size, rows}) // a hash takes everything
	if size <= samples*sampleSize {
		_, err = io.Copy(h, f)
		return size, hex.EncodeToString(h.Sum(nil)), err
	}
	buf := make([]byte, sampleSize)
	for i := range int64(samples) {
		at := (size - sampleSize) / (samples - 1) * i
		if i == samples-1 {
			at = size - sampleSize
		}
		if _, err := f.ReadAt(buf, at); err != nil {
			return 0, "", err
		}
		h.Write(buf)
	}
	return size, hex.EncodeToString(h.Sum(nil)), nil
}
