package dataset

import (
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
	step  int64    // most rows between two marks
	keys  keyKinds // of the lines that were looked at
	err   error    // why it cannot be read
	names [roles]string
	fixed map[string]string // columns that the path gives, as JSON, for lines that lack them
	seen  bool              // at least one line is an object
}

// mark is a place in a plain file.
type mark struct{ Row, Offset int64 }

const (
	firstStep  = 1024
	mostMarks  = 1 << 14
	peekedRows = 1000 // lines whose keys are looked at where types need not be known
)

// keyKinds notes the kinds of values under each key, in order of appearance.
type keyKinds struct {
	names []string
	kinds map[string]jsonKind
	good  int64 // lines that are objects
	line  []keyKind
}

type keyKind struct {
	key  string
	kind jsonKind
}

func (k *keyKinds) see(line []byte) {
	s := jsonScan{b: line}
	k.line = k.line[:0]
	err := s.object(func(key string, from, to int) error {
		k.line = append(k.line, keyKind{key, kindOf(line[from:to])})
		return nil
	})
	if err != nil || s.end() != nil {
		return
	}
	k.good++
	for _, p := range k.line {
		k.add(p.key, p.kind)
	}
}

// mostKeys bounds what is kept of files whose keys are all different.
const mostKeys = 10000

func (k *keyKinds) add(key string, kind jsonKind) {
	if _, ok := k.kinds[key]; !ok {
		if len(k.names) >= mostKeys {
			return
		}
		k.names = append(k.names, key)
	}
	k.kinds[key] |= kind
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

// settle names the columns, once all of the file has been looked at.
func (p *jsonlFile) settle() error {
	for _, name := range p.keys.names {
		p.cols = append(p.cols, column{Field: arrow.Field{Name: name, Type: p.keys.kinds[name].typ(), Nullable: true}})
	}
	p.seen = p.keys.good > 0
	return p.err
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
		typ, value := arrow.DataType(arrow.BinaryTypes.String), string(appendQuoted(nil, part.value))
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
