package dataset

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
)

// jsonlFile is a file of JSON Lines: each line that is not blank is a row. A line that is no JSON object, or has values
// of other types than the job needs, is a bad row; only damage of the compression refuses the file.
type jsonlFile struct {
	path  string
	first int64
	count int64
	cols  []column // the keys seen, with the types that hold all their values
	marks []mark   // where rows begin, for plain files
	step  int64    // rows between two marks
	names [roles]string
	fixed map[string]string // columns that the path gives, as JSON, for lines that lack them
	seen  bool              // at least one line is an object
}

// mark is a place in a plain file.
type mark struct{ row, offset int64 }

const (
	firstStep  = 1024
	mostMarks  = 1 << 14
	peekedRows = 1000 // lines whose keys are looked at where types need not be known
)

// keyKinds notes the kinds of values under each key, in order of appearance.
type keyKinds struct {
	names []string
	kinds map[string]jsonKind
	good  int // lines that are objects
}

func (k *keyKinds) see(line []byte) {
	s := jsonScan{b: line}
	type pair struct {
		key  string
		kind jsonKind
	}
	var pairs []pair
	err := s.object(func(key string, from, to int) error {
		pairs = append(pairs, pair{key, kindOf(line[from:to])})
		return nil
	})
	if err != nil || s.end() != nil {
		return
	}
	k.good++
	for _, p := range pairs {
		if _, ok := k.kinds[p.key]; !ok {
			if len(k.names) >= 10000 {
				continue
			}
			k.names = append(k.names, p.key)
		}
		k.kinds[p.key] |= p.kind
	}
}

// typ is the type that holds all values of a key: JSON text where nothing narrower does.
func (k jsonKind) typ() arrow.DataType {
	switch k &^ jsonNull {
	case 0:
		return arrow.Null
	case jsonBool:
		return arrow.FixedWidthTypes.Boolean
	case jsonInt:
		return arrow.PrimitiveTypes.Int64
	case jsonFloat, jsonInt | jsonFloat:
		return arrow.PrimitiveTypes.Float64
	}
	return arrow.BinaryTypes.String
}

// openJSONL counts the rows in one pass. With typed it looks at every line for the types of its keys, else at some.
func openJSONL(path string, typed bool) (*jsonlFile, error) {
	l, plain, err := openLines(path)
	if err != nil {
		return nil, err
	}
	defer shut(l)
	p := &jsonlFile{path: path, step: firstStep}
	keys := keyKinds{kinds: map[string]jsonKind{}}
	for typed || p.count < peekedRows {
		p.mark(plain, l.offset)
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, errLong) {
			return nil, p.cut(err)
		}
		if p.count == 0 && string(line) == "[" {
			return nil, unread("it is one JSON array, not JSON Lines: write one object a line (jq -c '.[]')")
		}
		if err == nil {
			keys.see(line)
		}
		p.count++
	}
	for !typed && p.count >= peekedRows {
		p.mark(plain, l.offset)
		n, err := l.pass(p.step - p.count%p.step)
		p.count += n
		if err != nil {
			return nil, p.cut(err)
		}
		if n == 0 {
			break
		}
	}
	for _, name := range keys.names {
		p.cols = append(p.cols, column{Field: arrow.Field{Name: name, Type: keys.kinds[name].typ(), Nullable: true}})
	}
	p.seen = keys.good > 0
	return p, nil
}

func (p *jsonlFile) cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("its compressed data is cut short")
	}
	return fmt.Errorf("%w; %d rows before are whole", err, p.count)
}

// mark notes where row count begins, at every step; the step doubles when there are too many.
func (p *jsonlFile) mark(plain bool, offset int64) {
	if !plain || p.count%p.step != 0 {
		return
	}
	if n := len(p.marks); n > 0 && p.marks[n-1].row == p.count {
		return
	}
	if len(p.marks) >= mostMarks {
		p.step *= 2
		p.marks = slices.DeleteFunc(p.marks, func(m mark) bool { return m.row%p.step != 0 })
		if p.count%p.step != 0 {
			return
		}
	}
	p.marks = append(p.marks, mark{p.count, offset})
}

func (p *jsonlFile) rows() int64 { return p.count }

// bind refuses a file none of whose lines has a column that the job needs.
func (p *jsonlFile) bind(names [roles]string) error {
	p.names = names
	for r := range roleMaxNewTokens {
		if names[r] != "" && p.seen && find(p.cols, names[r]) < 0 {
			return missingColumn(p.path, names[r], p.cols, roleFlag[r])
		}
	}
	return nil
}

// addPartitions makes the columns of the path stand in for keys that lines lack.
func (p *jsonlFile) addPartitions(parts []partition, whole map[string]bool) {
	p.fixed = map[string]string{}
	for _, part := range parts {
		if find(p.cols, part.name) >= 0 {
			continue
		}
		typ, value := arrow.DataType(arrow.BinaryTypes.String), string(appendQuoted(nil, strings.ToValidUTF8(part.value, "\uFFFD")))
		if whole[part.name] {
			typ, value = arrow.PrimitiveTypes.Int64, part.value
		}
		if part.null {
			value = "null"
		}
		p.fixed[part.name] = value
		p.cols = append(p.cols, column{Field: arrow.Field{Name: part.name, Type: typ, Nullable: true}})
	}
}
