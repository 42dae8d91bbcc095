package dataset

import (
	"errors"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
)

// source is one opened file of columns: its schema and rows are known and checked, nothing is held open.
type source interface {
	// columns lists the file's top-level columns in its order.
	columns() []column
	// rows counts the file's rows.
	rows() int64
	// check looks at what the file's metadata says of the columns that will be read, by index.
	check(columns []int) error
	// scan opens the file and goes to a row; the records have the columns in the order given.
	scan(columns []int, from int64) (scanner, error)
}

// scanner reads a source's rows in order. It is one goroutine's.
type scanner interface {
	io.Closer
	// at is the file-local number of the row that next begins with.
	at() int64
	// next returns between 1 and limit rows of one row group or record batch, and its number; io.EOF after the last.
	next(limit int64) (rec arrow.Record, group int, err error)
}

// column is a top-level column; one whose type cannot be read has an error instead, which matters only if it is wanted.
type column struct {
	arrow.Field
	err error
}

// shut closes what was only read: nothing can be lost by it.
func shut(c io.Closer) { _ = c.Close() }

var errChanged = errors.New("the file changed since the job began")
