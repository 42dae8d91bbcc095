package model_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
)

// heldout is text that no trained model has seen, in windows of at most 512 tokens, with the log-probabilities that
// PyTorch and DeepSpeed's own layers found (float32, each the sum over a window's tokens but its first).
type heldout struct {
	ids     [][]int32
	logprob map[string][]float64 // logprob.MODEL: of each window
}

func openHeldout(t testing.TB) heldout {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "heldout-windows.parquet"))
	check(t, err)
	defer f.Close()
	table, err := pqarrow.ReadTable(context.Background(), f, parquet.NewReaderProperties(memory.DefaultAllocator), pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	check(t, err)
	defer table.Release()
	h := heldout{logprob: map[string][]float64{}}
	for i := range int(table.NumCols()) {
		name := table.Schema().Field(i).Name
		for _, chunk := range table.Column(i).Data().Chunks() {
			switch c := chunk.(type) {
			case *array.Float64:
				h.logprob[name] = append(h.logprob[name], c.Float64Values()...)
			case *array.List:
				values := c.ListValues().(*array.Int32).Int32Values()
				for row := range c.Len() {
					from, to := c.ValueOffsets(row)
					h.ids = append(h.ids, append([]int32(nil), values[from:to]...))
				}
			}
		}
	}
	return h
}

const (
	heldoutSample = 16   // of so many windows a sample takes one; an eighth of it where a device has but reference code
	heldoutBound  = 5e-6 // of a token, in a window's sum of log-probabilities
)

// TestHeldout finds the perplexity that each trained model's README states. All of the text is run through the bundled
// model, and through the others with DSBATCH_TEST_HELDOUT=all; else, and wherever that would take minutes, a sample.
func TestHeldout(t *testing.T) {
	h := openHeldout(t)
	for _, m := range []struct {
		name       string
		perplexity float64
		digits     float64
	}{{"austen-prmoe", 18.61504, 1e-4}, {"austen-mos", 19.697, 1e-3}, {"austen-moe8", 27.238, 1e-3}, {"austen-moe8-top2", 31.249, 1e-3}, {"austen-dense", 31.636, 1e-3}} {
		t.Run(m.name, func(t *testing.T) {
			r := newRunner(t, trainedModel(t, m.name), 512, model.LoadOptions{})
			every := heldoutSample
			if !fast(r) {
				every *= 8
			}
			if all := os.Getenv("DSBATCH_TEST_HELDOUT") == "all"; all || m.name == "austen-prmoe" && fast(r) && !testing.Short() {
				every = 1
			}
			start, tokens, sum := time.Now(), 0, 0.0
			for i := 0; i < len(h.ids); i += every {
				logprobs, _ := r.score(h.ids[i])
				got, want := total(logprobs), h.logprob["logprob."+m.name][i]
				n := len(h.ids[i]) - 1
				if !(math.Abs(got-want) <= heldoutBound*float64(n)) {
					t.Errorf("window %d of %d tokens: log-probability %.5f, want %.5f", i, n, got, want)
				}
				sum, tokens = sum+got, tokens+n
			}
			perplexity := math.Exp(-sum / float64(tokens))
			t.Logf("%d tokens, perplexity %.6f, %.0f tokens/s on %s", tokens, perplexity, float64(tokens)/time.Since(start).Seconds(), r.device.Name())
			if every == 1 && (tokens != 99070 || math.Abs(perplexity-m.perplexity) > m.digits) {
				t.Errorf("perplexity %.5f of %d tokens, want %.5f of 99070", perplexity, tokens, m.perplexity)
			}
		})
	}
}

// fast tells whether the device has more than reference code.
func fast(r *runner) bool {
	slow := map[string]bool{"cpu/" + cpu.Reference.String(): true, "cpu/" + cpu.Generic.String(): true}
	return !slow[r.device.Arch()]
}

func total(logprobs []float32) float64 {
	sum := 0.0
	for _, v := range logprobs {
		sum += float64(v)
	}
	return sum
}
