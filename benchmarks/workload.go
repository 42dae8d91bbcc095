package benchmarks

import (
	"context"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/stats"
)

// workload is one measured piece of work on a loaded engine.
type workload struct {
	group string // its figures stand there
	name  string
	run   func(context.Context) error
	count func(stats.Step) int // tokens of a step that count, else 0
	most  int                  // so many steps that count at most; 0: all
	whole bool                 // the time is that from start to end, not that of the steps that count
}

// workloads are those asked for, group by group.
func (b *engineBench) workloads() (loads []workload) {
	prompts := func(s stats.Step) int { return s.PromptTokens }
	for _, p := range b.o.Prefill {
		loads = append(loads, workload{group: "prefill", name: fmt.Sprintf("%d×%d", p.Rows, p.Tokens), count: prompts,
			run: func(ctx context.Context) error { return b.generate(ctx, p.Rows, p.Tokens, 1) }})
	}
	for _, rows := range b.o.Decode {
		// Rows whose prompts come first generate while the others are read: they need tokens to go on with until all are.
		waiting := rows * b.o.Prompt / max(1, b.o.Job.MaxBatchTokens, 512)
		loads = append(loads, workload{group: "decode", name: fmt.Sprintf("B=%d", rows), most: b.o.Tokens,
			count: func(s stats.Step) int {
				if s.PromptTokens > 0 || s.Rows != rows {
					return 0
				}
				return s.OutputTokens
			},
			run: func(ctx context.Context) error { return b.generate(ctx, rows, b.o.Prompt, b.o.Tokens+waiting+2) }})
	}
	for _, j := range b.o.Jobs {
		loads = append(loads, workload{group: "generate", name: fmt.Sprintf("%d×(%d+%d)", j.Rows, b.o.Prompt, j.Tokens), whole: true,
			count: func(s stats.Step) int { return s.OutputTokens },
			run:   func(ctx context.Context) error { return b.generate(ctx, j.Rows, b.o.Prompt, j.Tokens) }})
	}
	for _, j := range b.o.Score {
		loads = append(loads, workload{group: "score", name: fmt.Sprintf("%d×%d", j.Rows, j.Tokens), whole: true, count: prompts,
			run: func(ctx context.Context) error { return b.score(ctx, j.Rows, j.Tokens) }})
	}
	return loads
}

// work measures memory and the workloads.
func (b *engineBench) work(ctx context.Context) ([]Group, error) {
	groups := []Group{
		{Name: "prefill", Note: "prompt tokens a second; each prompt draws one token"},
		{Name: "decode", Note: fmt.Sprintf("generated tokens a second, prompts of %d tokens, %d steps with every row in them", b.o.Prompt, b.o.Tokens)},
		{Name: "generate", Note: "tokens generated a second of the whole job, prompts and all, by an engine that is loaded"},
		{Name: "score", Note: "tokens of texts a second of the whole job, by an engine that is loaded"},
	}
	loads := b.workloads()
	for _, l := range loads { // once unmeasured: memory grows to what the work needs
		if err := l.run(ctx); err != nil {
			return nil, err
		}
	}
	all := []Group{b.memory()}
	var err error
	if b.ceiling, err = newCeilings(b.engine.Device()); err != nil { // which takes memory
		return nil, err
	}
	defer b.ceiling.close()
	b.ceiling.bus = b.engine.Brought().Rate
	sections := Group{Name: "sections", Note: "where the time of the steps above goes, by the work of the best round; host is the time between sections: batches, schedules, settling"}
	for _, l := range loads {
		figure, fastest, err := b.measure(ctx, l)
		if err != nil {
			return nil, err
		}
		for i := range groups {
			if groups[i].Name == l.group {
				groups[i].Figures = append(groups[i].Figures, figure)
			}
		}
		sections.Figures = append(sections.Figures, fastest.shares(l.group+" "+l.name, b.world.Size())...)
	}
	for _, g := range groups {
		if len(g.Figures) > 0 {
			all = append(all, g)
		}
	}
	return append(all, sections), nil
}

// measure runs a workload in rounds and gives the meter of the fastest.
func (b *engineBench) measure(ctx context.Context, l workload) (figure Figure, fastest meter, err error) {
	defer b.engine.Observe(engine.Observer{})
	var all []round
	for range b.o.Rounds {
		b.ceiling.measure(b.dtype, true)
		var m meter
		b.engine.Observe(m.observer(l.count, l.most))
		begin := time.Now()
		if err := l.run(ctx); err != nil {
			return figure, fastest, err
		}
		if l.whole {
			m.took = time.Since(begin)
		}
		if m.tokens == 0 && (b.sharing == 1 || b.world.Rank() == 0) { // others may follow another's steps
			return figure, fastest, fmt.Errorf("%s %s: no step had all rows in it; raise --max-seqs or --kv-memory", l.group, l.name)
		}
		least, by := m.bound(b.ceiling)
		all = append(all, round{m.took.Seconds(), least, by})
		if fastest.tokens == 0 || m.took < fastest.took {
			fastest = m
		}
	}
	return rate(l.name, "tokens/s", float64(fastest.tokens*b.replicas()), all...), fastest, nil
}

// generate continues random prompts, in step with the other ranks.
func (b *engineBench) generate(ctx context.Context, rows, tokens, fresh int) error {
	return firstError(b.engine.GenerateIDs(ctx, b.ids(rows, tokens), engine.GenerateOptions{MaxNewTokens: fresh, IgnoreEOS: true, InStep: b.sharing == 1}))
}

// score scores random texts, in step with the other ranks.
func (b *engineBench) score(ctx context.Context, rows, tokens int) error {
	return firstError(b.engine.ScoreIDs(ctx, b.ids(rows, tokens), engine.ScoreOptions{InStep: b.sharing == 1}))
}

func firstError(results []engine.Result, err error) error {
	for _, r := range results {
		if err == nil {
			err = r.Err
		}
	}
	return err
}

// ids are random, [rows][tokens], of the rows of one replica; of all, where ranks are given those of all.
func (b *engineBench) ids(rows, tokens int) [][]int32 {
	if b.sharing > 1 {
		rows *= b.replicas()
	}
	all := make([][]int32, rows)
	for i := range all {
		all[i] = make([]int32, tokens)
		for t := range all[i] {
			all[i][t] = b.random.Int32N(int32(b.engine.Config().Tokens))
		}
	}
	return all
}
