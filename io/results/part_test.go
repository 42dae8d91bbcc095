package results

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	v15 "github.com/apache/arrow/go/v15/arrow"
	"github.com/google/go-cmp/cmp"
)

// readBack gives what a part holds of our columns.
func readBack(t testing.TB, w *Writer, part string) (records []Record, schema *arrow.Schema) {
	t.Helper()
	ctx := context.Background()
	table, err := openTable(ctx, w.options.fs, filepath.Join(w.dir, part))
	if err != nil {
		t.Fatal(err)
	}
	if err := table.each(ctx, func(batch arrow.RecordBatch, _ int64) error {
		schema = batch.Schema()
		r, err := scanRecords(w.columns, batch)
		records = append(records, r...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return records, schema
}

// TestColumnsOfEveryTask: what goes in comes out, under the names of docs/formats.md.
func TestColumnsOfEveryTask(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		layout  Layout
		columns string
		good    []Record
	}{
		{Layout{Task: Generate}, "row output output_ids finish_reason prompt_tokens output_tokens cumulative_logprob error", []Record{
			{Output: ptr(""), OutputIDs: []int32{}, FinishReason: "length", PromptTokens: 3},
			{Output: nil, OutputIDs: []int32{7, math.MaxInt32}, FinishReason: "stop", OutputTokens: 2, CumulativeLogprob: math.Inf(-1)},
			{Output: &long, OutputIDs: []int32{0}, FinishReason: "stop", CumulativeLogprob: -0.1},
		}},
		{Layout{Task: Generate, Logprobs: 1, Logits: true, ID: v15.Field{Name: "key", Type: v15.BinaryTypes.LargeString}},
			"key output output_ids finish_reason prompt_tokens output_tokens cumulative_logprob token_logprobs top_logprobs logits error", []Record{
				{ID: "a", Output: ptr("é"), OutputIDs: []int32{1}, FinishReason: "stop", TokenLogprobs: []float32{-1}, TopLogprobs: [][]TokenLogprob{{{5, -1}}, {}}, Logits: []float32{1, 2}},
				{ID: nil, Output: ptr("x"), OutputIDs: []int32{}, FinishReason: "stop", TokenLogprobs: []float32{}, TopLogprobs: [][]TokenLogprob{}, Logits: []float32{}},
			}},
		{Layout{Task: Score, ID: v15.Field{Name: "n", Type: v15.PrimitiveTypes.Int32}}, "n logprob token_logprobs tokens greedy perplexity error", []Record{
			{ID: int64(-5), Logprob: -2.5, TokenLogprobs: []float32{-2, -0.5}, Tokens: 2, Greedy: true, Perplexity: 1.2},
			{ID: int64(1 << 60), TokenLogprobs: []float32{}, Perplexity: math.Inf(1)},
		}},
		{Layout{Task: Embed}, "row embedding prompt_tokens error", []Record{{Embedding: []float32{1, -2}, PromptTokens: 9}, {Embedding: []float32{}}}},
		{Layout{Task: Classify, Logits: true}, "row label prompt_tokens logits error", []Record{{Label: "yes", Logits: []float32{1, 0}}, {Label: "", Logits: []float32{}}}},
		{Layout{Task: FillMask}, "row predictions prompt_tokens error", []Record{
			{Predictions: []Prediction{{1, 2, ptr("a"), 0.5}, {1, 3, ptr(""), 0.25}, {2, 3, nil, 0.125}}}, {Predictions: []Prediction{}},
		}},
	} {
		records := append([]Record(nil), c.good...)
		records = append(records, Record{Error: "bad: \xff", Output: ptr("not to be seen"), Logprob: 1, Label: "not to be seen", Tokens: 3})
		want := append([]Record(nil), c.good...)
		want = append(want, Record{Error: "bad: \uFFFD"})
		for i := range records {
			records[i].Row = int64(i)
			if c.layout.ID.Type == nil {
				want[i].Row = int64(i)
			} else {
				want[i].Row = 0
			}
		}
		if c.layout.Task == Generate {
			want[len(want)-1].FinishReason = "error"
		}
		chunks := cut(int64(len(records)))
		out, w := begin(t, c.layout, chunks, Options{})
		if err := w.Commit(context.Background(), chunks[0], records, nil); err != nil {
			t.Fatalf("%s: %v", c.layout.Task, err)
		}
		got, schema := readBack(t, w, "part-0000000.parquet")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.layout.Task, diff)
		}
		var names []string
		for _, f := range schema.Fields() {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != c.columns {
			t.Errorf("%s: columns %s, want %s", c.layout.Task, got, c.columns)
		}
		if _, err := out.Finish(context.Background()); err != nil {
			t.Errorf("%s: %v", c.layout.Task, err)
		}
		if err := w.SaveOpen(chunks[0], records); err != nil {
			t.Fatal(err)
		}
		open, err := w.Open(context.Background(), chunks[0])
		for i := range want {
			want[i].Row = int64(i) // open rows know it, with an id column too
		}
		if diff := cmp.Diff(want, open); err != nil || diff != "" {
			t.Errorf("%s: open rows: %v %s", c.layout.Task, err, diff)
		}
	}
}

func TestSamples(t *testing.T) {
	layout := Layout{Task: Generate, Samples: 3, Carry: []v15.Field{{Name: "source", Type: v15.BinaryTypes.String, Nullable: true}}}
	chunks := cut(2, 3)
	out, w := begin(t, layout, chunks, Options{})
	var total []Record
	for _, c := range chunks {
		var records []Record
		for row := c.First; row < c.First+c.Rows(); row++ {
			r := record(row)
			r.TokenLogprobs, r.TopLogprobs, r.ID = nil, nil, nil
			if r.Error != "" {
				records = append(records, r)
			}
			for s := range int32(3) {
				r.Sample = s
				total = append(total, stored(r))
				total[len(total)-1].Sample = s
				if r.Error == "" {
					records = append(records, r)
				}
			}
		}
		if err := w.Commit(context.Background(), c, records, carryOf(c)); err != nil {
			t.Fatal(err)
		}
	}
	var got []Record
	for i, c := range chunks {
		records, _ := readBack(t, w, partName(i))
		got = append(got, records...)
		table, err := openTable(context.Background(), w.options.fs, filepath.Join("/out", partName(i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = table.each(context.Background(), func(batch arrow.RecordBatch, before int64) error {
			sources := batch.Column(int(batch.NumCols()) - 1)
			for k := range sources.Len() {
				if want := carryOf(c).Column(0).ValueStr((int(before) + k) / 3); sources.ValueStr(k) != want {
					t.Errorf("part %d, record %d: source %q, want %q", i, k, sources.ValueStr(k), want)
				}
			}
			return nil
		})
	}
	if diff := cmp.Diff(total, got); diff != "" {
		t.Error(diff)
	}
	summary, err := out.Finish(context.Background())
	if err != nil || summary.Rows != 5 || summary.Records != 15 || summary.Bad != 1 {
		t.Errorf("%v %+v", err, summary)
	}
	if report, err := Verify(context.Background(), "/out", VerifyOptions{fs: w.options.fs}); err != nil || !report.Whole() {
		t.Errorf("%v %+v", err, report)
	}
}

// TestWrongRecords: what a caller gets wrong never becomes a part.
func TestWrongRecords(t *testing.T) {
	layout := Layout{Task: Generate, Samples: 2}
	chunks := cut(2)
	_, w := begin(t, layout, chunks, Options{})
	good := []Record{{Row: 0}, {Row: 0, Sample: 1}, {Row: 1}, {Row: 1, Sample: 1}}
	for name, records := range map[string][]Record{
		"none":             nil,
		"one short":        good[:3],
		"one more":         append(good[:4:4], Record{Row: 2}),
		"a sample doubled": {good[0], good[0], good[2], good[3]},
		"out of order":     {good[2], good[3], good[0], good[1]},
		"half a bad row":   {good[0], good[1], {Row: 1, Error: "x"}, {Row: 1, Sample: 0, Error: "x"}},
		"of another chunk": {{Row: 2}, {Row: 2, Sample: 1}, {Row: 3}, {Row: 3, Sample: 1}},
	} {
		if err := w.Commit(context.Background(), chunks[0], records, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := w.Commit(context.Background(), chunks[0], good, carryOf(chunks[0])); err == nil {
		t.Error("a carried column that the layout does not have: taken")
	}
	if names, _ := w.options.fs.ReadDir("/out"); len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
	if err := w.Commit(context.Background(), chunks[0], good, nil); err != nil {
		t.Error(err)
	}
}
