package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
	"github.com/dsbatch/dsbatch/moe"
	"github.com/dsbatch/dsbatch/stats"
)

// describe tells the recorder what the rank runs on and holds.
func (r *run) describe() {
	e := r.engine
	r.machine()
	e.measure(r.record.AddTime)
	spec := e.steps.cache.Spec()
	weights, waiting := e.model.Offloaded(e.offloaded, e.job.Inference.Offload.Buffers)
	r.record.SetMemory(weights, spec.Bytes(), spec.Blocks)
	r.record.SetWaiting(waiting)
	r.record.AddBytes(stats.WeightBytes, e.checkpoint.BytesRead())
	var layers, experts, ep []int
	for layer, m := range e.shape.MoE {
		for _, x := range e.layout.Experts {
			if x.Experts == m.Gate.Experts {
				layers, experts, ep = append(layers, layer), append(experts, x.Experts), append(ep, x.EP)
			}
		}
	}
	r.record.SetLayers(layers, experts, ep)
}

// machine tells the recorder what the rank runs on.
func (r *run) machine() {
	peak := r.options.Ceilings
	if r.engine.model != nil {
		peak.Bus = r.engine.model.Brought().Rate
	}
	r.record.SetMachine(stats.Machine{Host: r.world.Host(), Device: r.engine.device.Name(), Peak: peak})
}

// count adds a step to the statistics.
func (l *loop) count(took time.Duration, ran, done *batch, prompt, output int) {
	e := l.engine
	if len(done.pieces) > 0 || ran != nil && ran.tokens() > 0 {
		l.record.AddStep(e.account(took, ran, done, prompt, output))
	}
	if ran == nil {
		return
	}
	from, _ := e.model.Layers()
	before := 0
	for _, m := range e.shape.MoE[:from] {
		if m.Gate.Experts > 0 {
			before++
		}
	}
	computed, routed := e.steps.workspace.ExpertRows(), e.steps.workspace.ExpertTokens()
	dense, experts := e.work(ran, routed, computed)
	l.dense, l.experts = l.dense+dense, l.experts+experts
	for layer, tokens := range routed {
		if e.place.rank > 0 && !e.shares(len(tokens)) {
			tokens = nil // tp peers have routed the same: the first counts them
		}
		l.record.AddExperts(before+layer, tokens, computed[layer], 0)
	}
}

// work is the floating-point operations of a batch's tokens beside experts, and of the experts here.
func (e *Engine) work(b *batch, routed [][]int32, computed []int) (dense, experts float64) {
	contexts, reads := b.load(e.shape.Bidirectional)
	here := make([][]int32, len(computed))
	for layer, n := range computed {
		here[layer] = []int32{int32(n)}
	}
	all := e.model.Work(b.tokens(), contexts, reads, b.scored+b.drawn, routed).FLOPs
	return all - e.model.Work(0, 0, 0, 0, routed).FLOPs, e.model.Work(0, 0, 0, 0, here).FLOPs
}

// account is what a step has done and cost: what this rank ran, where it did, and the batch that was done, on the lead.
func (e *Engine) account(took time.Duration, ran, done *batch, prompt, output int) stats.Step {
	s := stats.Step{
		Duration: took, PromptTokens: prompt, OutputTokens: output, Rows: len(done.pieces),
		KVBlocks: len(e.scheduler.pool.uses) - e.scheduler.pool.available(),
	}
	if ran != nil {
		contexts, reads := ran.load(e.shape.Bidirectional)
		work := e.model.Work(ran.tokens(), contexts, reads, ran.scored+ran.drawn, e.steps.workspace.ExpertTokens())
		s.FLOPs, s.Bytes, s.Device, s.Beside = work.FLOPs, work.Bytes, e.steps.device, e.steps.beside
		s.Brought = float64(e.steps.brought)
	}
	return s
}

// shares tells whether each tp rank routes its share of the tokens in layers with so many experts, not all of them.
func (e *Engine) shares(experts int) bool {
	x := e.exchanges[experts]
	return x != nil && x.Split != nil && !e.job.DropTokens
}

// sections are the phases inside a step, by the names that model and moe give them.
var sections = map[string]stats.Phase{
	model.Attention: stats.Attention, model.Dense: stats.Dense, moe.Route: stats.Route, moe.Dispatch: stats.Dispatch,
	moe.Experts: stats.Experts, moe.Combine: stats.Combine, headSection: stats.Head,
}

// measure has add told of the time of each section of every step from now on; nil: of none. On a device whose ops run
// when they are enqueued only: else the time would be that of enqueueing.
func (e *Engine) measure(add func(stats.Phase, time.Duration)) {
	e.steps.enter = e.entered
	if add != nil && !e.onGPU() {
		section, since := stats.Dense, time.Time{}
		e.steps.enter = func(name string) {
			if e.entered != nil {
				e.entered(name)
			}
			now := time.Now()
			if !since.IsZero() {
				add(section, now.Sub(since))
			}
			if since = now; name == "" { // the step is over
				since = time.Time{}
				return
			}
			section = sections[name]
		}
	}
	e.steps.workspace.Measure(e.steps.enter)
}

// ceilings measures, once the job has run for a while, what the machine can do at most, on all ranks at once, since
// those of a host share it. A short job is not made to wait for it. Where they cannot be measured (in a build without C,
// or on a GPU that has no memory to spare for a copy) the job goes on without.
func (l *loop) ceilings() {
	d, ok := l.engine.device.(interface {
		PeakProducts(kernels.DType) float64
		PeakRead() (float64, error)
	})
	if !ok {
		return
	}
	bytes, err := d.PeakRead()
	if err != nil {
		slog.Debug("the machine's peak rates are not measured", "rank", l.world.Rank(), "because", err)
		return
	}
	l.options.Ceilings = stats.Ceilings{FLOPs: d.PeakProducts(l.engine.dtype), Bytes: bytes}
	l.machine()
}

// measureAfter is when a job is long enough for its ceilings to be measured.
const measureAfter = 30 * time.Second

// Traffic is what this rank has exchanged with others since the engine was opened.
func (e *Engine) Traffic() comm.Traffic {
	traffic := e.model.Traffic(e.steps.workspace)
	for _, x := range e.exchanges {
		traffic = traffic.Plus(x.Rows.Traffic())
	}
	return traffic
}

// report gathers the ranks' statistics and writes stats.json and report.html, also when the job ends early.
func (r *run) report(ctx context.Context, ended error) error {
	var lost *comm.RankError
	if ended != nil && !errors.Is(ended, ErrStopped) && !errors.As(ended, &lost) && r.loop.failed == nil {
		return nil // the ranks no longer answer each other
	}
	traffic := r.engine.Traffic()
	r.record.AddBytes(stats.WireUseful, traffic.Bytes)
	r.record.AddBytes(stats.WireSent, traffic.Sent)
	r.record.AddBytes(stats.OutputBytes, r.writer.Written())
	mine, err := json.Marshal(r.record.Snapshot())
	if err != nil {
		return err
	}
	all, err := comm.AllGather(ctx, r.world, mine)
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
		DType: r.engine.identity.dtype, Layout: r.layoutText(), State: stats.Finished, RowsTotal: r.total,
		RowsKept: r.start.Summary.Rows,
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
	if err := report.WriteFiles(r.job.Output); err != nil {
		return fmt.Errorf("%w; mend that and start the same command again: what is committed stays", err)
	}
	return nil
}

// layoutText is the layout in words: "8 ranks, tp 2, pp 1, dp 4, ep 4 × es 2 (8 experts), ep 2 (2 experts)".
func (r *run) layoutText() string {
	l := r.engine.layout
	text := fmt.Sprintf("%d ranks", l.World)
	if l.World == 1 {
		text = "1 rank"
	}
	if l.TP > 1 || l.PP > 1 {
		text += fmt.Sprintf(", tp %d, pp %d, dp %d", l.TP, l.PP, l.DP)
	}
	for _, x := range l.Experts {
		text += fmt.Sprintf(", ep %d", x.EP)
		if x.ES > 1 {
			text += fmt.Sprintf(" × es %d", x.ES)
		}
		text += fmt.Sprintf(" (%d experts)", x.Experts)
	}
	if len(r.engine.windows) > 0 {
		text += ", rows of experts sent by the GPUs' kernels"
	}
	return text
}
