package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// loop is a rank's main loop: gather what was read, agree with the other ranks, step, hand over what is whole. Ranks that
// only follow their replica's lead have nothing to read and nothing to hand over.
type loop struct {
	*run
	queue     queue
	feeder    *feeder             // the lead's
	committer *committer          // the lead's
	open      map[int]*chunkState // by index
	stepped   bool                // at the last turn, on any rank
	held      int                 // turns without a step that waited for ranks that read their rows
	pending   int                 // chunks asked of the feeder
	rowsDone  int64
	rowsBad   int64
	prompt    int64 // tokens so far
	output    int64
	failed    error
	begun     time.Time
	measured  bool // the machine's ceilings
	warmed    int  // blocks of the cache whose memory is there
	ledger    ledger
	dense     float64 // FLOPs of this rank's tokens so far, but for those of experts
	experts   float64 // FLOPs of its experts
}

// work runs the loop to its end. On a stop, what is whole is committed and what is finished of open chunks is saved.
func (r *run) work(ctx context.Context, chunks []shard.Chunk) error {
	r.kind = phaseStep
	r.enter(phaseStep)
	r.stage("")
	l := &loop{run: r, queue: queue{chunks: chunks}, open: map[int]*chunkState{}, begun: time.Now()}
	r.loop = l
	r.engine.pipeline.begin = r.beginStep
	if r.engine.place.leads() {
		r.engine.pipeline.beside = l.gather
		l.feeder = r.engine.feed(ctx, r.rows, r.writer, r.record, r.beside)
		l.committer = r.engine.commit(ctx, r.rows, r.writer, r.record, r.beside)
	}
	reason, err := l.turn(ctx)
	if l.feeder != nil {
		l.feeder.close()
	}
	r.stage(phaseCommit)
	if l.committer != nil {
		if commitErr := l.committer.close(); l.failed == nil {
			l.failed = commitErr
		}
	}
	if err != nil { // the ranks no longer answer each other
		return err
	}
	if reason != "" && l.failed == nil {
		l.failed = l.save()
	}
	if err := together(ctx, r.world, l.failed); err != nil {
		return err
	}
	if reason != "" {
		return stopped(reason)
	}
	return nil
}

// turn steps until the work is done, or a rank asks for a stop (the reason is returned) or has failed.
func (l *loop) turn(ctx context.Context) (reason string, err error) {
	p := l.engine.pipeline
	for {
		v, err := l.agree(ctx, l.plan(ctx))
		if err != nil {
			return "", err
		}
		if l.world.Rank() == 0 && l.options.Progress != nil {
			l.options.Progress(Progress{Total: l.total, Kept: l.start.Summary.Rows, Rows: v.Sum(voteRows),
				Bad: v.Sum(voteBad), Prompt: v.Sum(votePrompt), Output: v.Sum(voteOutput)})
		}
		if v.Any(voteFailed) {
			return "", nil // together tells which rank
		}
		if due(v, l.world.Size()) {
			if err := l.handBack(ctx); err != nil {
				return "", err
			}
		}
		if v.Any(voteStop) {
			return firstReason(ctx, l.world, l.options.Stop.Reason())
		}
		if err := l.even(ctx, v); err != nil {
			return "", err
		}
		for _, c := range l.queue.assign(v, l.world.Size(), l.world.Rank()) {
			l.pending++
			l.feeder.ask <- c
		}
		if v.Any(voteMeasure) {
			l.measured = true
			l.ceilings()
		}
		l.warm(int(v.Max(voteBlocks)))
		l.stepped = (v.Any(votePlan) || p.inFlight()) && !l.hold(v)
		switch {
		case l.stepped:
			if err := l.step(ctx, v); err != nil {
				return "", err
			}
		case l.queue.empty() && !v.Any(votePending) && !v.Any(voteWants):
			return "", nil
		}
	}
}

// even gives each rank its share of the tokens: of each step, and of what is left when no chunk is.
func (l *loop) even(ctx context.Context, v comm.Votes) error {
	s, e := shares(v, l.world.Size()), l.engine
	if e.place.leads() {
		e.scheduler.budget = budget(s, l.world.Rank(), e.size.tokens)
	}
	if !l.queue.empty() || v.Any(votePending) {
		return nil
	}
	return l.lend(ctx, v, s)
}

// warm makes sure of the memory of so many blocks of the cache, on all ranks at once. Where the system gives memory
// slowly, such as a virtual machine to which its host has to give it first, ranks that step together would else wait for
// each other's first use of it, now for one rank and now for another. A quarter more than before is made sure of at least, so
// that such stops are few.
func (l *loop) warm(blocks int) {
	cache, slow := l.engine.steps.cache.(kernels.Warmer)
	if blocks <= l.warmed || !slow {
		return
	}
	defer l.record.Phase(stats.Wait)()
	to := min(max(blocks, l.warmed+l.warmed/4), l.engine.size.blocks)
	cache.Warm(l.warmed, to, l.watcher.Main().Progress)
	l.warmed = to
}

// hold tells whether ranks with a plan wait for others that read their first rows: a step takes all ranks as long with
// their rows as without, which then need one more at the end. All decide alike. They wait some 50 ms at most, since a rank
// that reads looks up every millisecond.
func (l *loop) hold(v comm.Votes) bool {
	const most = 50
	if l.stepped || l.held == most {
		return false
	}
	for r := range l.world.Size() {
		if v.Of(r, votePending) > 0 && v.Of(r, votePlan) == 0 {
			l.held++
			return true
		}
	}
	return false
}

// plan makes the next batch on the lead and returns the length of its message, 0: there is nothing to do now.
func (l *loop) plan(ctx context.Context) int {
	e := l.engine
	if !e.place.leads() {
		return 0
	}
	l.gather()
	pieces := e.scheduler.next(e.pipeline.lane())
	if len(pieces) == 0 && l.pending > 0 && l.failed == nil && !l.stepped {
		l.wait(ctx)
		pieces = e.scheduler.next(e.pipeline.lane())
	}
	return e.pipeline.plan(pieces)
}

// agree tells the other ranks where this one stands, and learns where they do.
func (l *loop) agree(ctx context.Context, planned int) (comm.Votes, error) {
	defer l.record.Phase(stats.Wait)()
	s := l.engine.scheduler
	var mine [votes]int64
	flag := func(i int, on bool) {
		if on {
			mine[i] = 1
		}
	}
	if l.failed == nil && l.committer != nil {
		l.failed = l.committer.failed()
	}
	if l.run.output != nil && l.failed == nil {
		if err := l.run.output.Lost(); err != nil {
			l.failed = fmt.Errorf("%w; what was committed stays", err)
		}
	}
	mine[votePlan], mine[voteTokens] = int64(planned), int64(l.engine.pipeline.planned())
	flag(voteWants, l.feeder != nil && !l.queue.empty() && l.pending == 0 && s.backlog() < l.engine.size.ahead)
	flag(voteStop, l.options.Stop.Reason() != "")
	flag(voteMeasure, !l.measured && l.world.Rank() == 0 && time.Since(l.begun) > measureAfter)
	flag(voteFailed, l.failed != nil)
	mine[voteBacklog], mine[votePending] = int64(s.backlog()+len(s.running)), int64(l.pending)
	mine[voteBlocks] = int64(s.pool.opened)
	flag(voteLeads, l.engine.pipeline.leads())
	left, spare := s.left()
	mine[voteLeft], mine[voteSpare] = int64(left), int64(spare)
	mine[voteDone], mine[voteBorrowed] = int64(len(l.ledger.done)), int64(l.ledger.borrowed)
	mine[voteDense], mine[voteExperts] = int64(l.dense/1e6), int64(l.experts/1e6)
	mine[voteRows], mine[voteBad], mine[votePrompt], mine[voteOutput] = l.rowsDone, l.rowsBad, l.prompt, l.output
	return comm.Agree(ctx, l.world, mine[:]...)
}

// gather takes the chunks that are ready, without waiting.
func (l *loop) gather() {
	for {
		select {
		case f := <-l.feeder.ready:
			l.take(f)
		default:
			return
		}
	}
}

// wait gives the feeder a moment when no rank has anything else to do.
func (l *loop) wait(ctx context.Context) {
	defer l.record.Phase(stats.Wait)()
	moment := time.NewTimer(time.Millisecond)
	defer moment.Stop()
	select {
	case f := <-l.feeder.ready:
		l.take(f)
	case <-moment.C:
	case <-ctx.Done():
		l.failed = ctx.Err()
	}
}

// take puts a chunk's sequences into the scheduler; rows that need no step are finished at once.
func (l *loop) take(f fed) {
	l.pending--
	if f.err != nil {
		if l.failed == nil {
			l.failed = f.err
		}
		return
	}
	c, e := f.chunk, l.engine
	l.open[c.chunk.Index] = c
	e.scheduler.turn()
	l.rowsDone += int64(len(c.rows) - c.left)
	l.record.AddKept(len(c.rows) - c.left)
	if c.left == 0 {
		l.whole(c)
		return
	}
	for _, row := range c.rows {
		if row == nil {
			continue
		}
		for _, q := range row.seqs {
			if err := e.scheduler.add(q); err != nil {
				row.bad, row.left = err.Error(), 0
				break // nothing of it was added: all sequences of a row are alike or the first is the longest
			}
		}
		if row.left == 0 {
			l.rowFinished(row)
		}
	}
}

// rowFinished counts a row. Its records are made beside the steps, when its chunk is committed.
func (l *loop) rowFinished(row *rowState) {
	if row.borrowed { // whoever has lent it counts it
		l.ledger.borrowed--
		l.ledger.done = append(l.ledger.done, row)
		return
	}
	l.rowsDone++
	if row.bad != "" {
		l.rowsBad++
		file := l.rows.Files()[row.chunk.chunk.File].Path
		l.record.AddBadRow(stats.BadRow{File: file, Row: row.number, Reason: row.bad})
	} else {
		l.record.AddRows(1)
	}
	if row.chunk.left--; row.chunk.left == 0 {
		l.whole(row.chunk)
	}
}

// whole hands a finished chunk to the committer.
func (l *loop) whole(c *chunkState) {
	delete(l.open, c.chunk.Index)
	l.committer.whole <- c
}

// step runs one step and settles the sequences that it finished.
func (l *loop) step(ctx context.Context, v comm.Votes) error {
	begin, e := time.Now(), l.engine
	ran, done, err := e.pipeline.step(ctx, int(v.Of(e.place.lead, votePlan)), v.Any(votePlan), int(v.Max(voteTokens)))
	if err != nil {
		return err
	}
	prompt, output := 0, 0
	if e.place.leads() {
		prompt, output = e.advance(done.pieces, l.sequenceFinished)
	}
	l.prompt, l.output = l.prompt+int64(prompt), l.output+int64(output)
	l.count(time.Since(begin), ran, done, prompt, output)
	return nil
}

func (l *loop) sequenceFinished(q *sequence) {
	if q.row.left--; q.row.left == 0 {
		l.rowFinished(q.row)
	}
}

// advance notes what a step has done to its sequences and calls finished for those that end with it.
func (e *Engine) advance(pieces []piece, finished func(*sequence)) (prompt, output int) {
	for _, p := range pieces {
		q := p.seq
		n := p.to - p.from
		e.scheduler.stored(p)
		switch {
		case q.once():
			prompt += n
			if q.want() == 0 {
				q.finished = finishLength
			}
		default:
			if p.from < q.prompt {
				prompt += n
			}
			if p.to >= q.prompt && len(q.tokens) > p.to { // a token was drawn, which a piece within the prompt leaves out
				output++
				e.settle(q)
			}
		}
		if q.row.bad != "" {
			q.finished = finishError
		}
		if q.finished != "" {
			finished(q)
		}
	}
	e.scheduler.finish()
	return prompt, output
}

// save keeps the finished rows of open chunks for the next start.
func (l *loop) save() error {
	for _, c := range l.open {
		if err := l.writer.SaveOpen(results.Chunk(c.chunk), l.engine.finished(c)); err != nil {
			return err
		}
	}
	return nil
}
