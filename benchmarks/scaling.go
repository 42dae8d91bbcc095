package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/dsbatch/dsbatch/stats"
)

// ScalingOptions of Scaling.
type ScalingOptions struct {
	Program      string // dsbatch
	Model, Input string // a model and a data set, whose rows are repeated where it has too few; empty: the random one only
	Only         string // kinds of jobs whose names contain it; empty: all
	Ranks        int    // 0: 2
	Rounds       int    // 0: 3
	Rows         int    // of a rank; 0: as many as take one rank some 8 seconds
}

// scalingShape is a small model of 64 experts, of which a token takes 4.
var scalingShape = Shape{Hidden: 512, Layers: 4, Heads: 8, Experts: 64, Active: 4, FFN: 512, Vocab: 8192, Window: 1024}

// The random model's rows.
const scalingPrompt, scalingTokens = 96, 32

// Where nothing is said of the rows, jobs of so many seconds, found by one of so many rows. What a job has outside its steps,
// opening files and committing parts, is some 50 to 100 ms.
const (
	scalingSeconds = 8
	scalingProbe   = 128
)

// scaling runs jobs.
type scaling struct {
	o      ScalingOptions
	folder string
	jobs   atomic.Int64
}

// kind is a kind of job.
type kind struct {
	name string
	args []string
	rows func(path string, rows, each int) error // writes rows, of which a rank takes each
}

// Scaling runs jobs on one rank and on several, with as many rows for each rank, a core each, in turn: generation and
// scoring; beside them as many jobs of one rank at once, which shows what the machine loses when all its cores work; and
// jobs of a model with a hot expert, placed in three ways. Rates are those of stats.json, of whole jobs from their start to
// the last commit; loading the model isn't in them.
func Scaling(ctx context.Context, o ScalingOptions) (groups []Group, err error) {
	if o.Ranks == 0 {
		o.Ranks = 2
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	s := &scaling{o: o}
	if s.folder, err = os.MkdirTemp("", "dsbatch-bench-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.folder) //nolint:errcheck // a temporary folder
	model := filepath.Join(s.folder, "model")
	if err := os.Mkdir(model, 0o755); err != nil {
		return nil, err
	}
	if err := RandomModel(model, scalingShape, 1); err != nil {
		return nil, err
	}
	random := func(path string, rows, _ int) error { return randomRows(path, rows) }
	kinds := s.tasks("random, 64 experts", []string{"--model", model, "--ids-column", "ids"}, random)
	if o.Model != "" {
		repeated := func(path string, rows, each int) error { return repeatRows(ctx, path, o.Input, rows, each) }
		kinds = append(kinds, s.tasks(filepath.Base(o.Model), []string{"--model", o.Model}, repeated)...)
	}
	for _, k := range kinds {
		if !strings.Contains(k.name, o.Only) {
			continue
		}
		g, err := s.measure(ctx, k)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	if o.Ranks == 1 || hotShape.Experts%o.Ranks != 0 || !strings.Contains(hotName, o.Only) {
		return groups, nil
	}
	hot, err := s.hotExpert(ctx)
	if err != nil {
		return nil, err
	}
	return append(groups, hot), nil
}

// tasks are generation and scoring of a model.
func (s *scaling) tasks(model string, args []string, rows func(string, int, int) error) []kind {
	args = append([]string{"run", "--threads", "1"}, args...)
	task := func(more ...string) []string { return slices.Concat(args, []string{"--task"}, more) }
	return []kind{{model + ", generate", task("generate", "--max-new-tokens", strconv.Itoa(scalingTokens), "--ignore-eos"), rows},
		{model + ", score", task("score"), rows}}
}

// rowsOf is how many rows of a job a rank has.
func (s *scaling) rowsOf(ctx context.Context, k kind) (int, error) {
	if s.o.Rows > 0 {
		return s.o.Rows, nil
	}
	input := filepath.Join(s.folder, "probe.jsonl")
	if err := k.rows(input, scalingProbe, scalingProbe); err != nil {
		return 0, err
	}
	d, err := s.run(ctx, 1, input, scalingProbe, k.args)
	return scalingProbe * max(1, int(scalingSeconds/d.seconds+0.5)), err
}

// measure runs one kind of job.
func (s *scaling) measure(ctx context.Context, k kind) (Group, error) {
	each, err := s.rowsOf(ctx, k)
	if err != nil {
		return Group{}, err
	}
	input := filepath.Join(s.folder, "rows.jsonl")
	if err := k.rows(input, s.o.Ranks*each, each); err != nil {
		return Group{}, err
	}
	g := Group{Name: k.name, Note: fmt.Sprintf("tokens a second of whole jobs, prompts and outputs; %d rows, %d ranks %d times as many; the bound is one rank's rate as often",
		each, s.o.Ranks, s.o.Ranks)}
	var one, apart, many []round
	var tokens float64
	var ofApart, exchange, least, wait, rows, slots []float64
	for range s.o.Rounds {
		alone, err := s.run(ctx, 1, input, each, k.args)
		if err != nil {
			return g, err
		}
		rates, err := s.sideBySide(ctx, input, each, k.args)
		if err != nil {
			return g, err
		}
		all, err := s.run(ctx, s.o.Ranks, input, each, k.args)
		if err != nil {
			return g, err
		}
		if tokens == 0 {
			tokens = alone.tokens
		}
		// Rows that are drawn end where they do: times are for as many tokens as the first job of one rank had.
		bound := alone.seconds * tokens / alone.tokens
		ranks, by := float64(s.o.Ranks), fmt.Sprintf("%d × one rank", s.o.Ranks)
		one = append(one, round{seconds: bound})
		apart = append(apart, round{tokens * ranks / rates, bound, by})
		many = append(many, round{all.seconds * tokens * ranks / all.tokens, bound, by})
		ofApart = append(ofApart, 100*all.tokens/all.seconds/rates)
		exchange, least, wait = append(exchange, 100*all.exchange), append(least, 100*all.least), append(wait, 100*all.wait)
		rows, slots = append(rows, 100*all.busiest), append(slots, 100*all.slots)
	}
	share := func(name string, x []float64) Figure {
		f := Figure{Name: name, Unit: "%"}
		f.Best, f.Value, f.Worst = spread(x)
		return f
	}
	g.Figures = []Figure{
		rate("1 rank", "tokens/s", tokens, one...), rate(fmt.Sprintf("%d ranks", s.o.Ranks), "tokens/s", float64(s.o.Ranks)*tokens, many...),
		share("dispatch and combine, of the steps", exchange), share("of these, on the rank that waits least", least),
		share("waiting between steps, of the job", wait),
		share("tokens of the busiest rank, over the mean", rows), share("rows of the busiest experts' rank, over the mean", slots),
		rate(fmt.Sprintf("%d jobs of 1 rank, at once", s.o.Ranks), "tokens/s", float64(s.o.Ranks)*tokens, apart...),
		share(fmt.Sprintf("%d ranks, of what these jobs reach", s.o.Ranks), ofApart),
	}
	return g, nil
}

// done is what a job has done.
type done struct {
	tokens, seconds float64
	exchange        float64 // dispatch and combine, of the time of the steps; waiting for each other is in it
	least           float64 // the same on the rank that spends the least on it: nearly all of that is the exchange itself
	wait            float64 // for other ranks between steps, of the job's time
	busiest, slots  float64 // the most tokens that a rank had, and rows that its experts computed, over the mean of the ranks
}

// sideBySide runs as many jobs of one rank at once as there are ranks, each on a core of its own. They share nothing but
// the machine. The result is the sum of their rates, in tokens a second.
func (s *scaling) sideBySide(ctx context.Context, input string, rows int, args []string) (rates float64, err error) {
	each := make([]done, s.o.Ranks)
	jobs, ctx := errgroup.WithContext(ctx)
	for core := range each {
		jobs.Go(func() (err error) {
			each[core], err = s.run(ctx, 1, input, rows, args, "--cpu-set", strconv.Itoa(core))
			return err
		})
	}
	err = jobs.Wait()
	for _, d := range each {
		rates += d.tokens / d.seconds
	}
	return rates, err
}

// run runs one job, of so many rows for each rank; place says more of where its ranks run.
func (s *scaling) run(ctx context.Context, ranks int, input string, rows int, args []string, place ...string) (done, error) {
	output := filepath.Join(s.folder, fmt.Sprintf("out-%d", s.jobs.Add(1)))
	launch, err := newLauncher(ranks, "core", place...)
	if err != nil {
		return done{}, err
	}
	args = append(args[:len(args):len(args)], "--input", input, "--limit", strconv.Itoa(ranks*rows), "--output", output)
	if _, err := launch.run(ctx, s.o.Program, args...); err != nil {
		return done{}, err
	}
	text, err := os.ReadFile(filepath.Join(output, "stats.json"))
	if err != nil {
		return done{}, err
	}
	var report stats.Report
	if err := json.Unmarshal(text, &report); err != nil {
		return done{}, err
	}
	if n := report.Rows.Done; n != int64(ranks*rows) {
		return done{}, fmt.Errorf("%s: %d rows are done, and %d ranks want %d each; give rows that the model can take", input, n, ranks, rows)
	}
	d := done{seconds: report.Rates.Seconds, tokens: (report.Rates.Prompt + report.Rates.Output) * report.Rates.Seconds}
	steps := 0.0 // of a rank, in the mean
	for _, p := range report.Phases {
		switch {
		case p.Phase == stats.Dispatch.String() || p.Phase == stats.Combine.String():
			d.exchange += p.Mean
			steps += p.Mean
		case p.Group == "step":
			steps += p.Mean
		case p.Phase == stats.Wait.String():
			d.wait = p.Mean / d.seconds
		}
	}
	d.exchange /= steps
	d.least = math.Inf(1)
	var tokens, slots []float64
	for _, r := range report.Ranks {
		d.least = min(d.least, (r.Phases[stats.Dispatch.String()]+r.Phases[stats.Combine.String()])/steps)
		tokens, slots = append(tokens, float64(r.Prompt+r.Output)), append(slots, float64(r.Slots))
	}
	d.busiest, d.slots = overMean(tokens), overMean(slots)
	return d, os.RemoveAll(output)
}

// overMean is the largest of x over their mean.
func overMean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return slices.Max(x) * float64(len(x)) / sum
}

// randomRows writes rows of random token ids.
func randomRows(path string, rows int) error {
	r := rand.New(rand.NewPCG(3, 3))
	var text []byte
	for range rows {
		ids := make([]int32, scalingPrompt)
		for i := range ids {
			ids[i] = r.Int32N(int32(scalingShape.Vocab))
		}
		line, err := json.Marshal(map[string][]int32{"ids": ids})
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	return os.WriteFile(path, text, 0o600)
}
