package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// TestRowsWithoutNumbers runs models whose embeddings of two tokens are NaN and infinite: rows with such a token are set
// aside with the reason, and no bit of their neighbours, who use their memory after them, changes.
func TestRowsWithoutNumbers(t *testing.T) {
	const nan, inf, rows, every = 7, 8, 24, 3
	var text strings.Builder
	for row := range rows {
		ids := []int{}
		for i := range 5 + row*7%30 {
			ids = append(ids, 10+(row*37+i*i*11)%140)
		}
		if row%every == 1 {
			ids[row%len(ids)/2] = nan + row/every%2
		}
		list, _ := json.Marshal(ids)
		fmt.Fprintf(&text, "{\"ids\": %s}\n", list)
	}
	input := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(input, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"llama", "mixtral", "olmoe", "qwen3_moe"} {
		whole := filepath.Join("..", "model", "testdata", "golden", name)
		poisoned := poison(t, whole, map[int]float32{nan: float32(math.NaN()), inf: float32(math.Inf(1))})
		for k, dtype := range []config.DType{config.FP32, config.BF16, config.INT8} {
			run := func(model string, task config.Task, ranks int) (results.Summary, string) {
				j := layoutJob(t, model, input)
				j.DType, j.Task, j.Inference.MaxOutTokens, j.ChunkRows = dtype, task, 64, 6
				if task == config.Score {
					j.Logprobs = 0
				}
				s, err := runRanks(t, ranks, j, RunOptions{})
				if err != nil {
					t.Fatalf("%s, %v, %s: %v", name, dtype, task, err)
				}
				return s, j.Output
			}
			_, want := run(whole, config.Score, 1)
			s, got := run(poisoned, config.Score, 1+(i+k)%2)
			if s.Bad != rows/every {
				t.Errorf("%s, %v: %d rows set aside, want %d", name, dtype, s.Bad, rows/every)
			}
			report, err := results.Diff(context.Background(), want, got, results.DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range report.Columns {
				if c.Name == "token_logprobs" && c.Differs != rows/every {
					t.Errorf("%s, %v: %s differs in %d rows, want %d: %v", name, dtype, c.Name, c.Differs, rows/every, c.Examples)
				}
			}
			if s, _ := run(poisoned, config.Generate, 1+(i+k)%2); s.Bad < rows/every { // what is drawn may be such a token
				t.Errorf("%s, %v: %d rows set aside, want %d", name, dtype, s.Bad, rows/every)
			}
		}
	}
}

// poison copies a model and fills the embeddings of some tokens, float32 in the file, with one value each.
func poison(t *testing.T, model string, tokens map[int]float32) string {
	folder := t.TempDir()
	for _, name := range []string{"config.json", "generation_config.json", "model.safetensors"} {
		data, err := os.ReadFile(filepath.Join(model, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "model.safetensors" {
			var header map[string]struct {
				Shape   []int `json:"shape"`
				Offsets []int `json:"data_offsets"`
			}
			n := int(binary.LittleEndian.Uint64(data))
			if err := json.Unmarshal(data[8:8+n], &header); err != nil {
				t.Fatal(err)
			}
			e := header["model.embed_tokens.weight"]
			for token, v := range tokens {
				for i := range e.Shape[1] {
					binary.LittleEndian.PutUint32(data[8+n+e.Offsets[0]+4*(token*e.Shape[1]+i):], math.Float32bits(v))
				}
			}
		}
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}
