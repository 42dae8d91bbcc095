package results

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Record is one output row. Only the fields of the job's columns are used. A record with an Error has null in every
// column but row or id, sample, finish_reason (then "error") and error.
type Record struct {
	Row    int64 // global number of the input row
	ID     any   // int64, string or nil; used when the Layout has an id column
	Sample int32 // 0…Samples−1

	Output            *string // nil: the model has no tokenizer
	OutputIDs         []int32
	FinishReason      string // stop or length
	PromptTokens      int32
	OutputTokens      int32
	CumulativeLogprob float64
	TokenLogprobs     []float32        // a value an output token, or a scored one
	TopLogprobs       [][]TokenLogprob // a list an output token, the likeliest first

	Logprob    float64 // score: sum over the scored tokens
	Tokens     int32   // score: how many those are
	Greedy     bool
	Perplexity float64

	Embedding   []float32
	Label       string
	Logits      []float32 // classify: one a label; with --output-logits [tokens, vocab], flattened
	Predictions []Prediction

	Error string // why the row is set aside; empty: it is fine
}

// TokenLogprob is a token with its natural log-probability.
type TokenLogprob struct {
	TokenID int32
	Logprob float32
}

// Prediction is one candidate for one masked position.
type Prediction struct {
	Position    int32 // of the mask among the input's tokens, from 0
	TokenID     int32
	Token       *string // nil: the model has no tokenizer
	Probability float32
}

// reason is a text whose empty value is stored as null.
type reason string

// footprint is about the bytes that a record takes in a row group, uncompressed.
func (r *Record) footprint() int64 {
	n := 96 + len(r.Error) + len(r.Label) + 4*(len(r.OutputIDs)+len(r.TokenLogprobs)+len(r.Embedding)+len(r.Logits))
	if r.Output != nil {
		n += len(*r.Output)
	}
	for _, top := range r.TopLogprobs {
		n += 8 + 8*len(top)
	}
	for i := range r.Predictions {
		if n += 16; r.Predictions[i].Token != nil {
			n += len(*r.Predictions[i].Token)
		}
	}
	return int64(n)
}

// appendRecord adds r to the builders of the columns, one a column.
func appendRecord(columns []column, builders []array.Builder, r *Record) error {
	if r.Error != "" {
		bad := *r
		bad.FinishReason = "error"
		r = &bad
	}
	for i := range columns {
		if r.Error != "" && !columns[i].kept {
			builders[i].AppendNull()
			continue
		}
		if err := appendValue(builders[i], columns[i].of(r)); err != nil {
			return fmt.Errorf("row %d: column %s: %w", r.Row, columns[i].name, err)
		}
	}
	return nil
}

func appendValue(b array.Builder, p any) error {
	switch p := p.(type) {
	case *int32:
		b.(*array.Int32Builder).Append(*p)
	case *int64:
		b.(*array.Int64Builder).Append(*p)
	case *float64:
		b.(*array.Float64Builder).Append(*p)
	case *bool:
		b.(*array.BooleanBuilder).Append(*p)
	case *string:
		b.(*array.StringBuilder).Append(validText(*p))
	case **string:
		if *p == nil {
			b.AppendNull()
			return nil
		}
		b.(*array.StringBuilder).Append(validText(**p))
	case *reason:
		if *p == "" {
			b.AppendNull()
			return nil
		}
		b.(*array.StringBuilder).Append(validText(string(*p)))
	case *any:
		return appendID(b, *p)
	case *[]int32:
		list := b.(*array.ListBuilder)
		list.Append(true)
		list.ValueBuilder().(*array.Int32Builder).AppendValues(*p, nil)
	case *[]float32:
		list := b.(*array.ListBuilder)
		list.Append(true)
		list.ValueBuilder().(*array.Float32Builder).AppendValues(*p, nil)
	case *[][]TokenLogprob:
		tokens := b.(*array.ListBuilder)
		tokens.Append(true)
		top := tokens.ValueBuilder().(*array.ListBuilder)
		pair := top.ValueBuilder().(*array.StructBuilder)
		id, logprob := pair.FieldBuilder(0).(*array.Int32Builder), pair.FieldBuilder(1).(*array.Float32Builder)
		for _, candidates := range *p {
			top.Append(true)
			for _, c := range candidates {
				pair.Append(true)
				id.Append(c.TokenID)
				logprob.Append(c.Logprob)
			}
		}
	case *[]Prediction:
		list := b.(*array.ListBuilder)
		list.Append(true)
		item := list.ValueBuilder().(*array.StructBuilder)
		for _, x := range *p {
			item.Append(true)
			item.FieldBuilder(0).(*array.Int32Builder).Append(x.Position)
			item.FieldBuilder(1).(*array.Int32Builder).Append(x.TokenID)
			if token := item.FieldBuilder(2).(*array.StringBuilder); x.Token == nil {
				token.AppendNull()
			} else {
				token.Append(validText(*x.Token))
			}
			item.FieldBuilder(3).(*array.Float32Builder).Append(x.Probability)
		}
	default:
		return fmt.Errorf("%T cannot be stored", p)
	}
	return nil
}

func appendID(b array.Builder, id any) error {
	switch b := b.(type) {
	case *array.Int64Builder:
		if id, ok := id.(int64); ok {
			b.Append(id)
			return nil
		}
	case *array.StringBuilder:
		if id, ok := id.(string); ok {
			b.Append(validText(id))
			return nil
		}
	}
	if id != nil {
		return fmt.Errorf("an id of type %T in a column of %s", id, b.Type())
	}
	b.AppendNull()
	return nil
}

// validText is s with what is not UTF-8 replaced, since a Parquet text must be UTF-8.
func validText(s string) string {
	if utf8.ValidString(s) { // what ToValidUTF8 would find too, but rune by rune
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// scanRecords turns the columns, found by name in batch, back into records.
func scanRecords(columns []column, batch arrow.RecordBatch) ([]Record, error) {
	records := make([]Record, batch.NumRows())
	for _, c := range columns {
		at := batch.Schema().FieldIndices(c.name)
		if len(at) != 1 {
			return nil, fmt.Errorf("%d columns %s, want one", len(at), c.name)
		}
		a := batch.Column(at[0])
		for i := range records {
			if a.IsValid(i) && !scanValue(a, i, c.of(&records[i])) {
				return nil, fmt.Errorf("column %s is %s", c.name, a.DataType())
			}
		}
	}
	return records, nil
}

// scanValue reads value i of a into p; false when a is not of p's type.
func scanValue(a arrow.Array, i int, p any) bool {
	switch p := p.(type) {
	case *int32:
		return scan(a, func(a *array.Int32) { *p = a.Value(i) })
	case *int64:
		return scan(a, func(a *array.Int64) { *p = a.Value(i) })
	case *float64:
		return scan(a, func(a *array.Float64) { *p = a.Value(i) })
	case *bool:
		return scan(a, func(a *array.Boolean) { *p = a.Value(i) })
	case *string:
		return scan(a, func(a *array.String) { *p = strings.Clone(a.Value(i)) })
	case **string:
		return scan(a, func(a *array.String) { s := strings.Clone(a.Value(i)); *p = &s })
	case *reason:
		return scan(a, func(a *array.String) { *p = reason(strings.Clone(a.Value(i))) })
	case *any:
		return scan(a, func(a *array.Int64) { *p = a.Value(i) }) ||
			scan(a, func(a *array.String) { *p = strings.Clone(a.Value(i)) })
	case *[]int32:
		return scanList(a, i, func(v *array.Int32, from, to int) { *p = append([]int32{}, v.Int32Values()[from:to]...) })
	case *[]float32:
		return scanList(a, i, func(v *array.Float32, from, to int) { *p = append([]float32{}, v.Float32Values()[from:to]...) })
	case *[][]TokenLogprob:
		return scanList(a, i, func(tokens *array.List, from, to int) {
			*p = make([][]TokenLogprob, to-from)
			for t := range *p {
				scanList(tokens, from+t, func(top *array.Struct, from, to int) {
					(*p)[t] = make([]TokenLogprob, to-from)
					for c := range (*p)[t] {
						x := &(*p)[t][c]
						scanValue(top.Field(0), from+c, &x.TokenID)
						scan(top.Field(1), func(a *array.Float32) { x.Logprob = a.Value(from + c) })
					}
				})
			}
		})
	case *[]Prediction:
		return scanList(a, i, func(items *array.Struct, from, to int) {
			*p = make([]Prediction, to-from)
			for k := range *p {
				x := &(*p)[k]
				scanValue(items.Field(0), from+k, &x.Position)
				scanValue(items.Field(1), from+k, &x.TokenID)
				if items.Field(2).IsValid(from + k) {
					scanValue(items.Field(2), from+k, &x.Token)
				}
				scan(items.Field(3), func(a *array.Float32) { x.Probability = a.Value(from + k) })
			}
		})
	}
	return false
}

func scan[A arrow.Array](a arrow.Array, read func(A)) bool {
	typed, ok := a.(A)
	if ok {
		read(typed)
	}
	return ok
}

// scanList hands list i of a to read: the array of all elements, and where the list's own begin and end.
func scanList[A arrow.Array](a arrow.Array, i int, read func(elements A, from, to int)) bool {
	list, ok := a.(*array.List)
	if !ok {
		return false
	}
	from, to := list.ValueOffsets(i)
	return scan(list.ListValues(), func(v A) { read(v, int(from), int(to)) })
}
