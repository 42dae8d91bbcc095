package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/stats"
)

// describe tells the recorder what the rank runs on and holds.
func (r *run) describe() {
	e := r.engine
	r.record.SetMachine(stats.Machine{Host: r.world.Host(), Device: e.device.Name(), Peak: r.options.Ceilings})
	spec := e.steps.cache.Spec()
	r.record.SetMemory(e.model.Bytes(), spec.Bytes(), spec.Blocks)
	r.record.AddBytes(stats.WeightBytes, e.checkpoint.BytesRead())
	var layers, experts []int
	for layer, m := range e.shape.MoE {
		if m.Gate.Experts > 0 {
			layers, experts = append(layers, layer), append(experts, m.Gate.Experts)
		}
	}
	r.record.SetLayers(layers, experts)
}

// count adds a step to the statistics.
func (l *loop) count(took time.Duration, pieces []piece, prompt, output int) {
	e := l.engine
	if len(pieces) > 0 {
		l.record.AddStep(stats.Step{
			Duration: took, PromptTokens: prompt, OutputTokens: output, Rows: len(e.scheduler.running),
			KVBlocks: len(e.scheduler.pool.uses) - e.scheduler.pool.available(),
		})
	}
	for layer, tokens := range e.steps.workspace.ExpertTokens() {
		kept := 0
		for _, n := range tokens {
			kept += int(n)
		}
		l.record.AddExperts(layer, tokens, kept, 0)
	}
}

// report gathers the ranks' statistics and writes stats.json and report.html, also when the job ends early.
func (r *run) report(ctx context.Context, ended error) error {
	var lost *RankError
	if ended != nil && !errors.Is(ended, ErrStopped) && !errors.As(ended, &lost) && r.loop.failed == nil {
		return nil // the ranks no longer answer each other
	}
	for _, t := range r.engine.traffic {
		traffic := t.Traffic()
		r.record.AddBytes(stats.WireUseful, traffic.Bytes)
		r.record.AddBytes(stats.WireSent, traffic.Sent)
	}
	mine, err := json.Marshal(r.record.Snapshot())
	if err != nil {
		return err
	}
	all, err := gatherAll(ctx, r.world, mine)
	if err != nil || r.world.Rank() != 0 {
		return err
	}
	snapshots := make([]stats.Snapshot, len(all))
	for i, data := range all {
		if err := json.Unmarshal(data, &snapshots[i]); err != nil {
			return fmt.Errorf("statistics of rank %d: %w", i, err)
		}
	}
	job := stats.Job{
		Command: r.options.Command, Version: r.options.Version, Task: string(r.job.Task), Model: r.job.Model, Output: r.job.Output,
		DType: r.engine.identity.dtype, Layout: r.layoutText(), State: stats.Finished, RowsTotal: r.total, RowsKept: r.start.Summary.Rows,
	}
	for _, s := range r.job.Settings() {
		job.Settings = append(job.Settings, stats.Setting(s))
	}
	if ended != nil {
		job.State, job.Reason = stats.Failed, ended.Error()
		if errors.Is(ended, ErrStopped) {
			job.State = stats.Stopped
		}
	}
	report := stats.Merge(job, snapshots)
	return report.WriteFiles(r.job.Output)
}

// layoutText is the layout in words: "4 ranks, ep 4 (8 experts), ep 2 (2 experts)".
func (r *run) layoutText() string {
	text := fmt.Sprintf("%d ranks", r.world.Size())
	if r.world.Size() == 1 {
		text = "1 rank"
	}
	for _, x := range r.engine.groups.Layout.Experts {
		text += fmt.Sprintf(", ep %d (%d experts)", x.EP, x.Experts)
	}
	return text
}
