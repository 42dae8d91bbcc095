package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/queuetest"
	"github.com/dsbatch/dsbatch/model/modeltest"
)

// encoderJob is a job of a task over the rows of ids in input.
func encoderJob(t testing.TB, model string, task config.Task, input string) *config.Job {
	j := config.New()
	j.Model, j.Input, j.Output, j.Task = model, []string{input}, filepath.Join(t.TempDir(), "out"), task
	j.PromptColumn, j.IDsColumn, j.Threads = "", "ids", 1
	return j
}

// bundledGolden is the folder of a golden that the tests of package model hold to its answers too.
func bundledGolden(t testing.TB, name string) string {
	t.Helper()
	return modeltest.Unpacked(t, filepath.Join("..", "model", "testdata", "golden", name))
}

// idRows writes rows of token ids.
func idRows(t testing.TB, rows ...[]int32) string {
	t.Helper()
	var text strings.Builder
	for _, ids := range rows {
		line, err := json.Marshal(map[string]any{"ids": ids})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s\n", line)
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// goldenRows are a golden's prompts as rows.
func goldenRows(t testing.TB, g *modeltest.Golden) string {
	var rows [][]int32
	for i := range g.Prompts() {
		rows = append(rows, g.Ints(t, modeltest.Key(i, "input_ids")))
	}
	return idRows(t, rows...)
}

// outcomeOf runs a job on some ranks and returns its rows, by column.
func outcomeOf(t testing.TB, ranks int, j *config.Job) []map[string]any {
	t.Helper()
	summary, err := runRanks(t, ranks, j, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	head, err := results.Head(context.Background(), j.Output, int(summary.Rows))
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	for _, values := range head.Values {
		row := map[string]any{}
		for i, v := range values {
			row[head.Columns[i]] = v
		}
		if row["error"] != nil {
			t.Fatalf("row %v: %v", row["row"], row["error"])
		}
		rows = append(rows, row)
	}
	return rows
}

// column reads a value that comes as JSON.
func column[T any](t testing.TB, v any) (to T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &to)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// nearTo compares to a bound relative to the largest value wanted.
func nearTo(t testing.TB, what string, got, want []float32, bound float64) {
	t.Helper()
	largest := 0.0
	for _, w := range want {
		largest = max(largest, math.Abs(float64(w)))
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= bound*largest) {
			t.Fatalf("%s: value %d is %g, want %g, within %g", what, i, got[i], want[i], bound*largest)
		}
	}
}

// encoderTypes are how near to the reference a job with weights of a type is.
var encoderTypes = map[config.DType]float64{config.FP32: 1e-4, config.BF16: 0.03, config.INT8: 0.1}

// TestEmbeddingsAreTheGoldens holds each pooling against the reference's last hidden states and its pooler, of an encoder and
// of decoders.
func TestEmbeddingsAreTheGoldens(t *testing.T) {
	for model, layers := range map[string]int{"bert-embed": 2, "llama": 3, "mixtral": 2} {
		dir := bundledGolden(t, model)
		g := modeltest.Open(t, dir)
		input := goldenRows(t, g)
		for dtype, bound := range encoderTypes {
			for _, pooling := range []string{"cls", "last", "mean", "pooler"} {
				if !g.Has("0.pooler_output") && (pooling == "pooler" || dtype != config.FP32) {
					continue
				}
				j := encoderJob(t, dir, config.Embed, input)
				j.Pooling, j.DType = pooling, dtype
				for i, row := range outcomeOf(t, 1, j) {
					want, tokens := goldenEmbedding(t, g, i, layers, pooling)
					what := fmt.Sprintf("%s in %v, %s, row %d", model, dtype, pooling, i)
					nearTo(t, what, column[[]float32](t, row["embedding"]), want, bound)
					if got := column[int](t, row["prompt_tokens"]); got != tokens {
						t.Errorf("%s has %d tokens, want %d", what, got, tokens)
					}
				}
			}
		}
	}
}

// goldenEmbedding is that of a prompt, from the reference's hidden states after so many layers, and how many tokens it has.
func goldenEmbedding(t testing.TB, g *modeltest.Golden, prompt, layers int, pooling string) (want []float32, tokens int) {
	hidden, cols := g.Floats(t, modeltest.Key(prompt, "hidden", layers))
	tokens = len(hidden) / cols
	switch pooling {
	case "cls":
		return hidden[:cols], tokens
	case "last":
		return hidden[len(hidden)-cols:], tokens
	case "pooler":
		want, _ = g.Floats(t, modeltest.Key(prompt, "pooler_output"))
		return want, tokens
	}
	want = make([]float32, cols)
	for i, x := range hidden {
		want[i%cols] += x / float32(tokens)
	}
	return want, tokens
}

// TestLabelsAreTheGoldens: logits near the reference's, and the label of the largest one.
func TestLabelsAreTheGoldens(t *testing.T) {
	dir := bundledGolden(t, "bert-classify")
	g := modeltest.Open(t, dir)
	input := goldenRows(t, g)
	for dtype, bound := range encoderTypes {
		j := encoderJob(t, dir, config.Classify, input)
		j.DType = dtype
		j.Inference.ModelConfig = map[string]any{"id2label": map[string]any{"0": "no", "1": "perhaps", "2": "yes"}}
		for i, row := range outcomeOf(t, 1, j) {
			want, _ := g.Floats(t, modeltest.Key(i, "logits"))
			nearTo(t, fmt.Sprintf("%v, row %d", dtype, i), column[[]float32](t, row["logits"]), want, bound)
			best := []string{"no", "perhaps", "yes"}[slices.Index(want, slices.Max(want))]
			if dtype == config.FP32 && row["label"] != best {
				t.Errorf("row %d is %v, want %s", i, row["label"], best)
			}
		}
	}
}

// prediction is one as a file has it.
type prediction struct {
	Position    int     `json:"position"`
	TokenID     int     `json:"token_id"`
	Token       *string `json:"token"`
	Probability float64 `json:"probability"`
}

// TestMasksAreFilledAsTheGoldens: for each mask the likeliest tokens of the reference's logits, in their order.
func TestMasksAreFilledAsTheGoldens(t *testing.T) {
	for _, name := range []string{"distilbert-mlm", "bert-mlm"} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			if name == "bert-mlm" {
				dir = modeltest.SharedGolden(t, name)
			} else {
				dir = bundledGolden(t, name)
			}
			g := modeltest.Open(t, dir)
			const vocab, top = 160, 4
			for i := range g.Prompts() {
				ids := g.Ints(t, modeltest.Key(i, "input_ids"))
				mask := ids[len(ids)/2]
				j := encoderJob(t, dir, config.FillMask, idRows(t, ids))
				j.TopK, j.OutputLogits = top, true
				j.Inference.ModelConfig = map[string]any{"mask_token_id": float64(mask)}
				row := outcomeOf(t, 1, j)[0]
				logits, _ := g.Floats(t, modeltest.Key(i, "logits"))
				nearTo(t, fmt.Sprintf("logits of row %d", i), column[[]float32](t, row["logits"]), logits, 1e-4)
				got := column[[]prediction](t, row["predictions"])
				for at, id := range ids {
					if id != mask {
						continue
					}
					of := logits[at*vocab:][:vocab]
					order := make([]int, vocab)
					sum := 0.0
					for k, v := range of {
						order[k] = k
						sum += math.Exp(float64(v))
					}
					slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(of[b], of[a]) })
					for k := range top {
						p := math.Exp(float64(of[order[k]])) / sum
						if len(got) == 0 || got[0].Position != at || got[0].TokenID != order[k] || math.Abs(got[0].Probability-p) > 1e-4 || got[0].Token != nil {
							t.Fatalf("prompt %d: place %d, candidate %d is %+v, want token %d of %g", i, at, k, got[:min(1, len(got))], order[k], p)
						}
						got = got[1:]
					}
				}
				if len(got) > 0 {
					t.Errorf("prompt %d: %d predictions for no mask", i, len(got))
				}
			}
		})
	}
}

// encoderTasks are jobs of every kind of readout, with the model and what it is to be told.
var encoderTasks = []struct {
	name, model string
	task        config.Task
	change      func(*config.Job)
}{
	{"mean", "bert-embed", config.Embed, func(*config.Job) {}},
	{"pooler", "bert-embed", config.Embed, func(j *config.Job) { j.Pooling = "pooler" }},
	{"labels", "bert-classify", config.Classify, func(*config.Job) {}},
	{"masks", "distilbert-mlm", config.FillMask, func(j *config.Job) {
		j.OutputLogits, j.Inference.ModelConfig = true, map[string]any{"mask_token_id": 7.0}
	}},
	{"mean of a decoder", "mixtral", config.Embed, func(*config.Job) {}},
	{"last of a decoder", "llama", config.Embed, func(j *config.Job) { j.Pooling, j.OutputLogits = "last", true }},
}

// encoderRows are texts of many lengths, each with a mask of id 7.
func encoderRows(t testing.TB) string {
	var lengths []int
	for i := range 24 {
		lengths = append(lengths, 1+i*i*7%61)
	}
	rows := layoutPrompts(150, lengths...)
	for i, ids := range rows {
		ids[i%len(ids)] = 7
	}
	return idRows(t, rows...)
}

// TestSameBitsHoweverTextsAreRead is promise 1 for what is not generated: no batch, chunk, cut into steps, number of ranks or
// stage changes a bit; tp changes the last ones.
func TestSameBitsHoweverTextsAreRead(t *testing.T) {
	input := encoderRows(t)
	for _, c := range encoderTasks {
		t.Run(c.name, func(t *testing.T) {
			dir := bundledGolden(t, c.model)
			want, outputs := map[int]map[string]string{}, map[int]string{}
			for _, s := range []struct {
				name       string
				world      int
				tp, pp, ep int
				set        func(*config.Job)
			}{
				{"one rank", 1, 1, 1, 0, func(*config.Job) {}},
				{"one row at a time", 1, 1, 1, 0, func(j *config.Job) { j.MaxSeqs = 1 }},
				{"steps of 128 tokens", 1, 1, 1, 0, func(j *config.Job) { j.MaxBatchTokens, j.MaxSeqs = 128, 3 }},
				{"steps of 17 tokens, where texts may be cut", 1, 1, 1, 0, func(j *config.Job) {
					if c.model == "mixtral" || c.model == "llama" {
						j.MaxBatchTokens = 17
					}
				}},
				{"chunks of 5 rows", 1, 1, 1, 0, func(j *config.Job) { j.ChunkRows = 5 }},
				{"two threads", 1, 1, 1, 0, func(j *config.Job) { j.Threads = 2 }},
				{"3 ranks", 3, 1, 1, 1, func(j *config.Job) { j.ChunkRows = 4 }},
				{"2 stages", 2, 1, 2, 0, func(j *config.Job) { j.ChunkRows = 4 }},
				{"tp 2", 2, 2, 1, 0, func(*config.Job) {}},
				{"a device that is late", 2, 1, 2, 0, func(j *config.Job) { j.MaxSeqs, j.ChunkRows = 3, 4 }},
				{"tp 2, 2 stages, 2 replicas", 8, 2, 2, 2, func(j *config.Job) { j.ChunkRows, j.MaxSeqs = 3, 2 }},
			} {
				j := encoderJob(t, dir, c.task, input)
				c.change(j)
				j.TP, j.PP, j.EP = s.tp, s.pp, s.ep
				if c.model != "mixtral" {
					j.EP = 0
				}
				s.set(j)
				var o RunOptions
				if s.name == "a device that is late" {
					o.wrap = func(d kernels.Device) kernels.Device { return &queuetest.Device{Device: d} }
				}
				got, err := runRanks(t, s.world, j, o)
				if err != nil || got.Rows != 24 || got.Bad != 0 {
					t.Fatalf("%s: %+v, %v", s.name, got, err)
				}
				if want[s.tp] == nil {
					want[s.tp], outputs[s.tp] = got.Digests, j.Output
				}
				if !maps.Equal(got.Digests, want[s.tp]) {
					t.Errorf("%s: digests %v, first %v", s.name, got.Digests, want[s.tp])
				}
			}
			report, err := results.Diff(context.Background(), outputs[1], outputs[2], results.DiffOptions{Bound: 1e-4})
			if err != nil || !report.Same() {
				t.Errorf("tp 2 is not near one rank: %+v, %v", report, err)
			}
		})
	}
}

// TestStoppedReadingGoesOn stops such a job again and again; other numbers of ranks go on to the same bytes.
func TestStoppedReadingGoesOn(t *testing.T) {
	input := encoderRows(t)
	for _, c := range encoderTasks {
		t.Run(c.name, func(t *testing.T) {
			dir := bundledGolden(t, c.model)
			job := func() *config.Job {
				j := encoderJob(t, dir, c.task, input)
				c.change(j)
				j.ChunkRows, j.MaxSeqs = 5, 2
				return j
			}
			whole, err := runRanks(t, 1, job(), RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			j, stops := job(), 0
			for start := 0; ; start++ {
				stop, steps := &Stop{}, 0
				got, err := runRanks(t, 1+start%3, j, RunOptions{Stop: stop, Progress: func(Progress) {
					if steps++; steps > 3+start {
						stop.Request("test")
					}
				}})
				if errors.Is(err, ErrStopped) {
					stops++
					continue
				} else if err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(got.Digests, whole.Digests) || got.Rows != whole.Rows {
					t.Errorf("after %d stops: %v, undisturbed %v", stops, got, whole)
				}
				break
			}
			if stops < 2 {
				t.Errorf("only %d stops: the job was too short to show anything", stops)
			}
		})
	}
}

// TestReadingIsRefused: what cannot work is refused before a weight is read, with what can.
func TestReadingIsRefused(t *testing.T) {
	input := idRows(t, []int32{7, 5})
	for _, c := range []struct {
		name, model string
		task        config.Task
		set         func(*config.Job)
		say         []string
	}{
		{"an encoder that is to generate", "bert-embed", config.Generate, nil, []string{"cannot do the task generate", "use --task embed"}},
		{"an encoder that is to score", "distilbert-mlm", config.Score, nil, []string{"embed or fill-mask"}},
		{"masks without a head", "bert-classify", config.FillMask, nil, []string{"cannot do the task fill-mask", "embed or classify"}},
		{"labels of a decoder", "llama", config.Classify, nil, []string{"generate, score or embed"}},
		{"a pooler that is not there", "distilbert-mlm", config.Embed, func(j *config.Job) { j.Pooling = "pooler" }, []string{"no pooler", "mean, cls or last"}},
		{"a pooler of a decoder", "llama", config.Embed, func(j *config.Job) { j.Pooling = "pooler" }, []string{"no pooler"}},
		{"logits without a head", "bert-embed", config.Embed, func(j *config.Job) { j.OutputLogits = true }, []string{"--output-logits", "no logits of tokens"}},
		{"a mask that nobody names", "distilbert-mlm", config.FillMask, nil, []string{"has no tokenizer", "mask_token_id"}},
		{"a mask beyond the vocabulary", "distilbert-mlm", config.FillMask, func(j *config.Job) { j.Inference.ModelConfig = map[string]any{"mask_token_id": 160.0} },
			[]string{"mask_token_id is 160", "159"}},
		{"more candidates than tokens", "distilbert-mlm", config.FillMask, func(j *config.Job) {
			j.TopK, j.Inference.ModelConfig = 161, map[string]any{"mask_token_id": 7.0}
		}, []string{"--top-k 161", "160 tokens"}},
		{"steps shorter than the window", "bert-embed", config.Embed, func(j *config.Job) { j.MaxBatchTokens = 127 }, []string{"--max-batch-tokens 127", "128 tokens"}},
		{"steps shorter than a block", "llama", config.Embed, func(j *config.Job) { j.MaxBatchTokens = 15 }, []string{"--max-batch-tokens 15", "16"}},
		{"a mask of earlier tokens", "bert-embed", config.Embed, func(j *config.Job) { yes := true; j.Inference.TriangularMask = &yes }, []string{"triangular_masking true", "later tokens"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := encoderJob(t, bundledGolden(t, c.model), c.task, input)
			if c.set != nil {
				c.set(j)
			}
			_, err := runRanks(t, 1, j, RunOptions{})
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("not refused: %v", err)
			}
			for _, say := range c.say {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("%q is not said: %v", say, err)
				}
			}
		})
	}
}

// TestEncoderOfACaller: a caller in Go may open an encoder, and is told what it cannot do when it asks for that.
func TestEncoderOfACaller(t *testing.T) {
	e, err := InitInference(t.Context(), bundledGolden(t, "distilbert-mlm"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.GenerateIDs(t.Context(), [][]int32{{5, 6}}, GenerateOptions{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "embed or fill-mask") {
		t.Errorf("it generates: %v", err)
	}
	if _, err := e.ScoreIDs(t.Context(), [][]int32{{5, 6}}, ScoreOptions{}); !errors.Is(err, ErrRefused) {
		t.Errorf("it scores: %v", err)
	}
}

// TestRowsThatCannotBeRead are set aside with their reasons; the others go on.
func TestRowsThatCannotBeRead(t *testing.T) {
	rows := [][]int32{{5, 7, 9}, make([]int32, 129), {5, 6}, {7}, {5, 160}, make([]int32, 128)}
	rows[5][77] = 7
	j := encoderJob(t, bundledGolden(t, "distilbert-mlm"), config.FillMask, idRows(t, rows...))
	j.Inference.ModelConfig = map[string]any{"mask_token_id": 7.0}
	got, err := runRanks(t, 1, j, RunOptions{})
	if err != nil || got.Rows != 6 || got.Bad != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	head, err := results.Head(context.Background(), j.Output, 6)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.Index(head.Columns, "error")
	for i, want := range []string{"", "the text has 129 tokens, the window holds 128", "no mask; write id 7", "", "id 160", ""} {
		if reason, _ := head.Values[i][at].(string); (reason == "") != (want == "") || !strings.Contains(reason, want) {
			t.Errorf("row %d: %q, want %q", i, reason, want)
		}
	}
}
