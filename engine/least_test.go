package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/io/tokenizer"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestLeastNewTokens: an end token is passed over until a row has its least length, by the likeliest of the others, and
// what is reported stays the model's own; behind it the first end token ends the row.
func TestLeastNewTokens(t *testing.T) {
	const most = 12
	tokens, err := tokenizer.Load(bundled)
	if err != nil {
		t.Fatal(err)
	}
	var ends []int32
	for _, frequent := range []string{",", "Ġthe", "Ġof"} {
		id, known := tokens.ID(frequent)
		if !known {
			t.Fatalf("no token %q", frequent)
		}
		ends = append(ends, id)
	}
	j := newJob(t, func(j *config.Job) {
		j.Logprobs, j.MaxNewTokens, j.Temperature, j.TopK = 4, most, 0, 0
		j.Inference.ModelConfig = map[string]any{"eos_token_id": []any{float64(ends[0]), float64(ends[1]), float64(ends[2])}}
	})
	e, err := Open(context.Background(), mpi.Alone(), j)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	texts := []string{"It is a truth universally acknowledged", "She was", "And the LORD said unto", "No one who had ever seen", "In the beginning God", "He could not but"}
	banned, ended := 0, 0
	for _, temperature := range []float64{0, 1.5} {
		for _, least := range []int32{0, 1, 5, most} {
			var rows []*dataset.Row
			for i := range 4 * len(texts) {
				rows = append(rows, &dataset.Row{Number: int64(i), Prompt: texts[i%len(texts)], Overrides: dataset.Overrides{MinNewTokens: &least}})
			}
			job := *j
			job.Temperature = temperature
			out, err := e.direct(context.Background(), &job, rows, false)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range out {
				where := fmt.Sprintf("temperature %v, at least %d, row %d: %v", temperature, least, i, r.OutputIDs)
				first := slices.IndexFunc(r.OutputIDs, func(id int32) bool { return slices.Contains(ends, id) })
				if stop := r.FinishReason == finishStop; r.Err != nil || stop != (first >= 0) || stop && (first < int(least) || first != len(r.OutputIDs)-1) || !stop && len(r.OutputIDs) != most {
					t.Fatalf("%s, %s, %v", where, r.FinishReason, r.Err)
				}
				if first >= 0 {
					ended++
				}
				for at, id := range r.OutputIDs {
					top := r.TopLogprobs[at]
					if at < int(least) && slices.Contains(ends, top[0].TokenID) {
						banned++
						top = slices.DeleteFunc(slices.Clone(top), func(x results.TokenLogprob) bool { return slices.Contains(ends, x.TokenID) })
					}
					if temperature == 0 && (id != top[0].TokenID || r.TokenLogprobs[at] != top[0].Logprob) {
						t.Fatalf("%s: token %d is %d of log-probability %v, the likeliest are %v", where, at, id, r.TokenLogprobs[at], r.TopLogprobs[at])
					}
				}
			}
		}
	}
	if banned < 10 || ended < 10 {
		t.Errorf("end tokens were passed over %d times and ended %d rows: too few to tell", banned, ended)
	}
	for least, want := range map[int32]string{-1: "0 (off) or above", most + 1: "more than the 12"} {
		row := &dataset.Row{Prompt: "a", Overrides: dataset.Overrides{MinNewTokens: &least}}
		if out, err := e.direct(context.Background(), j, []*dataset.Row{row}, false); err != nil || out[0].Err == nil || !strings.Contains(out[0].Err.Error(), want) {
			t.Errorf("%d: %v, %v, want %q", least, out, err, want)
		}
	}
}
