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
// that are checked (page.go), and end in v15 builders. A column is read either flat or through fill, level, take and pass.
type leaf interface {
	// flat appends the next rows of a column without repetition below a struct-free path: a value or a null each.
	flat(b array.Builder, rows int) error
	// skip passes over rows, whole pages undecoded where that can be; only before anything else is read.
	skip(rows int64) error

	// fill makes the next rows available to the three below, to the last level of the last row.
	fill(rows int) error
	// level is the repetition and definition level at the place; ok is false at the end of what is available.
	level() (rep, def int16, ok bool)
	// take appends the value at the place, or a null, and goes on.
	take(b array.Builder) error
	// pass goes on without a value: what stands here is an absent struct or list.
	pass()

	// end is an error if the column goes on behind the rows that were read.
	end() error
}

const leafBatch = 1024 // levels decoded at once

type typedLeaf[T any] struct {
	pages *pages
	read  func(batch int64, values []T, def, rep []int16) (int64, int, error)
	put   func(b array.Builder, v T) error
	keep  func(v []T) // values that point into their page get memory of their own; nil for numbers

	top, repTop int16   // the column's levels
	def, rep    []int16 // one decoded batch, or what fill gathered
	values      []T
	at, value   int // places in def and values
	rows        int // rows that begin at or after at
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
		return typed(p, r.ReadBatchInPage, put, keepBytes[parquet.ByteArray]), err
	case *file.FixedLenByteArrayColumnChunkReader:
		put, err := putFixed(typ)
		return typed(p, r.ReadBatchInPage, put, keepBytes[parquet.FixedLenByteArray]), err
	case *file.Int32ColumnChunkReader:
		put, err := putInt32(typ)
		return typed(p, r.ReadBatchInPage, put, nil), err
	case *file.Int64ColumnChunkReader:
		put, err := putInt64(typ)
		return typed(p, r.ReadBatchInPage, put, nil), err
	case *file.Int96ColumnChunkReader:
		return typed(p, r.ReadBatchInPage, putInt96, nil), nil
	case *file.Float32ColumnChunkReader:
		return typed(p, r.ReadBatchInPage, putAs[*array.Float32Builder, float32], nil), nil
	case *file.Float64ColumnChunkReader:
		return typed(p, r.ReadBatchInPage, putAs[*array.Float64Builder, float64], nil), nil
	case *file.BooleanColumnChunkReader:
		return typed(p, r.ReadBatchInPage, putAs[*array.BooleanBuilder, bool], nil), nil
	}
	return nil, fmt.Errorf("has the physical type %v, which is unknown", p.column.PhysicalType())
}

func typed[T any](p *pages, read func(int64, []T, []int16, []int16) (int64, int, error),
	put func(array.Builder, T) error, keep func([]T)) leaf {
	return &typedLeaf[T]{pages: p, read: read, put: put, keep: keep, top: p.column.MaxDefinitionLevel(),
		repTop: p.column.MaxRepetitionLevel()}
}

// batch decodes up to n levels and their values of one page behind what is in def, rep and values.
func (l *typedLeaf[T]) batch(n int) (levels, values int, err error) {
	defer guard(&err)
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

func (l *typedLeaf[T]) flat(b array.Builder, rows int) error {
	for rows > 0 {
		l.def, l.values = l.def[:0], l.values[:0]
		n, values, err := l.batch(min(rows, leafBatch))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("ends %d rows early", rows)
		}
		if b != nil {
			if err := l.append(b, n, values); err != nil {
				return err
			}
		}
		rows -= n
	}
	return nil
}

func (l *typedLeaf[T]) append(b array.Builder, n, values int) error {
	if values == n {
		for _, v := range l.values {
			if err := l.put(b, v); err != nil {
				return err
			}
		}
		return nil
	}
	v := 0
	for _, def := range l.def {
		if def < l.top {
			b.AppendNull()
			continue
		}
		if err := l.put(b, l.values[v]); err != nil {
			return err
		}
		v++
	}
	return nil
}

func (l *typedLeaf[T]) skip(rows int64) error {
	passed, err := l.pages.skip(rows)
	if err != nil {
		return err
	}
	for rows -= passed; rows > 0; {
		n := int(min(rows, leafBatch))
		if l.repTop == 0 {
			err = l.flat(nil, n)
		} else if err = l.fill(n); err == nil {
			for ; n > 0; n-- {
				l.passRow()
			}
			n = int(min(rows, leafBatch))
		}
		if err != nil {
			return err
		}
		rows -= int64(n)
	}
	if l.repTop == 0 {
		l.def, l.values = l.def[:0], l.values[:0]
	}
	return nil
}

func (l *typedLeaf[T]) passRow() {
	for {
		l.pass()
		if rep, _, ok := l.level(); !ok || rep == 0 {
			return
		}
	}
}

func (l *typedLeaf[T]) fill(rows int) error {
	l.def = l.def[:copy(l.def, l.def[l.at:])]
	if l.repTop > 0 {
		l.rep = l.rep[:copy(l.rep, l.rep[l.at:])]
	}
	l.values = l.values[:copy(l.values, l.values[l.value:])]
	l.at, l.value = 0, 0
	for l.rows <= rows && !l.ended { // the row after the last shows where that ends
		n, values, err := l.batch(leafBatch)
		if err != nil {
			return err
		}
		if n == 0 {
			l.ended = true
			break
		}
		if l.keep != nil {
			l.keep(l.values[len(l.values)-values:])
		}
		if l.repTop == 0 {
			l.rows += n
			continue
		}
		for _, rep := range l.rep[len(l.rep)-n:] {
			if rep == 0 {
				l.rows++
			}
		}
	}
	if l.rows < rows {
		return fmt.Errorf("ends %d rows early", rows-l.rows)
	}
	if len(l.rep) > 0 && l.rep[0] != 0 {
		return errors.New("begins inside a row")
	}
	return nil
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
