package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/mpi"
)

// layoutModel is a model that is cut in its own way.
type layoutModel struct {
	name, golden string
	experts      []int          // numbers of them that layers have
	layers       []int          // experts of each
	change       map[string]any // of the model's config
}

// layoutModels are one of each kind.
var layoutModels = []layoutModel{
	{"dense", "llama", nil, nil, nil},
	{"standard MoE", "ds-moe-old-files", []int{4}, []int{0, 4, 0, 4}, map[string]any{"topk": 1}},
	{"top-2 MoE", "mixtral", []int{8}, []int{8, 8}, nil},
	{"residual pyramid", "ds-moe-hoisted", []int{2, 4}, []int{0, 2, 0, 4}, nil},
	{"Hugging Face MoE", "olmoe", []int{16}, []int{16, 16, 16}, nil},
	{"shared expert", "qwen2_moe", []int{8}, []int{8, 0, 8, 8}, nil},
	{"parallel residual", "gpt_neox", nil, nil, nil},
}

// layoutPrompts are prompts of token ids, for models without a tokenizer.
func layoutPrompts(vocab int, lengths ...int) (prompts [][]int32) {
	for row, n := range lengths {
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = int32(1 + (row*37+i*i*11+i*5)%(vocab-1))
		}
		prompts = append(prompts, ids)
	}
	return prompts
}

// layoutRows writes them as the rows of a file.
func layoutRows(t testing.TB, vocab int, lengths ...int) string {
	t.Helper()
	var text strings.Builder
	for _, ids := range layoutPrompts(vocab, lengths...) {
		fmt.Fprintf(&text, "{\"ids\": [%s]}\n", strings.ReplaceAll(strings.Trim(fmt.Sprint(ids), "[]"), " ", ", "))
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

// layouts are all that a model with so many experts can be cut into, of tp 1, 2, 4 and pp 1, 2; ep and es are all that
// divide.
func layouts(worlds []int, experts []int) (all []layout) {
	sizes := []int{1, 2, 3, 4, 5, 6, 7, 8}
	if len(experts) == 0 {
		sizes = sizes[:1]
	}
	for _, world := range worlds {
		for _, tp := range []int{1, 2, 4} {
			for _, pp := range []int{1, 2} {
				for _, ep := range sizes {
					for _, es := range sizes {
						if _, err := comm.Ranks(comm.Sizes{World: world, TP: tp, PP: pp, EP: ep, ES: es, Experts: experts}); err == nil {
							all = append(all, layout{world, tp, pp, ep, es})
						}
					}
				}
			}
		}
	}
	return all
}

// ranks is the layout in full.
func (l layout) ranks(t testing.TB, experts []int) *comm.Layout {
	t.Helper()
	table, err := comm.Ranks(comm.Sizes{World: l.world, TP: l.tp, PP: l.pp, EP: l.ep, ES: l.es, Experts: experts})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// job is a job in this layout. The i-th of several has its nodes, steps and placement of experts from i.
func (l layout) job(t testing.TB, m layoutModel, input, allToAll string, i int) *config.Job {
	j := layoutJob(t, filepath.Join("..", "model", "testdata", "golden", m.golden), input)
	j.Inference.ModelConfig = m.change
	j.TP, j.PP, j.EP, j.ES, j.AllToAll = l.tp, l.pp, l.ep, l.es, allToAll
	if l.world > 1 {
		j.FakeNodes = min([]int{2, 3, 2, 4, 1}[i%5], l.world)
	}
	if i%3 == 1 {
		j.MaxBatchTokens = 7
	}
	if i%2 == 1 && len(m.experts) > 0 {
		j.ExpertPlacement = anyPlacement(t, m.layers, l.ranks(t, m.experts), i/2%3)
	}
	return j
}

// cut is what a model's bits may depend on.
type cut struct{ tp, es int }

func (l layout) cut() cut { return cut{l.tp, l.es} }

// allToAlls are those that a layout has: coordinated takes ranks that hold the same tokens.
func (l layout) allToAlls(experts []int) []string {
	switch {
	case len(experts) == 0:
		return []string{"flat"}
	case l.tp == 1:
		return []string{"flat", "hierarchical"}
	}
	return []string{"flat", "hierarchical", "coordinated"}
}

// TestSameBitsInEveryLayout is promise 1 over groups: with equal tp and es a row's bits are the same whatever ranks, ep,
// dp, pp, all-to-all and the placement of experts and their copies are; across tp and es they differ in the last bits only. All ranks get the same results.
func TestSameBitsInEveryLayout(t *testing.T) {
	for _, m := range layoutModels {
		t.Run(m.name, func(t *testing.T) {
			prompts := layoutPrompts(150, 9, 3, 21, 5, 14)
			want, from, first := map[cut][]Result{}, map[cut]string{}, []Result(nil)
			count := 0
			for i, l := range layouts([]int{1, 2, 3, 4, 6, 8}, m.experts) {
				for _, how := range l.allToAlls(m.experts) {
					got, err := generated(l.world, l.job(t, m, "", how, i), prompts)
					if err != nil {
						t.Errorf("%v, %s: %v", l, how, err)
						continue
					}
					count++
					if first == nil {
						first = got
					}
					if want[l.cut()] == nil {
						want[l.cut()], from[l.cut()] = got, fmt.Sprintf("%v, %s", l, how)
						nearResults(t, from[l.cut()], got, first)
					}
					if !reflect.DeepEqual(got, want[l.cut()]) {
						t.Errorf("%v, %s: %+v; %s: %+v", l, how, got, from[l.cut()], want[l.cut()])
					}
				}
			}
			t.Logf("%d layouts and all-to-alls, %d pairs of tp and es", count, len(want))
		})
	}
}

// generated is what all ranks of a world get for prompts.
func generated(ranks int, j *config.Job, prompts [][]int32) ([]Result, error) {
	all := make([][]Result, ranks)
	err := mpi.Run(ranks, func(w mpi.World) error {
		e, err := Open(context.Background(), w, j)
		if err != nil {
			return err
		}
		all[w.Rank()], err = e.GenerateIDs(context.Background(), prompts, GenerateOptions{MaxNewTokens: 3, IgnoreEOS: true})
		return errors.Join(err, e.Close())
	})
	if err != nil {
		return nil, err
	}
	for rank, got := range all {
		if len(got) != len(prompts) || !reflect.DeepEqual(got, all[0]) {
			return nil, fmt.Errorf("rank %d got %+v, rank 0 %+v", rank, got, all[0])
		}
	}
	return all[0], nil
}

// nearResults holds results of other slices against those of one rank: the same tokens, nearly the same probabilities.
func nearResults(t *testing.T, what string, got, want []Result) {
	t.Helper()
	const bound = 1e-4
	for i := range want {
		g, w := got[i], want[i]
		same := g.Err == nil && len(w.OutputIDs) == 3 && slices.Equal(g.OutputIDs, w.OutputIDs) && math.Abs(g.CumulativeLogprob-w.CumulativeLogprob) <= bound
		for j := range w.TokenLogprobs {
			same = same && math.Abs(float64(g.TokenLogprobs[j]-w.TokenLogprobs[j])) <= bound
		}
		if !same {
			t.Errorf("%s: prompt %d: %+v, of one rank %+v", what, i, g, w)
		}
	}
}

// TestSameBytesOfJobs is the same for whole jobs, whose replicas take chunks as they get on, in every other layout. The
// all-to-alls take turns.
func TestSameBytesOfJobs(t *testing.T) {
	for _, m := range layoutModels {
		t.Run(m.name, func(t *testing.T) {
			input := layoutRows(t, 150, 9, 3, 21, 5, 14)
			want, from := map[cut]map[string]string{}, map[cut]layout{}
			outputs := map[cut]string{}
			var first string
			for i, l := range layouts([]int{1, 2, 3, 4, 6, 8}, m.experts) {
				if i%2 > 0 {
					continue
				}
				how := append(l.allToAlls(m.experts), "auto")
				j := l.job(t, m, input, how[i/2%len(how)], i/2)
				got, err := runRanks(t, l.world, j, RunOptions{})
				if err != nil {
					t.Errorf("%v: %v", l, err)
					continue
				}
				if got.Rows != 5 || got.Bad != 0 {
					t.Errorf("%v: %+v", l, got)
				}
				c := l.cut()
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
			prompts := layoutPrompts(150, 9, 3, 21)
			var want []Result
			seen := map[cut]bool{}
			for i, l := range layouts([]int{1, 2, 4, 8}, m.experts) {
				if l.es&(l.es-1) != 0 || seen[l.cut()] && i%5 > 0 {
					continue
				}
				seen[l.cut()] = true
				for _, how := range l.allToAlls(m.experts) {
					j := l.job(t, m, "", how, i)
					j.TPInvariant = true
					got, err := generated(l.world, j, prompts)
					if err != nil {
						t.Errorf("%v, %s: %v", l, how, err)
						continue
					}
					if want == nil {
						want = got
					}
					if !reflect.DeepEqual(got, want) {
						t.Errorf("%v, %s: %+v, of one rank %+v", l, how, got, want)
					}
				}
			}
			t.Logf("tp and es: %v", slices.Collect(maps.Keys(seen)))
		})
	}
}

// TestResumedInAnotherLayout: a stopped job goes on with other ranks, ep, dp, pp, all-to-all and placement of experts, to
// the same bytes; another tp or es is refused by name.
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
		j.ExpertPlacement = anyPlacement(t, []int{8, 8}, l.ranks(t, []int{8}), l.world%4/2) // no copies, or one
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
