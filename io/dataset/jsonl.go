package dataset

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
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
	defer l.Close()
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

// jsonlCursor reads rows or carried columns from a place.
type jsonlCursor struct {
	*jsonlFile
	lines *lines
	row   int64
	carry *carryPlan
	text  bool // row ids are texts
}

func (p *jsonlFile) open(from int64, carry *carryPlan, text bool) (cursor, error) {
	l, plain, err := openLines(p.path)
	if err != nil {
		return nil, err
	}
	c := &jsonlCursor{jsonlFile: p, lines: l, carry: carry, text: text}
	if plain && len(p.marks) > 0 {
		i, ok := slices.BinarySearchFunc(p.marks, from, func(m mark, row int64) int { return int(min(max(m.row-row, -1), 1)) })
		if !ok {
			i--
		}
		if err := l.seek(p.marks[i].offset); err != nil {
			l.Close()
			return nil, err
		}
		c.row = p.marks[i].row
	}
	if err := c.forward(from); err != nil {
		l.Close()
		return nil, err
	}
	return c, nil
}

// forward passes the rows before a row.
func (c *jsonlCursor) forward(to int64) error {
	n, err := c.lines.pass(to - c.row)
	if err == nil && n < to-c.row {
		err = errChanged
	}
	c.row += n
	if err != nil {
		return c.place().damaged(err)
	}
	return nil
}

func (c *jsonlCursor) place() place {
	return place{file: c.path, group: -1, row: c.first + c.row}
}

func (c *jsonlCursor) at() int64    { return c.row }
func (c *jsonlCursor) Close() error { return c.lines.Close() }

// reaches is whether going on from here is no slower than opening the file anew.
func (c *jsonlCursor) reaches(row int64) bool {
	return c.row <= row && (len(c.marks) == 0 || row-c.row <= c.step)
}

const jsonlBatch = 256

// each calls one for up to limit lines; bad is why a line cannot be used.
func (c *jsonlCursor) each(limit int64, one func(line []byte, bad error)) error {
	for range min(limit, jsonlBatch) {
		line, err := c.lines.next()
		if errors.Is(err, io.EOF) {
			err = errChanged
		}
		if err != nil && !errors.Is(err, errLong) {
			return c.place().damaged(c.cutLine(err))
		}
		one(line, err)
		c.row++
	}
	return nil
}

func (c *jsonlCursor) cutLine(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("its compressed data is cut short")
	}
	return err
}

func (c *jsonlCursor) rows(limit int64) ([]*Row, error) {
	out := make([]*Row, 0, min(limit, jsonlBatch))
	err := c.each(limit, func(line []byte, bad error) {
		row := &Row{Number: c.first + c.row}
		if bad == nil {
			bad = c.parse(line, row)
		}
		out = append(out, row.checked(c.path, bad))
	})
	return out, err
}

// parse reads a line into a row.
func (c *jsonlCursor) parse(line []byte, row *Row) error {
	values, err := c.values(line)
	if err != nil {
		return err
	}
	for r := range roles {
		if values[r] == nil && r > roleMessages && r < roleMaxNewTokens && c.names[r] != "" {
			return fmt.Errorf("%s is missing from the line", c.names[r])
		}
	}
	if v := values[roleID]; v != nil {
		if row.ID, err = c.identity(v); err != nil {
			return fmt.Errorf("%s %w", c.names[roleID], err)
		}
	}
	if err := c.input(values, row); err != nil {
		return err
	}
	if v := values[roleContinuation]; v != nil {
		if row.Continuation, err = jsonString(v); err != nil {
			return fmt.Errorf("%s %w", c.names[roleContinuation], err)
		}
		row.HasContinuation = true
	}
	for r := roleMaxNewTokens; r <= roleStop; r++ {
		if v := values[r]; v != nil && v[0] != 'n' {
			if err := row.Overrides.fromJSON(r, v); err != nil {
				return fmt.Errorf("%s %w", c.names[r], err)
			}
		}
	}
	return nil
}

// values finds the bytes of each role's value in a line.
func (c *jsonlCursor) values(line []byte) (values [roles][]byte, err error) {
	s := jsonScan{b: line}
	if s.peek() != '{' {
		if err := s.value(); err != nil {
			return values, fmt.Errorf("the line %w", err)
		}
		return values, errors.New("the line is not a JSON object")
	}
	err = s.object(func(key string, from, to int) error {
		for r, name := range c.names {
			if name == key && name != "" {
				if values[r] != nil {
					return fmt.Errorf("has the key %q twice", key)
				}
				values[r] = line[from:to]
			}
		}
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return values, fmt.Errorf("the line %w", err)
	}
	for r, name := range c.names {
		if fixed, ok := c.fixed[name]; ok && values[r] == nil && name != "" {
			values[r] = []byte(fixed)
		}
	}
	return values, nil
}

func (c *jsonlCursor) input(values [roles][]byte, row *Row) (err error) {
	r := rolePrompt
	for c.names[r] == "" {
		r++
	}
	v := values[r]
	switch {
	case v == nil:
		return fmt.Errorf("%s is missing from the line; add it, or name another with %s", c.names[r], roleFlag[r])
	case v[0] == 'n':
		return fmt.Errorf("%s is null; give it a value, or name another column with %s", c.names[r], roleFlag[r])
	case r == rolePrompt:
		row.Prompt, err = jsonString(v)
	case r == roleIDs:
		row.IDs, err = jsonIDs(v)
	default:
		if v[0] == '"' { // a text that is JSON, as in columns
			var s string
			if s, err = jsonString(v); err == nil {
				v = []byte(s)
			}
		}
		if err == nil {
			row.Messages, err = messagesJSON(v)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %w", c.names[r], err)
	}
	return nil
}

func jsonIDs(v []byte) (ids []int32, err error) {
	s := jsonScan{b: v}
	if s.peek() != '[' {
		return nil, errors.New("is not a list of token ids")
	}
	err = s.array(func(from, to int) error {
		x, err := jsonWhole(v[from:to])
		if err := checkID(x, err == nil, len(ids)); err != nil {
			return err
		}
		ids = append(ids, int32(x))
		return nil
	})
	if err == nil && len(ids) == 0 {
		err = errNoIDs
	}
	return ids, err
}

// identity is a row's id: the number, or any text; numbers become texts where the data set's ids are texts.
func (c *jsonlCursor) identity(v []byte) (any, error) {
	switch kindOf(v) {
	case jsonNull:
		return nil, errNull
	case jsonText:
		if c.text {
			return jsonString(v)
		}
	case jsonInt:
		if c.text {
			return string(v), nil
		}
		return jsonWhole(v)
	}
	return nil, errors.New("is neither an integer nor a text")
}

func (o *Overrides) fromJSON(r role, v []byte) error {
	switch r {
	case roleTemperature, roleTopP:
		x, err := jsonNumber(v)
		if err != nil {
			return err
		}
		return o.setFloat(r, x)
	case roleStop:
		if v[0] != '[' {
			s, err := jsonString(v)
			o.Stop = []string{s}
			return err
		}
		s := jsonScan{b: v}
		return s.array(func(from, to int) error {
			text, err := jsonString(v[from:to])
			o.Stop = append(o.Stop, text)
			return err
		})
	}
	n, err := jsonWhole(v)
	if err != nil {
		return err
	}
	return o.setInt(r, n)
}

func (c *jsonlCursor) record(limit int64) (arrow.Record, error) {
	builders := make([]array.Builder, len(c.carry.from))
	for i, from := range c.carry.from {
		typ := arrow.DataType(arrow.Null)
		if from >= 0 {
			typ = c.cols[from].Type
		}
		builders[i] = array.NewBuilder(memory.DefaultAllocator, typ)
		defer builders[i].Release()
	}
	row := c.row
	err := c.each(limit, func(line []byte, bad error) {
		values := make([][]byte, len(builders))
		if bad == nil {
			values = c.carried(line, values)
		}
		for i, b := range builders {
			putJSON(b, values[i])
		}
	})
	if err != nil {
		return nil, err
	}
	arrays := make([]arrow.Array, len(builders))
	for i, b := range builders {
		arrays[i] = b.NewArray()
	}
	return c.carry.record(arrays, c.row-row)
}

// carried finds the bytes of the carried values; a line that is not valid has none.
func (c *jsonlCursor) carried(line []byte, values [][]byte) [][]byte {
	s := jsonScan{b: line}
	err := s.object(func(key string, from, to int) error {
		for i, at := range c.carry.from {
			if at >= 0 && c.cols[at].Name == key {
				values[i] = line[from:to]
			}
		}
		return nil
	})
	if err != nil || s.end() != nil {
		clear(values)
		return values
	}
	for i, at := range c.carry.from {
		if at < 0 || values[i] != nil {
			continue
		}
		if fixed, ok := c.fixed[c.cols[at].Name]; ok {
			values[i] = []byte(fixed)
		}
	}
	return values
}

// putJSON appends a value to the builder of the type that the pass over the file found.
func putJSON(b array.Builder, v []byte) {
	if v == nil || v[0] == 'n' {
		b.AppendNull()
		return
	}
	switch b := b.(type) {
	case *array.BooleanBuilder:
		b.Append(v[0] == 't')
	case *array.Int64Builder:
		if n, err := jsonWhole(v); err == nil {
			b.Append(n)
			return
		}
		b.AppendNull()
	case *array.Float64Builder:
		if x, err := jsonNumber(v); err == nil {
			b.Append(x)
			return
		}
		b.AppendNull()
	case *array.StringBuilder:
		if s, err := jsonString(v); err == nil {
			b.Append(s)
			return
		}
		b.Append(string(v))
	default:
		b.AppendNull()
	}
}
