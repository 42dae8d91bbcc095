package benchmarks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/dsbatch/dsbatch/io/dataset"
)

// promptRow is a row of JSON Lines with the per-row settings of its original.
type promptRow struct {
	Prompt       string   `json:"prompt"`
	MaxNewTokens *int32   `json:"max_new_tokens,omitempty"`
	Temperature  *float64 `json:"temperature,omitempty"`
	TopK         *int32   `json:"top_k,omitempty"`
	TopP         *float64 `json:"top_p,omitempty"`
	Seed         *int64   `json:"seed,omitempty"`
	Stop         []string `json:"stop,omitempty"`
}

// repeatRows writes so many rows of a data set to path: its first ones, at most each of them, over and over in the same
// order, so that every run of each rows is alike in lengths and settings, and two ranks' rows are one rank's twice. No
// repetition has the beginning of another, which would be computed once for both: the words are turned, by one more
// each time.
func repeatRows(ctx context.Context, path, input string, rows, each int) (err error) {
	d, err := dataset.Open(ctx, []string{input}, dataset.Columns{Prompt: "prompt"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	originals, err := firstRows(ctx, d, each)
	if err != nil {
		return err
	}
	if len(originals) == 0 {
		return fmt.Errorf("%s has no rows; give some", input)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	lines := json.NewEncoder(w)
	for i := range rows {
		row := originals[i%len(originals)]
		row.Prompt = turn(row.Prompt, i/len(originals))
		if err := lines.Encode(row); err != nil {
			return err
		}
	}
	return w.Flush()
}

// firstRows reads the first rows, at most so many.
func firstRows(ctx context.Context, d *dataset.Dataset, most int) (rows []promptRow, err error) {
	for i, file := range d.Files() {
		for row, err := range d.Read(ctx, i, 0, min(file.Rows, int64(most-len(rows)))) {
			if err != nil {
				return nil, err
			}
			if row.Err != nil {
				return nil, row.Err
			}
			o := row.Overrides
			rows = append(rows, promptRow{row.Prompt, o.MaxNewTokens, o.Temperature, o.TopK, o.TopP, o.Seed, o.Stop})
		}
	}
	return rows, nil
}

// turn moves the first words of a text, which spaces part, behind its last one.
func turn(text string, by int) string {
	words := strings.Split(text, " ")
	by %= len(words)
	return strings.Join(append(words[by:len(words):len(words)], words[:by]...), " ")
}
