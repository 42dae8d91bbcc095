package dataset

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sort"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// ipcScan reads the wanted columns batch by batch.
type ipcScan struct {
	*ipcFile
	f        *os.File
	loader   batchLoader
	wanted   []int
	schema   *arrow.Schema
	needed   map[int64]*ipcField // the dictionaries of wanted columns
	nextDict int                 // dictionaries before it are loaded, where needed
	row      int64
	open     arrow.Record // the batch at the place
	group    int
}

const ipcSlice = 1024 // rows of a batch given out at once

func (p *ipcFile) scan(columns []int, from int64) (scanner, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		shut(f)
		return nil, err
	}
	s := &ipcScan{ipcFile: p, f: f, wanted: columns, row: from, group: -1, needed: map[int64]*ipcField{}}
	s.loader = batchLoader{r: ipcReader{f, info.Size()}, inflater: &inflater{}, dicts: map[int64]arrow.Array{}}
	var fields []arrow.Field
	for _, c := range columns {
		fields = append(fields, p.cols[c].Field)
		s.need(p.fields[c])
	}
	s.schema = arrow.NewSchema(fields, nil)
	return s, nil
}

func (s *ipcScan) need(f *ipcField) {
	if f.dict >= 0 {
		s.needed[f.dict] = f
	}
	for _, c := range f.children {
		s.need(c)
	}
}

func (s *ipcScan) at() int64 { return s.row }

func (s *ipcScan) Close() error {
	s.loader.inflater.close()
	return s.f.Close()
}

func (s *ipcScan) next(limit int64) (arrow.Record, int, error) {
	if s.row >= s.rows() {
		return nil, 0, io.EOF
	}
	if s.group < 0 || s.row >= s.heads[s.group+1] {
		group := sort.Search(len(s.batches), func(g int) bool { return s.heads[g+1] > s.row })
		rec, column, err := s.load(group)
		if err != nil {
			return nil, group, place{file: s.path, unit: "record batch", group: group, row: s.first + s.row,
				column: column}.damaged(err)
		}
		s.open, s.group = rec, group
	}
	begin := s.row - s.heads[s.group]
	end := min(begin+limit, begin+ipcSlice, s.open.NumRows())
	s.row += end - begin
	return s.open.NewSlice(begin, end), s.group, nil
}

// load reads a batch's wanted columns, and before them the dictionaries that they need.
func (s *ipcScan) load(group int) (_ arrow.Record, column string, err error) {
	defer guard(&err)
	for ; s.nextDict < len(s.dicts) && int(s.dicts[s.nextDict].before) <= group; s.nextDict++ {
		if err := s.loadDict(s.dicts[s.nextDict]); err != nil {
			return nil, "", fmt.Errorf("dictionary %d: %w", s.nextDict, err)
		}
	}
	l := &s.loader
	l.m = s.batches[group]
	head, err := l.r.head(l.m)
	if err != nil {
		return nil, "", err
	}
	batch := head.table(2)
	rows := batch.int64(0)
	if rows != s.heads[group+1]-s.heads[group] {
		return nil, "", errChanged
	}
	if err := l.batch(batch); err != nil {
		return nil, "", err
	}
	arrays := make([]arrow.Array, len(s.wanted))
	for i, f := range s.fields {
		at := slices.Index(s.wanted, i)
		if at < 0 {
			if err := l.pass(f, f.typ); err != nil {
				return nil, s.cols[i].Name, err
			}
			continue
		}
		a, err := l.array(f, f.typ)
		if err == nil && int64(a.Len()) != rows {
			err = fmt.Errorf("has %d values for %d rows", a.Len(), rows)
		}
		if err != nil {
			return nil, s.cols[i].Name, err
		}
		for j, w := range s.wanted {
			if w == i {
				arrays[j] = a
			}
		}
	}
	return array.NewRecord(s.schema, arrays, rows), "", nil
}

// loadDict reads a dictionary, or the part that it grows by.
func (s *ipcScan) loadDict(m ipcMessage) error {
	l := &s.loader
	l.m = m
	head, err := l.r.head(m)
	if err != nil {
		return err
	}
	dict := head.table(2)
	id := dict.int64(0)
	f, ok := s.needed[id]
	if !ok {
		return nil
	}
	if err := l.batch(dict.table(1)); err != nil {
		return err
	}
	typ := f.typ
	if ext, ok := typ.(arrow.ExtensionType); ok {
		typ = ext.StorageType()
	}
	values, err := l.array(f, typ.(*arrow.DictionaryType).ValueType)
	if err != nil {
		return err
	}
	if old, ok := l.dicts[id]; ok && dict.uint8(2) != 0 {
		if values, err = array.Concatenate([]arrow.Array{old, values}, memory.DefaultAllocator); err != nil {
			return err
		}
	}
	l.dicts[id] = values
	return nil
}
