package results

import (
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
)

// Task is what a job does with each row; it decides the columns.
type Task string

// The tasks of dsbatch run.
const (
	Generate Task = "generate"
	Score    Task = "score"
	Embed    Task = "embed"
	Classify Task = "classify"
	FillMask Task = "fill-mask"
)

// Layout says which columns a part has: the row's number or id, the task's own, error, then what is carried along.
type Layout struct {
	Task     Task
	Logprobs int           // generate: above 0 adds token_logprobs and top_logprobs
	Samples  int           // generate: above 1 each row has that many records and a column sample
	Logits   bool          // --output-logits: adds logits (classify has them anyway)
	ID       arrow.Field   // the id column, of an integer or text type; the zero Field: row, int64
	Carry    []arrow.Field // columns of the input that go along unchanged
}

// column is one column of ours: where its value lies in a Record, and whether rows with an error have it too.
type column struct {
	name string
	typ  arrow.DataType
	of   func(*Record) any // pointer to the value; its type decides how it is stored, see appendValue
	kept bool              // filled in error rows too
}

var (
	int32List   = arrow.ListOf(arrow.PrimitiveTypes.Int32)
	float32List = arrow.ListOf(arrow.PrimitiveTypes.Float32)
	topList     = arrow.ListOf(arrow.ListOf(arrow.StructOf(
		arrow.Field{Name: "token_id", Type: arrow.PrimitiveTypes.Int32},
		arrow.Field{Name: "logprob", Type: arrow.PrimitiveTypes.Float32})))
	predictionList = arrow.ListOf(arrow.StructOf(
		arrow.Field{Name: "position", Type: arrow.PrimitiveTypes.Int32},
		arrow.Field{Name: "token_id", Type: arrow.PrimitiveTypes.Int32},
		arrow.Field{Name: "token", Type: arrow.BinaryTypes.String},
		arrow.Field{Name: "probability", Type: arrow.PrimitiveTypes.Float32}))
)

// columns lists ours, without the carried ones.
func (l Layout) columns() []column {
	c := []column{l.key()}
	if l.samples() > 1 {
		c = append(c, column{"sample", arrow.PrimitiveTypes.Int32, func(r *Record) any { return &r.Sample }, true})
	}
	text, integer, float := arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Float64
	tokenLogprobs := column{"token_logprobs", float32List, func(r *Record) any { return &r.TokenLogprobs }, false}
	promptTokens := column{"prompt_tokens", integer, func(r *Record) any { return &r.PromptTokens }, false}
	switch l.Task {
	case Generate:
		c = append(c,
			column{"output", text, func(r *Record) any { return &r.Output }, false},
			column{"output_ids", int32List, func(r *Record) any { return &r.OutputIDs }, false},
			column{"finish_reason", text, func(r *Record) any { return &r.FinishReason }, true},
			promptTokens,
			column{"output_tokens", integer, func(r *Record) any { return &r.OutputTokens }, false},
			column{"cumulative_logprob", float, func(r *Record) any { return &r.CumulativeLogprob }, false})
		if l.Logprobs > 0 {
			c = append(c, tokenLogprobs, column{"top_logprobs", topList, func(r *Record) any { return &r.TopLogprobs }, false})
		}
	case Score:
		c = append(c,
			column{"logprob", float, func(r *Record) any { return &r.Logprob }, false},
			tokenLogprobs,
			column{"tokens", integer, func(r *Record) any { return &r.Tokens }, false},
			column{"greedy", arrow.FixedWidthTypes.Boolean, func(r *Record) any { return &r.Greedy }, false},
			column{"perplexity", float, func(r *Record) any { return &r.Perplexity }, false})
	case Embed:
		c = append(c, column{"embedding", float32List, func(r *Record) any { return &r.Embedding }, false}, promptTokens)
	case Classify:
		c = append(c, column{"label", text, func(r *Record) any { return &r.Label }, false}, promptTokens)
	case FillMask:
		c = append(c, column{"predictions", predictionList, func(r *Record) any { return &r.Predictions }, false}, promptTokens)
	}
	if l.Logits || l.Task == Classify {
		c = append(c, column{"logits", float32List, func(r *Record) any { return &r.Logits }, false})
	}
	return append(c, column{"error", text, func(r *Record) any { return (*reason)(&r.Error) }, true})
}

// key is the first column: row, or the id in its place.
func (l Layout) key() column {
	switch {
	case l.ID.Type == nil:
		return column{"row", arrow.PrimitiveTypes.Int64, func(r *Record) any { return &r.Row }, true}
	case arrow.IsInteger(l.ID.Type.ID()):
		return column{l.ID.Name, arrow.PrimitiveTypes.Int64, func(r *Record) any { return &r.ID }, true}
	default:
		return column{l.ID.Name, arrow.BinaryTypes.String, func(r *Record) any { return &r.ID }, true}
	}
}

func (l Layout) samples() int {
	if l.Task == Generate && l.Samples > 1 {
		return l.Samples
	}
	return 1
}

// Schema of a part: ours, then the carried columns. All columns may hold nulls.
func (l Layout) Schema() *arrow.Schema {
	return arrow.NewSchema(append(l.ownFields(), l.Carry...), nil)
}

func (l Layout) ownFields() (fields []arrow.Field) {
	for _, c := range l.columns() {
		fields = append(fields, arrow.Field{Name: c.name, Type: c.typ, Nullable: true})
	}
	return fields
}

// Check refuses an unknown task, an id that is neither integer nor text, two columns of one name, and a carried type
// that Parquet cannot store. All of it wraps ErrColumns.
func (l Layout) Check() error {
	if err := l.check(); err != nil {
		return &layoutError{err.Error()}
	}
	return nil
}

// layoutError is a sentence that wraps ErrColumns without repeating it.
type layoutError struct{ text string }

func (e *layoutError) Error() string { return e.text }
func (e *layoutError) Unwrap() error { return ErrColumns }

func (l Layout) check() error {
	if !slices.Contains([]Task{Generate, Score, Embed, Classify, FillMask}, l.Task) {
		return fmt.Errorf("task %q: use generate, score, embed, classify or fill-mask", l.Task)
	}
	if t := l.ID.Type; t != nil && !arrow.IsInteger(t.ID()) && t.ID() != arrow.STRING && t.ID() != arrow.LARGE_STRING {
		return fmt.Errorf("id column %q is %s; an id is an integer or a text: name another with --id-column", l.ID.Name, t)
	}
	seen := map[string]bool{}
	for i, c := range l.columns() {
		if i > 0 && seen[c.name] { // only the id can clash with one of ours
			return fmt.Errorf("id column %q has the name of an output column; rename it in the input", c.name)
		}
		seen[c.name] = true
	}
	for _, f := range l.Carry {
		if seen[f.Name] {
			return fmt.Errorf("a carried column would have the name of the output column %q; give it another: --carry COLUMN:NAME, also beside all", f.Name)
		}
		seen[f.Name] = true
	}
	return l.storable()
}
