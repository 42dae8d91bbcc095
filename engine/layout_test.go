package engine

import (
	"context"
	"errors"
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
				j.AllToAll = []string{"flat", "hierarchical", "coordinated", "auto"}[i%4]
				if l.tp == 1 && j.AllToAll == "coordinated" { // takes tp
					j.AllToAll = "hierarchical"
				}
				if l.world > 1 && i%3 > 0 {
					j.FakeNodes = min(i%3+1, l.world)
				}
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

// TestTPInvariantSameBits: with --tp-invariant the bits are the same for every tp and es that is a power of two.
func TestTPInvariantSameBits(t *testing.T) {
	for _, m := range layoutModels {
		t.Run(m.name, func(t *testing.T) {
			input := layoutRows(t, 150, 9, 3, 21)
			var want map[string]string
			for _, l := range []layout{{1, 1, 1, 0, 1}, {2, 2, 1, 0, 1}, {4, 4, 1, 0, 1}, {4, 1, 1, 1, 4}, {8, 2, 2, 1, 2}, {8, 4, 1, 2, 4}} {
				if l.es > 1 && len(m.experts) == 0 {
					l.ep, l.es = 0, 1
				}
				j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", m.golden), input)
				j.Inference.ModelConfig = m.change
				j.TPInvariant, j.TP, j.PP, j.EP, j.ES = true, l.tp, l.pp, l.ep, l.es
				got, err := runRanks(t, l.world, j, RunOptions{})
				if err != nil {
					t.Errorf("%v: %v", l, err)
					continue
				}
				if want == nil {
					want = got.Digests
				}
				if !maps.Equal(got.Digests, want) {
					t.Errorf("%v: digests %v, of one rank %v", l, got.Digests, want)
				}
			}
		})
	}
}

// TestResumedInAnotherLayout: a stopped job goes on with other ranks, ep, dp, pp and all-to-all, to the same bytes; another
// tp or es is refused by name.
func TestResumedInAnotherLayout(t *testing.T) {
	lengths := make([]int, 60)
	for i := range lengths {
		lengths[i] = 2 + i%7
	}
	input := layoutRows(t, 150, lengths...)
	output := filepath.Join(t.TempDir(), "out")
	run := func(l layout, a2a, output string, o RunOptions) (results.Summary, error) {
		j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", "mixtral"), input)
		j.TP, j.PP, j.EP, j.ES, j.AllToAll, j.Output = l.tp, l.pp, l.ep, l.es, a2a, output
		return runRanks(t, l.world, j, o)
	}
	whole, err := run(layout{2, 2, 1, 0, 1}, "flat", filepath.Join(t.TempDir(), "whole"), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range []layout{{4, 2, 2, 2, 1}, {8, 2, 1, 8, 1}, {8, 2, 2, 4, 1}, {2, 2, 1, 1, 1}} {
		stop, ticks := &Stop{}, 0
		o := RunOptions{Stop: stop, Progress: func(Progress) {
			if ticks++; ticks > 5 && i < 3 {
				stop.Request("test")
			}
		}}
		got, err := run(l, []string{"coordinated", "hierarchical", "auto", "flat"}[i], output, o)
		if i < 3 {
			if !errors.Is(err, ErrStopped) {
				t.Fatalf("%v: not stopped: %v", l, err)
			}
			continue
		}
		if err != nil || !maps.Equal(got.Digests, whole.Digests) || got.Rows != whole.Rows {
			t.Errorf("after three layouts: %v, %v; undisturbed %v", got, err, whole)
		}
	}
	for _, c := range []struct {
		l    layout
		what string
	}{{layout{4, 4, 1, 0, 1}, "tp was 2, is 4"}, {layout{4, 2, 1, 1, 2}, "es[0] was 1, is 2"}} {
		if _, err := run(c.l, "flat", output, RunOptions{}); err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v went on, or was refused without saying %q: %v", c.l, c.what, err)
		}
	}
}
