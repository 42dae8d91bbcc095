package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
)

// layoutModels are one of each kind that is cut in its own way.
var layoutModels = []struct {
	name, golden string
	experts      []int
	change       map[string]any // of the model's config
}{
	{"dense", "llama", nil, nil},
	{"standard MoE", "ds-moe-old-files", []int{4}, map[string]any{"topk": 1}},
	{"top-2 MoE", "mixtral", []int{8}, nil},
	{"residual pyramid", "ds-moe-hoisted", []int{2, 4}, nil},
	{"Hugging Face MoE", "olmoe", []int{16}, nil},
}

// layoutRows writes rows of token ids for models without a tokenizer.
func layoutRows(t testing.TB, vocab int, lengths ...int) string {
	t.Helper()
	var text strings.Builder
	for row, n := range lengths {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprint(1 + (row*37+i*i*11+i*5)%(vocab-1))
		}
		fmt.Fprintf(&text, "{\"ids\": [%s]}\n", strings.Join(ids, ", "))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func layoutJob(t testing.TB, model, input string) *config.Job {
	j := config.New()
	j.Model, j.Input, j.Output = model, []string{input}, filepath.Join(t.TempDir(), "out")
	j.PromptColumn, j.IDsColumn = "", "ids"
	j.Threads, j.MaxNewTokens, j.Logprobs, j.ChunkRows, j.IgnoreEOS = 1, 3, 2, 1, true
	j.KVMemory, j.MaxBatchTokens, j.MaxSeqs = 1<<20, 16, 4
	return j
}

// layout is one way to cut a job.
type layout struct{ world, tp, pp, ep, es int }

func (l layout) String() string {
	return fmt.Sprintf("%d ranks, tp %d, pp %d, ep %d, es %d", l.world, l.tp, l.pp, l.ep, l.es)
}

// layouts are all that a model with so many experts can be cut into, of tp 1, 2, 4 and pp 1, 2; ep the least, the most
// and the default; es 1 and all that divide.
func layouts(worlds []int, experts []int) (all []layout) {
	for _, world := range worlds {
		for _, tp := range []int{1, 2, 4} {
			for _, pp := range []int{1, 2} {
				for _, ep := range []int{0, 1, 2, 8} {
					for _, es := range []int{1, 2, 4} {
						l := layout{world, tp, pp, ep, es}
						if len(experts) == 0 && (ep > 0 || es > 1) {
							continue
						}
						if _, err := comm.Ranks(comm.Sizes{World: world, TP: tp, PP: pp, EP: ep, ES: es, Experts: experts}); err == nil {
							all = append(all, l)
						}
					}
				}
			}
		}
	}
	return all
}

// TestSameBitsInEveryLayout is promise 1 over groups: with equal tp and es a row's bits are the same whatever ranks, ep,
// dp, pp and all-to-all are; across tp and es they differ in the last bits only.
func TestSameBitsInEveryLayout(t *testing.T) {
	worlds := []int{1, 2, 3, 4, 6, 8}
	for _, m := range layoutModels {
		t.Run(m.name, func(t *testing.T) {
			input := layoutRows(t, 150, 9, 3, 21, 5, 14)
			type cut struct{ tp, es int }
			want, from := map[cut]map[string]string{}, map[cut]layout{}
			outputs := map[cut]string{}
			var first string
			for i, l := range layouts(worlds, m.experts) {
				j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", m.golden), input)
				j.Inference.ModelConfig = m.change
				j.TP, j.PP, j.EP, j.ES = l.tp, l.pp, l.ep, l.es
				if i%3 == 1 {
					j.MaxBatchTokens = 7
				}
				got, err := runRanks(t, l.world, j, RunOptions{})
				if err != nil {
					t.Errorf("%v: %v", l, err)
					continue
				}
				if got.Rows != 5 || got.Bad != 0 {
					t.Errorf("%v: %+v", l, got)
				}
				c := cut{l.tp, l.es}
				if want[c] == nil {
					want[c], from[c], outputs[c] = got.Digests, l, j.Output
					if first == "" {
						first = j.Output
					}
					continue
				}
				if !maps.Equal(got.Digests, want[c]) {
					t.Errorf("%v: digests %v; %v: %v", l, got.Digests, from[c], want[c])
				}
			}
			for c, output := range outputs {
				report, err := results.Diff(context.Background(), first, output, results.DiffOptions{Bound: 1e-4})
				if err != nil || !report.Same() {
					t.Errorf("%v is not that of one rank but for the last bits: %+v %v", from[c], report, err)
				}
			}
		})
	}
}
