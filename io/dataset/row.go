package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// Row is one input row. Exactly one of Prompt, IDs and Messages is set, as Columns says; all of it is nobody else's
// memory. A row that cannot be used has Err set, and of the rest only Number and, where it can be read, ID.
type Row struct {
	Number          int64             // global, from 0
	ID              any               // int64 or string as Dataset.IDType says; nil without an id column
	Prompt          string            // valid UTF-8, may be empty
	IDs             []int32           // at least one, none below 0
	Messages        []json.RawMessage // at least one; JSON objects with their keys in order and their numbers as written
	Tools           []json.RawMessage // as Messages; none where the column, its value or the list's content is absent
	Continuation    string
	HasContinuation bool // false only without a continuation column
	Pair            string
	HasPair         bool // false only without a column of second texts
	Overrides       Overrides
	Err             *RowError
}

// Overrides are the row's own settings; what is nil follows the job's. Only types are checked here, not ranges.
type Overrides struct {
	MaxNewTokens *int32
	MinNewTokens *int32
	Temperature  *float64
	TopK         *int32
	TopP         *float64
	Seed         *int64
	Stop         []string
}

// maxTokenID is above the ids of any vocabulary: a larger one is damage or another kind of number.
const maxTokenID = 1<<24 - 1

var errUTF8 = errors.New("is not valid UTF-8; convert it")

// row reads row i of a record. What cannot be used is in the error, a sentence without place.
func (b *binding) row(rec arrow.Record, i int, row *Row) (err error) {
	defer guard(&err)
	if c := b.column(rec, roleID); c != nil {
		if row.ID, err = identity(c, i); err != nil {
			return fmt.Errorf("%s %w", b.names[roleID], err)
		}
	}
	if err := b.input(rec, i, row); err != nil {
		return err
	}
	if c := b.column(rec, roleContinuation); c != nil {
		if row.Continuation, err = text(c, i); err != nil {
			return fmt.Errorf("%s %w", b.names[roleContinuation], err)
		}
		row.HasContinuation = true
	}
	if c := b.column(rec, roleTools); c != nil && !c.IsNull(i) {
		if row.Tools, err = messages(c, i); err != nil && !errors.Is(err, errNoMessages) {
			return fmt.Errorf("%s %w", b.names[roleTools], err)
		}
	}
	if c := b.column(rec, rolePair); c != nil {
		if row.Pair, err = text(c, i); err != nil {
			return fmt.Errorf("%s %w", b.names[rolePair], err)
		}
		row.HasPair = true
	}
	return b.overrides(rec, i, &row.Overrides)
}

func (b *binding) column(rec arrow.Record, r role) arrow.Array {
	if at := b.place[r]; at >= 0 {
		return rec.Column(at)
	}
	return nil
}

func (b *binding) input(rec arrow.Record, i int, row *Row) (err error) {
	r := rolePrompt
	switch {
	case b.place[roleIDs] >= 0:
		r = roleIDs
		row.IDs, err = tokenIDs(b.column(rec, r), i)
	case b.place[roleMessages] >= 0:
		r = roleMessages
		row.Messages, err = messages(b.column(rec, r), i)
	default:
		row.Prompt, err = text(b.column(rec, r), i)
	}
	if errors.Is(err, errNull) {
		return fmt.Errorf("%s is null; give it a value, or name another column with %s", b.names[r], roleFlag[r])
	}
	if err != nil {
		return fmt.Errorf("%s %w", b.names[r], err)
	}
	return nil
}

var errNull = errors.New("is null; give it a value")

// text copies a text out of a column.
func text(a arrow.Array, i int) (string, error) {
	if a.IsNull(i) {
		return "", errNull
	}
	var s string
	switch a := a.(type) {
	case *array.String:
		s = strings.Clone(a.Value(i))
	case *array.LargeString:
		s = strings.Clone(a.Value(i))
	case *array.Binary:
		s = string(a.Value(i))
	case *array.LargeBinary:
		s = string(a.Value(i))
	default:
		return "", fmt.Errorf("has the type %v", a.DataType())
	}
	if len(s) > maxValue {
		return "", fmt.Errorf("has %d bytes, more than %d MiB; split it", len(s), maxValue>>20)
	}
	if !utf8.ValidString(s) {
		return "", errUTF8
	}
	return s, nil
}

// integer is the value of an integer column; ok is false for other types, nulls and numbers above int64.
func integer(a arrow.Array, i int) (x int64, ok bool) {
	if a.IsNull(i) {
		return 0, false
	}
	switch a := a.(type) {
	case *array.Int64:
		return a.Value(i), true
	case *array.Int32:
		return int64(a.Value(i)), true
	case *array.Int16:
		return int64(a.Value(i)), true
	case *array.Int8:
		return int64(a.Value(i)), true
	case *array.Uint64:
		return int64(a.Value(i)), a.Value(i) <= math.MaxInt64
	case *array.Uint32:
		return int64(a.Value(i)), true
	case *array.Uint16:
		return int64(a.Value(i)), true
	case *array.Uint8:
		return int64(a.Value(i)), true
	}
	return 0, false
}

// number is the value of a column of integers or floats.
func number(a arrow.Array, i int) (x float64, ok bool) {
	switch a := a.(type) {
	case *array.Float64:
		return a.Value(i), a.IsValid(i)
	case *array.Float32:
		return float64(a.Value(i)), a.IsValid(i)
	case *array.Float16:
		return float64(a.Value(i).Float32()), a.IsValid(i)
	}
	n, ok := integer(a, i)
	return float64(n), ok
}

// whole is an integer that may be kept as a float, as pandas keeps integers beside nulls.
func whole(a arrow.Array, i int) (int64, error) {
	if n, ok := integer(a, i); ok {
		return n, nil
	}
	x, ok := number(a, i)
	if !ok || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, errors.New("is not an integer of at most 64 bits")
	}
	return int64(x), nil
}

func identity(a arrow.Array, i int) (any, error) {
	if a.IsNull(i) {
		return nil, errNull
	}
	if isText(a.DataType()) {
		return text(a, i)
	}
	n, ok := integer(a, i)
	if !ok {
		return nil, errors.New("is above the largest 64-bit integer")
	}
	return n, nil
}

// element is the array below a list and the range of a row in it.
func element(a arrow.Array, i int) (values arrow.Array, from, to int, err error) {
	if a.IsNull(i) {
		return nil, 0, 0, errNull
	}
	list, ok := a.(array.ListLike)
	if !ok {
		return nil, 0, 0, fmt.Errorf("has the type %v", a.DataType())
	}
	begin, end := list.ValueOffsets(i)
	return list.ListValues(), int(begin), int(end), nil
}

func tokenIDs(a arrow.Array, i int) ([]int32, error) {
	values, from, to, err := element(a, i)
	if err != nil {
		return nil, err
	}
	if from == to {
		return nil, errNoIDs
	}
	ids := make([]int32, 0, to-from)
	for k := from; k < to; k++ {
		x, ok := integer(values, k)
		if err := checkID(x, ok, k-from); err != nil {
			return nil, err
		}
		ids = append(ids, int32(x))
	}
	return ids, nil
}

var errNoIDs = errors.New("is an empty list; give it at least one token id")

func checkID(x int64, ok bool, at int) error {
	switch {
	case !ok:
		return fmt.Errorf("has no integer at position %d", at)
	case x < 0:
		return fmt.Errorf("has the negative token id %d at position %d", x, at)
	case x > maxTokenID:
		return fmt.Errorf("has the token id %d at position %d, which no vocabulary has", x, at)
	}
	return nil
}

// overrides reads the row's own settings.
func (b *binding) overrides(rec arrow.Record, i int, o *Overrides) error {
	for r := roleMaxNewTokens; r <= roleStop; r++ {
		c := b.column(rec, r)
		if c == nil || c.IsNull(i) {
			continue
		}
		var err error
		switch r {
		case roleStop:
			o.Stop, err = stops(c, i)
		case roleTemperature, roleTopP:
			x, _ := number(c, i)
			err = o.setFloat(r, x)
		default:
			var n int64
			if n, err = whole(c, i); err == nil {
				err = o.setInt(r, n)
			}
		}
		if err != nil {
			return fmt.Errorf("%s %w", b.names[r], err)
		}
	}
	return nil
}

func (o *Overrides) setFloat(r role, x float64) error {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return fmt.Errorf("is %v; give it a finite number or null", x)
	}
	if r == roleTemperature {
		o.Temperature = &x
	} else {
		o.TopP = &x
	}
	return nil
}

func (o *Overrides) setInt(r role, n int64) error {
	if r == roleSeed {
		o.Seed = &n
		return nil
	}
	if n < math.MinInt32 || n > math.MaxInt32 {
		return fmt.Errorf("is %d, which does not fit in 32 bits", n)
	}
	x := int32(n)
	switch r {
	case roleTopK:
		o.TopK = &x
	case roleMinNewTokens:
		o.MinNewTokens = &x
	default:
		o.MaxNewTokens = &x
	}
	return nil
}

func stops(a arrow.Array, i int) ([]string, error) {
	if isText(a.DataType()) {
		s, err := text(a, i)
		return []string{s}, err
	}
	values, from, to, err := element(a, i)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, to-from)
	for k := from; k < to; k++ {
		s, err := text(values, k)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
