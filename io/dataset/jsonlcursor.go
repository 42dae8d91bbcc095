package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

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
		i, ok := slices.BinarySearchFunc(p.marks, from, func(m mark, row int64) int { return int(min(max(m.Row-row, -1), 1)) })
		if !ok {
			i--
		}
		if err := l.seek(p.marks[i].Offset); err != nil {
			shut(l)
			return nil, err
		}
		c.row = p.marks[i].Row
	}
	return c, nil
}

// passRows is how many are passed between two looks at the context.
const passRows = 1 << 14

// forward passes the rows before a row.
func (c *jsonlCursor) forward(ctx context.Context, to int64) error {
	progress, _ := ctx.Value(progressKey{}).(func())
	for c.row < to {
		want := min(to-c.row, passRows)
		n, err := c.lines.pass(want)
		if err == nil && n < want {
			err = errChanged
		}
		c.row += n
		if err != nil {
			return c.place().damaged(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if progress != nil {
			progress()
		}
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
		if values[r] == nil && r > roleMessages && r < roleTools && c.names[r] != "" {
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
	if v := values[roleTools]; v != nil && v[0] != 'n' {
		if row.Tools, err = jsonObjects(v); err != nil && !errors.Is(err, errNoMessages) {
			return fmt.Errorf("%s %w", c.names[roleTools], err)
		}
	}
	if v := values[rolePair]; v != nil {
		if row.Pair, err = jsonString(v); err != nil {
			return fmt.Errorf("%s %w", c.names[rolePair], err)
		}
		row.HasPair = true
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
	if err := lineValues(line, c.names[:], values[:]); err != nil {
		return values, err
	}
	for r, name := range c.names {
		if fixed, ok := c.fixed[name]; ok && values[r] == nil && name != "" {
			values[r] = []byte(fixed)
		}
	}
	return values, nil
}

// Values finds the JSON of the named keys in a line, nil of those that it lacks, as reading a row does: what would set a row
// aside (half of a surrogate pair, bytes that are not UTF-8, a key twice) is an error here too.
func Values(line []byte, names ...string) ([][]byte, error) {
	values := make([][]byte, len(names))
	return values, lineValues(line, names, values)
}

// Field is a key of a JSON object and its value's JSON.
type Field struct {
	Name  string
	Value []byte
}

// Fields is all of a line's object, in its order, read as strictly as Values does.
func Fields(line []byte) (all []Field, err error) {
	s := jsonScan{b: line}
	if s.peek() != '{' {
		return nil, lineValues(line, nil, nil)
	}
	err = s.object(func(key string, from, to int) error {
		if slices.ContainsFunc(all, func(f Field) bool { return f.Name == key }) {
			return fmt.Errorf("has the key %q twice", key)
		}
		all = append(all, Field{key, line[from:to]})
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, fmt.Errorf("the line %w", err)
	}
	return all, nil
}

// lineValues puts the bytes of each name's value into values; the name "" is nobody's.
func lineValues(line []byte, names []string, values [][]byte) error {
	s := jsonScan{b: line}
	if s.peek() != '{' {
		if err := s.value(); err != nil {
			return fmt.Errorf("the line %w", err)
		}
		return errors.New("the line is not a JSON object")
	}
	err := s.object(func(key string, from, to int) error {
		for i, name := range names {
			if name == key && name != "" {
				if values[i] != nil {
					return fmt.Errorf("has the key %q twice", key)
				}
				values[i] = line[from:to]
			}
		}
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return fmt.Errorf("the line %w", err)
	}
	return nil
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
		row.Messages, err = jsonObjects(v)
	}
	if err != nil {
		return fmt.Errorf("%s %w", c.names[r], err)
	}
	return nil
}

// jsonObjects are those of a list, or of a text that is one, as in columns.
func jsonObjects(v []byte) ([]json.RawMessage, error) {
	if v[0] == '"' {
		s, err := jsonString(v)
		if err != nil {
			return nil, err
		}
		v = []byte(s)
	}
	return messagesJSON(v)
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
