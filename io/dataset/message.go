package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// Chat messages become JSON objects, whatever they are stored as: the chat template sees the same in every format. A
// struct's fields come in the order of the schema; a null field is left out, since a struct has no other way to lack it.
// But a message's content stays where it is null, as in JSON: templates tell the two apart, and every message has one.

var errNoMessages = errors.New("is an empty list; give it at least one message")

func messages(a arrow.Array, i int) ([]json.RawMessage, error) {
	if a.IsNull(i) {
		return nil, errNull
	}
	if isText(a.DataType()) {
		s, err := text(a, i)
		if err != nil {
			return nil, err
		}
		return messagesJSON([]byte(s))
	}
	values, from, to, err := element(a, i)
	if err != nil {
		return nil, err
	}
	if from == to {
		return nil, errNoMessages
	}
	out := make([]json.RawMessage, 0, to-from)
	for k := from; k < to; k++ {
		if values.IsNull(k) {
			return nil, fmt.Errorf("has a null at position %d", k-from)
		}
		if isText(values.DataType()) {
			s, err := text(values, k)
			if err == nil {
				err = checkObject([]byte(s))
			}
			if err != nil {
				return nil, fmt.Errorf("at position %d %w", k-from, err)
			}
			out = append(out, json.RawMessage(s))
			continue
		}
		message, err := appendJSON(nil, values, k, 0)
		if err != nil {
			return nil, fmt.Errorf("at position %d %w", k-from, err)
		}
		out = append(out, message)
	}
	return out, nil
}

// messagesJSON takes apart a JSON array of objects.
func messagesJSON(b []byte) ([]json.RawMessage, error) {
	s := jsonScan{b: b}
	if s.peek() != '[' {
		return nil, errors.New("is not a list of messages")
	}
	var out []json.RawMessage
	err := s.array(func(from, to int) error {
		if b[from] != '{' {
			return fmt.Errorf("has something other than an object at position %d", len(out))
		}
		out = append(out, append(json.RawMessage(nil), b[from:to]...))
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(out) == 0 {
		err = errNoMessages
	}
	return out, err
}

func checkObject(b []byte) error {
	s := jsonScan{b: b}
	if s.peek() != '{' {
		return errors.New("is not an object")
	}
	if err := s.value(); err != nil {
		return err
	}
	return s.end()
}

// appendJSON writes value i of a column as JSON; integers stay integers and floats stay floats.
func appendJSON(dst []byte, a arrow.Array, i, deep int) ([]byte, error) {
	if deep > maxNesting {
		return nil, fmt.Errorf("is nested deeper than %d", maxNesting)
	}
	if a.IsNull(i) {
		return append(dst, "null"...), nil
	}
	if isText(a.DataType()) {
		s, err := text(a, i)
		if err != nil {
			return nil, err
		}
		return appendQuoted(dst, s), nil
	}
	if arrow.IsInteger(a.DataType().ID()) {
		if u, ok := a.(*array.Uint64); ok {
			return strconv.AppendUint(dst, u.Value(i), 10), nil
		}
		n, _ := integer(a, i)
		return strconv.AppendInt(dst, n, 10), nil
	}
	if x, ok := number(a, i); ok {
		return appendFloat(dst, x)
	}
	switch a := a.(type) {
	case *array.Boolean:
		return strconv.AppendBool(dst, a.Value(i)), nil
	case *array.Struct:
		return appendStruct(dst, a, i, deep)
	case *array.Map:
		return appendMap(dst, a, i, deep)
	case array.ListLike:
		values, from, to, err := element(a, i)
		if err != nil {
			return nil, err
		}
		dst = append(dst, '[')
		for k := from; k < to; k++ {
			if k > from {
				dst = append(dst, ',')
			}
			if dst, err = appendJSON(dst, values, k, deep+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	}
	return appendQuoted(dst, a.ValueStr(i)), nil // times, decimals and the like, as text
}

func appendStruct(dst []byte, a *array.Struct, i, deep int) ([]byte, error) {
	dst = append(dst, '{')
	fields := a.DataType().(*arrow.StructType).Fields()
	first := true
	for k, f := range fields {
		if a.Field(k).IsNull(i) && (deep > 0 || f.Name != "content") {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendQuoted(dst, f.Name), ':')
		var err error
		if dst, err = appendJSON(dst, a.Field(k), i, deep+1); err != nil {
			return nil, fmt.Errorf("%s %w", f.Name, err)
		}
	}
	return append(dst, '}'), nil
}

func appendMap(dst []byte, a *array.Map, i, deep int) ([]byte, error) {
	if !isText(a.Keys().DataType()) {
		return nil, fmt.Errorf("has keys of the type %v", a.Keys().DataType())
	}
	begin, end := a.ValueOffsets(i)
	dst = append(dst, '{')
	for k := int(begin); k < int(end); k++ {
		if k > int(begin) {
			dst = append(dst, ',')
		}
		key, err := text(a.Keys(), k)
		if err != nil {
			return nil, err
		}
		dst = append(appendQuoted(dst, key), ':')
		if dst, err = appendJSON(dst, a.Items(), k, deep+1); err != nil {
			return nil, fmt.Errorf("%s %w", key, err)
		}
	}
	return append(dst, '}'), nil
}

// appendFloat writes x so that it reads as a float again.
func appendFloat(dst []byte, x float64) ([]byte, error) {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil, fmt.Errorf("has the number %v, which JSON cannot hold", x)
	}
	from := len(dst)
	dst = strconv.AppendFloat(dst, x, 'g', -1, 64)
	for _, c := range dst[from:] {
		if c == '.' || c == 'e' {
			return dst, nil
		}
	}
	return append(dst, ".0"...), nil
}

// appendQuoted writes s, which is valid UTF-8, as a JSON string.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c < 0x20:
			dst = append(dst, fmt.Sprintf(`\u%04x`, c)...)
		case c >= utf8.RuneSelf:
			_, n := utf8.DecodeRuneInString(s[i:])
			dst = append(dst, s[i:i+n]...)
			i += n
			continue
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
}
