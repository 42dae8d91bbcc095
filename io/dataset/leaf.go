package dataset

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// leaf reads one primitive column of a row group, in order: levels and values come from v18's column reader, out of pages
// that are checked (page.go), and end in v15 builders. Rows are decoded by ready, and then read: flat, or through level,
// take and pass.
type leaf interface {
	// ready decodes until a row at least is whole, and says how many are, at most most: about a megabyte of values, so
	// that a record of all columns has a bounded size whatever one value's is.
	ready(most int) (rows int, err error)
	// skip passes over rows, whole pages undecoded where that can be; only before anything else is read.
	skip(rows int64) error

	// flat appends rows that are ready of a column that is in no list and no struct: a value or a null each.
	flat(b array.Builder, rows int) error
	// level is the repetition and definition level at the place; ok is false at the end of what is available.
	level() (rep, def int16, ok bool)
	// take appends the value at the place, or a null, and goes on.
	take(b array.Builder) error
	// pass goes on without a value: what stands here is an absent struct or list.
	pass()

	// end is an error if the column goes on behind the rows that were read.
	end() error
}

// Levels decoded at once: more as values turn out to be small, so that a batch holds a megabyte or so.
const (
	batchFirst = 16
	batchMost  = 1024
	batchBytes = 1 << 20
)

// A row of lists is held as a whole: longer ones than any model's window are refused before they fill the memory.
const (
	rowElements = 1 << 24
	rowBytes    = 256 << 20
)

type typedLeaf[T any] struct {
	pages *pages
	read  func(batch int64, values []T, def, rep []int16) (int64, int, error)
	more  func() bool // loads the next page where the last one is read
	put   func(b array.Builder, v T) error
	bytes func(v T) int // that a value takes beside its place in values; nil: none
	keep  func(v []T)   // values that point into their page get memory of their own; nil for numbers

	top, repTop int16   // the column's levels
	def, rep    []int16 // decoded and not read yet, from at on
	values      []T     // the same, from value on
	at, value   int     // places in def and values
	rows        int     // of a column in lists: rows that begin at or after at
	held        int     // bytes of its values
	step        int     // levels of the next batch
	ended       bool
}

// newLeaf opens a column; typ is the Arrow type that typeOf gave it.
func newLeaf(p *pages, typ arrow.DataType) (_ leaf, err error) {
	defer guard(&err)
	pool := &sync.Pool{New: func() any { return memory.NewResizableBuffer(memory.DefaultAllocator) }}
	//lint:ignore SA1019 deprecated there because only a correct page reader makes it safe, which is what pages is
	reader := file.NewColumnReader(p.column, p, memory.DefaultAllocator, pool) //nolint:staticcheck // see above
	switch r := reader.(type) {
	case *file.ByteArrayColumnChunkReader:
		put, err := putBytes(typ)
		return typed(p, r, r.ReadBatchInPage, put).ofBytes(lenOf[parquet.ByteArray], keepBytes[parquet.ByteArray]), err
	case *file.FixedLenByteArrayColumnChunkReader:
		put, err := putFixed(typ)
		return typed(p, r, r.ReadBatchInPage, put).ofBytes(lenOf[parquet.FixedLenByteArray], keepBytes[parquet.FixedLenByteArray]), err
	case *file.Int32ColumnChunkReader:
		put, err := putInt32(typ)
		return typed(p, r, r.ReadBatchInPage, put), err
	case *file.Int64ColumnChunkReader:
		put, err := putInt64(typ)
		return typed(p, r, r.ReadBatchInPage, put), err
	case *file.Int96ColumnChunkReader:
		return typed(p, r, r.ReadBatchInPage, putInt96), nil
	case *file.Float32ColumnChunkReader:
		return typed(p, r, r.ReadBatchInPage, putAs[*array.Float32Builder, float32]), nil
	case *file.Float64ColumnChunkReader:
		return typed(p, r, r.ReadBatchInPage, putAs[*array.Float64Builder, float64]), nil
	case *file.BooleanColumnChunkReader:
		return typed(p, r, r.ReadBatchInPage, putAs[*array.BooleanBuilder, bool]), nil
	}
	return nil, fmt.Errorf("has the physical type %v, which is unknown", p.column.PhysicalType())
}

func typed[T any](p *pages, r file.ColumnChunkReader, read func(int64, []T, []int16, []int16) (int64, int, error),
	put func(array.Builder, T) error) *typedLeaf[T] {
	return &typedLeaf[T]{pages: p, read: read, more: r.HasNext, put: put, step: batchFirst, top: p.column.MaxDefinitionLevel(),
		repTop: p.column.MaxRepetitionLevel()}
}

func (l *typedLeaf[T]) ofBytes(bytes func(T) int, keep func([]T)) leaf {
	l.bytes, l.keep = bytes, keep
	return l
}

func lenOf[T ~[]byte](v T) int { return len(v) }

// batch decodes up to n levels and their values of one page behind what is in def, rep and values.
func (l *typedLeaf[T]) batch(n int) (levels, values int, err error) {
	defer guard(&err)
	if l.more() && l.pages.prefixed {
		n = min(n, prefixedBatch)
	}
	d, v := len(l.def), len(l.values)
	l.def, l.values = extend(l.def, n), extend(l.values, n)
	var rep []int16
	if l.repTop > 0 {
		l.rep = extend(l.rep, n)
		rep = l.rep[d:]
	}
	got, values, err := l.read(int64(n), l.values[v:], l.def[d:], rep)
	levels = int(got)
	if err == nil {
		err = l.pages.err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	present := levels
	if l.top > 0 {
		present = 0
		for _, def := range l.def[d : d+levels] {
			if def > l.top || def < 0 {
				return 0, 0, fmt.Errorf("has a definition level %d above %d", def, l.top)
			}
			if def == l.top {
				present++
			}
		}
	} else {
		clear(l.def[d : d+levels])
	}
	for _, rep := range rep[:min(len(rep), levels)] {
		if rep > l.repTop || rep < 0 {
			return 0, 0, fmt.Errorf("has a repetition level %d above %d", rep, l.repTop)
		}
	}
	if present != values {
		return 0, 0, fmt.Errorf("has %d values where its levels say %d", values, present)
	}
	l.def, l.values = l.def[:d+levels], l.values[:v+values]
	if l.repTop > 0 {
		l.rep = l.rep[:d+levels]
	}
	return levels, values, nil
}

func extend[T any](s []T, n int) []T {
	if cap(s)-len(s) < n {
		s = append(make([]T, 0, max(2*cap(s), len(s)+n)), s...)
	}
	return s[:len(s)+n]
}

func (l *typedLeaf[T]) ready(most int) (rows int, err error) {
	if l.repTop > 0 {
		return l.readyLists(most)
	}
	if l.at == len(l.def) {
		l.def, l.values, l.at, l.value = l.def[:0], l.values[:0], 0, 0
		n, values, err := l.batch(min(most, l.step))
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, errors.New("ends before its last row")
		}
		l.learn(values, l.size(l.values))
	}
	most = min(most, len(l.def)-l.at)
	if l.bytes == nil {
		return most, nil
	}
	v, sum := l.value, 0
	for rows < most && sum < batchBytes {
		if l.def[l.at+rows] == l.top {
			sum += l.bytes(l.values[v])
			v++
		}
		rows++
	}
	return rows, nil
}

// readyLists is ready for a column whose rows have any number of levels. The row after the last shows where that ends.
func (l *typedLeaf[T]) readyLists(most int) (int, error) {
	for l.rows < 2 && !l.ended {
		if l.at > 0 {
			l.def = l.def[:copy(l.def, l.def[l.at:])]
			l.rep = l.rep[:copy(l.rep, l.rep[l.at:])]
			l.values = l.values[:copy(l.values, l.values[l.value:])]
			l.at, l.value, l.held = 0, 0, l.size(l.values)
		}
		n, values, err := l.batch(l.step)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			l.ended = true
			break
		}
		fresh := l.values[len(l.values)-values:]
		size := l.size(fresh)
		if l.held += size; l.held > rowBytes && len(l.values) > 1 || len(l.def) > rowElements {
			return 0, fmt.Errorf("has a row of %d elements and %d bytes or more; none of more than %d and %d is read",
				len(l.def), l.held, rowElements, rowBytes)
		}
		if l.keep != nil {
			l.keep(fresh)
		}
		l.learn(values, size)
		for _, rep := range l.rep[len(l.rep)-n:] {
			if rep == 0 {
				l.rows++
			}
		}
		if l.rep[0] != 0 {
			return 0, errors.New("begins inside a row")
		}
	}
	if l.rows == 0 {
		return 0, errors.New("ends before its last row")
	}
	if !l.ended {
		return min(most, l.rows-1), nil
	}
	return min(most, l.rows), nil
}

// size is what values take beside their places.
func (l *typedLeaf[T]) size(values []T) (n int) {
	if l.bytes != nil {
		for _, v := range values {
			n += l.bytes(v)
		}
	}
	return n
}

// learn sets the next batch's levels by what one took.
func (l *typedLeaf[T]) learn(values, bytes int) {
	l.step = min(max(batchBytes*max(values, 1)/max(bytes, 1), 1), 4*l.step, batchMost)
}

func (l *typedLeaf[T]) flat(b array.Builder, rows int) error {
	def, values := l.def[l.at:l.at+rows], l.values[l.value:]
	l.at += rows
	v := 0
	for _, d := range def {
		if d < l.top {
			b.AppendNull()
			continue
		}
		if err := l.put(b, values[v]); err != nil {
			return err
		}
		v++
	}
	l.value += v
	return nil
}

func (l *typedLeaf[T]) skip(rows int64) error {
	passed, err := l.pages.skip(rows)
	for rows -= passed; rows > 0 && err == nil; {
		var n int
		if n, err = l.ready(int(min(rows, batchMost))); err == nil {
			for range n {
				l.passRow()
			}
			rows -= int64(n)
		}
	}
	return err
}

func (l *typedLeaf[T]) passRow() {
	for {
		l.pass()
		if rep, _, ok := l.level(); !ok || rep == 0 {
			return
		}
	}
}

func (l *typedLeaf[T]) level() (rep, def int16, ok bool) {
	if l.at >= len(l.def) {
		return 0, 0, false
	}
	if l.repTop > 0 {
		rep = l.rep[l.at]
	}
	return rep, l.def[l.at], true
}

func (l *typedLeaf[T]) take(b array.Builder) error {
	_, def, ok := l.level()
	if !ok {
		return errors.New("ends inside a row")
	}
	var err error
	if def == l.top {
		err = l.put(b, l.values[l.value])
	} else {
		b.AppendNull()
	}
	l.pass()
	return err
}

func (l *typedLeaf[T]) pass() {
	rep, def, ok := l.level()
	if !ok {
		return
	}
	if rep == 0 {
		l.rows--
	}
	if def == l.top {
		l.value++
	}
	l.at++
}

func (l *typedLeaf[T]) end() error {
	if _, _, ok := l.level(); ok && l.rows > 0 {
		return errors.New("has more rows than its row group")
	}
	return l.pages.end()
}

// keepBytes moves values out of their page into one piece of memory.
func keepBytes[T ~[]byte](values []T) {
	n := 0
	for _, v := range values {
		n += len(v)
	}
	memory := make([]byte, 0, n)
	for i, v := range values {
		memory = append(memory, v...)
		values[i] = T(memory[len(memory)-len(v) : len(memory) : len(memory)])
	}
}
