package benchmarks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/stats"
)

// ScalingOptions of Scaling.
type ScalingOptions struct {
	Program      string // dsbatch
	Model, Input string // a model and a data set of Ranks × Rows rows; empty: the random one only
	Ranks        int    // 0: 2
	Rounds       int    // 0: 3
	Rows         int    // of a rank; 0: 128
}

// scalingShape is a small model of 64 experts, of which a token takes 4.
var scalingShape = Shape{Hidden: 512, Layers: 4, Heads: 8, Experts: 64, Active: 4, FFN: 512, Vocab: 8192, Window: 1024}

// The random model's rows.
const scalingPrompt, scalingTokens = 96, 32

// scaling runs jobs.
type scaling struct {
	o      ScalingOptions
	folder string
	jobs   atomic.Int64
}

// Scaling runs jobs on one rank and on several, with as many rows for each rank, a core each, in turn: generation and
// scoring; beside them as many jobs of one rank at once, which shows what the machine loses when all its cores work; and
// jobs of a model with a hot expert, placed in three ways. Rates are those of stats.json, from the first step to
// the last commit; loading isn't in them.
func Scaling(ctx context.Context, o ScalingOptions) (groups []Group, err error) {
	if o.Ranks == 0 {
		o.Ranks = 2
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Rows == 0 {
		o.Rows = 128
	}
	if err := o.enough(ctx); err != nil {
		return nil, err
	}
	s := &scaling{o: o}
	if s.folder, err = os.MkdirTemp("", "dsbatch-bench-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.folder) //nolint:errcheck // a temporary folder
	type work struct {
		name, model, input, column string
	}
	random := work{"random, 64 experts", filepath.Join(s.folder, "model"), filepath.Join(s.folder, "rows.jsonl"), "ids"}
	if err := os.Mkdir(random.model, 0o755); err != nil {
		return nil, err
	}
	if err := RandomModel(random.model, scalingShape, 1); err != nil {
		return nil, err
	}
	if err := randomRows(random.input, o.Ranks*o.Rows); err != nil {
		return nil, err
	}
	all := []work{random}
	if o.Model != "" {
		all = append(all, work{filepath.Base(o.Model), o.Model, o.Input, ""})
	}
	for _, w := range all {
		for _, task := range []string{"generate", "score"} {
			args := []string{"run", "--model", w.model, "--task", task, "--threads", "1"}
			if w.column != "" {
				args = append(args, "--ids-column", w.column)
			}
			if task == "generate" {
				args = append(args, "--max-new-tokens", strconv.Itoa(scalingTokens), "--ignore-eos")
			}
			g, err := s.measure(ctx, w.name+", "+task, w.input, args)
			if err != nil {
				return nil, err
			}
			groups = append(groups, g)
		}
	}
	if o.Ranks == 1 || hotShape.Experts%o.Ranks != 0 {
		return groups, nil
	}
	hot, err := s.hotExpert(ctx)
	if err != nil {
		return nil, err
	}
	return append(groups, hot), nil
}

// enough refuses a data set of fewer rows than the ranks take, before minutes of other jobs are run.
func (o *ScalingOptions) enough(ctx context.Context) error {
	if o.Model == "" {
		return nil
	}
	rows, err := dataset.Open(ctx, []string{o.Input}, dataset.Columns{Prompt: "prompt"})
	if err != nil {
		return err
	}
	if have := rows.Rows(); have < int64(o.Ranks*o.Rows) {
		err = fmt.Errorf("%s has %d rows, and %d ranks want %d each; give more rows, or a smaller --rows", o.Input, have, o.Ranks, o.Rows)
	}
	return errors.Join(err, rows.Close())
}

// measure runs one kind of job.
func (s *scaling) measure(ctx context.Context, name, input string, args []string) (Group, error) {
	g := Group{Name: name, Note: fmt.Sprintf("tokens a second, prompts and outputs; %d ranks have %d times the rows of one, whose rate as often is the bound", s.o.Ranks, s.o.Ranks)}
	var one, apart, many []round
	var tokens float64
	var ofApart, exchange, least, wait, rows, slots []float64
	for range s.o.Rounds {
		alone, err := s.run(ctx, 1, input, args)
		if err != nil {
			return g, err
		}
		rates, err := s.sideBySide(ctx, input, args)
		if err != nil {
			return g, err
		}
		all, err := s.run(ctx, s.o.Ranks, input, args)
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
func (s *scaling) sideBySide(ctx context.Context, input string, args []string) (rates float64, err error) {
	each := make([]done, s.o.Ranks)
	jobs, ctx := errgroup.WithContext(ctx)
	for core := range each {
		jobs.Go(func() (err error) {
			each[core], err = s.run(ctx, 1, input, args, "--cpu-set", strconv.Itoa(core))
			return err
		})
	}
	err = jobs.Wait()
	for _, d := range each {
		rates += d.tokens / d.seconds
	}
	return rates, err
}

// run runs one job, of as many rows for each rank; place says more of where its ranks run.
func (s *scaling) run(ctx context.Context, ranks int, input string, args []string, place ...string) (done, error) {
	output := filepath.Join(s.folder, fmt.Sprintf("out-%d", s.jobs.Add(1)))
	launch, err := newLauncher(ranks, "core", place...)
	if err != nil {
		return done{}, err
	}
	// Rows of their own for each rank: where prompts are alike ranks have less to do.
	args = append(args[:len(args):len(args)], "--input", input, "--limit", strconv.Itoa(ranks*s.o.Rows), "--output", output)
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
	if n := report.Rows.Done; n != int64(ranks*s.o.Rows) {
		return done{}, fmt.Errorf("%s: %d rows are done, and %d ranks want %d each; give rows that the model can take", input, n, ranks, s.o.Rows)
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
