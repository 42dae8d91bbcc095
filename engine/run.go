package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// RunOptions of Run. The zero value runs to the end, silently.
type RunOptions struct {
	Version  string
	Command  string         // for the report
	Stop     *Stop          // nil: nobody asks
	Progress func(Progress) // rank 0's, once a step; nil: nobody looks
	Ceilings stats.Ceilings // of this machine, where measured
	Stage    func(string)   // rank 0's: what it begins to do; nil: nobody looks
	// Phase is called on every rank when it enters a phase, from the goroutine that does; nil: nobody looks. Tests break
	// a rank there.
	Phase  func(rank int, phase string)
	Notice func(string) // rank 0's lines for the user, such as what is resumed; nil: dropped

	wrap      func(kernels.Device) kernels.Device // tests put a device of theirs around the real one
	processor func() (processor, error)           // tests say what the rank's CPU can do
	connected func(*Engine)                       // tests look at the exchanges between ranks
}

// Progress is how far a job is, over all ranks.
type Progress struct {
	Total, Kept    int64 // rows of the input; those that earlier starts have committed
	Rows, Bad      int64 // finished by this start; of those, set aside
	Prompt, Output int64 // tokens of this start
}

// Run does a whole data set as one rank of world; all ranks call it together with the same job. It returns what is
// committed. The error is ErrStopped when it was asked to end early; whatever the error, committed chunks stay.
func Run(ctx context.Context, world mpi.World, job *config.Job, o RunOptions) (results.Summary, error) {
	r := &run{job: job, options: o, record: stats.New(world.Rank())}
	watcher, err := comm.Watch(ctx, world, comm.WatchOptions{Timeout: job.RankTimeout, Cores: cores(), Advice: advice, Abort: func(code int, reason string) {
		r.diary.Load().end("ended the job: " + reason) // under MPI nothing comes after Abort
		world.Abort(code, reason)
	}})
	if err != nil {
		return results.Summary{}, err
	}
	r.world, r.watcher = watcher.World(), watcher
	if ranks, timeout, crowded := watcher.Crowded(); crowded && world.Rank() == 0 {
		slog.Warn(fmt.Sprintf("%d ranks share a core: the job is slower than with a rank a core, and would notice one that is stuck "+
			"after %v only; use fewer ranks", ranks, timeout.Round(time.Second)))
	}
	var summary results.Summary
	err = r.guard(watcher.Main().State, func() (err error) {
		summary, err = r.do(ctx)
		return err
	})
	err = errors.Join(err, r.close(err))
	if err != nil && !errors.Is(err, ErrStopped) { // the ranks do not end together: nobody is waited for
		watcher.Close()
		return summary, err
	}
	return summary, errors.Join(err, watcher.Leave())
}

// run is one rank's part of a job.
type run struct {
	job     *config.Job
	options RunOptions
	world   mpi.World
	watcher *comm.Watcher
	record  *stats.Recorder

	engine *Engine
	rows   *dataset.Dataset
	layout results.Layout
	output *results.Output // rank 0
	writer *results.Writer

	start start
	total int64 // rows of the input, after --limit
	loop  *loop
	diary atomic.Pointer[diary] // nil before the output is opened
	layer int                   // at work in a step, from 1
	kind  string                // of the step: prefill, decode or step

	staged   string // the stage that onlookers know of
	compiled int    // files of kernels
}

// advice is what a user can do when the job ended because of a rank.
const advice = "what was committed stays: start the same command again"

// start is what rank 0 tells the others when it has opened the output.
type start struct {
	Number    int
	Committed []bool
	ChunkRows int64
	Finished  bool
	Summary   results.Summary
}

func (r *run) do(ctx context.Context) (results.Summary, error) {
	r.stage(phasePrepare)
	if err := r.startedAlike(ctx); err != nil {
		return results.Summary{}, err
	}
	if err := r.foreseeCrowd(ctx); err != nil {
		return results.Summary{}, err
	}
	if err := r.prepare(ctx); err != nil {
		return results.Summary{}, err
	}
	chunks, err := r.open(ctx)
	if err != nil {
		return results.Summary{}, err
	}
	if r.start.Finished {
		return r.start.Summary, nil
	}
	r.stage(phaseLoad)
	load := r.record.Phase(stats.Load)
	if err := r.engine.load(ctx); err != nil {
		return results.Summary{}, err
	}
	load()
	r.engine.entered = r.section
	r.describe()
	err = r.work(ctx, chunks)
	if reportErr := r.report(ctx, err); err == nil {
		err = reportErr
	}
	if err != nil {
		return results.Summary{}, err
	}
	r.stage(phaseFinish)
	var finishErr error
	if r.output != nil {
		r.start.Summary, finishErr = r.output.Finish(ctx)
	}
	summary, err := share(ctx, r.world, r.start.Summary, finishErr)
	return summary, err
}

// prepare opens model and data set, without reading weights or rows: what cannot work is refused here, on all ranks
// together, before the output is touched.
func (r *run) prepare(ctx context.Context) error {
	r.engine = &Engine{job: r.job, world: r.world, stop: r.options.Stop, loaded: r.loaded, compiling: r.compiling, wrap: r.options.wrap, processor: r.options.processor, connected: r.options.connected}
	gather := func(_ context.Context, mine []byte) ([][]byte, error) { return comm.AllGather(ctx, r.world, mine) }
	err := interruptible(ctx, r.world, r.options.Stop, func(ctx context.Context) error { return r.openRows(ctx, gather) })
	if err != nil {
		return err
	}
	return r.engine.prepare(ctx)
}

// openRows opens the data set and settles the columns of the output. The ranks gather what they found whatever becomes
// of ctx.
func (r *run) openRows(ctx context.Context, gather func(context.Context, []byte) ([][]byte, error)) (err error) {
	if err := r.job.RefuseUnbuilt(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	peers := dataset.Peers{Rank: r.world.Rank(), Size: r.world.Size(), Gather: gather}
	if r.rows, err = dataset.OpenTogether(ctx, r.job.Input, columns(r.job), peers); err != nil {
		return err
	}
	r.layout = results.Layout{Task: results.Task(r.job.Task), Logprobs: r.job.Logprobs, Samples: r.engine.samples(),
		Logits: r.job.OutputLogits, Carry: r.rows.CarrySchema()}
	if r.job.IDColumn != "" {
		r.layout.ID = arrow.Field{Name: r.job.IDColumn, Type: r.rows.IDType(), Nullable: true}
	}
	return r.layout.Check()
}

// columns are the columns of the input that a job uses.
func columns(j *config.Job) dataset.Columns {
	c := dataset.Columns{Prompt: j.PromptColumn, IDs: j.IDsColumn, Messages: j.MessagesColumn, Continuation: j.ContinuationColumn, Pair: j.PairColumn, Tools: j.ToolsColumn, ID: j.IDColumn}
	for _, name := range j.Carry {
		if name == "all" {
			c.CarryAll = true
			continue
		}
		from, as := cutCarry(name)
		c.Carry = append(c.Carry, dataset.CarryColumn{Name: from, As: as})
	}
	return c
}

// open makes or resumes the output on rank 0, and gives every rank the chunks that are left and its writer.
func (r *run) open(ctx context.Context) ([]shard.Chunk, error) {
	var s start
	files := r.fileRows()
	chunkRows, err := r.chunkRows()
	if err := together(ctx, r.world, err); err != nil {
		return nil, err
	}
	if err := r.agreeOnTime(ctx); err != nil {
		return nil, err
	}
	fp := r.fingerprint(chunkRows)
	if err := r.sameJob(ctx, fp); err != nil {
		return nil, err
	}
	chunks := shard.Chunks(files, chunkRows)
	if r.world.Rank() == 0 {
		s, err = r.create(ctx, fp, chunks)
		s.ChunkRows = chunkRows
	}
	if r.start, err = share(ctx, r.world, s, err); err != nil || r.start.Finished {
		return nil, err
	}
	// A rank that follows commits nothing, but tells there what it does.
	r.writer, err = results.Join(ctx, r.job.Output, r.start.Number, r.world.Rank(), r.layout, r.resultsOptions())
	if err := together(ctx, r.world, err); err != nil {
		return nil, err
	}
	r.diary.Store(r.keepDiary())
	var left []shard.Chunk
	for _, c := range chunks {
		if !r.start.Committed[c.Index] {
			left = append(left, c)
		}
	}
	return left, nil
}

func (r *run) resultsOptions() results.Options {
	return results.Options{AcceptVersion: r.job.AcceptVersion, Log: slog.Default(), Progress: r.watcher.Main().Progress}
}

// chunkRows is the number of rows of a chunk: as asked for, as an earlier start had it, or the default for the total.
func (r *run) chunkRows() (int64, error) {
	if r.job.ChunkRows > 0 {
		return int64(r.job.ChunkRows), nil
	}
	was, err := results.Peek(r.job.Output)
	if errors.Is(err, fs.ErrNotExist) {
		return shard.ChunkRows(r.total), nil
	} else if err != nil {
		return 0, err
	}
	if n, ok := was.Fingerprint.Get(chunkRowsSetting).(json.Number); ok {
		return n.Int64()
	}
	return shard.ChunkRows(r.total), nil
}

// fileRows are the rows of each input file, cut off where --limit says; total is set to their sum.
func (r *run) fileRows() []int64 {
	var rows []int64
	r.total = 0
	for _, f := range r.rows.Files() {
		n := f.Rows
		if r.job.Limit > 0 {
			n = min(n, r.job.Limit-r.total)
		}
		rows = append(rows, n)
		r.total += n
	}
	return rows
}

// create is rank 0's: it takes the output directory.
func (r *run) create(ctx context.Context, fp results.Fingerprint, chunks []shard.Chunk) (s start, err error) {
	list := make([]results.Chunk, len(chunks))
	for i, c := range chunks {
		list[i] = results.Chunk(c)
	}
	r.output, err = results.Create(ctx, r.job.Output, fp, r.layout, list, r.resultsOptions())
	if err != nil {
		if other := (*results.MismatchError)(nil); errors.As(err, &other) {
			r.namedInputs(other.Differences)
		}
		return start{}, err
	}
	s = start{Number: r.output.Start(), Committed: r.output.Committed(), Finished: r.output.Finished(), Summary: r.output.Summary()}
	if notice := r.options.Notice; notice != nil && !s.Finished {
		if own := r.rows.OwnSettings(); s.Number == 1 && len(own) > 0 && r.job.Task == config.Generate {
			notice(fmt.Sprintf("the input has columns of settings, which win over the flags in rows where they are not null: %s", strings.Join(own, ", ")))
		}
		if kept := s.Summary.Rows; kept > 0 {
			notice(fmt.Sprintf("resuming %s: %d of %d rows are committed", r.job.Output, kept, r.total))
		}
	}
	return s, nil
}

// close gives back what the run holds, and notes how it has ended.
func (r *run) close(ended error) error {
	var errs []error
	r.diary.Load().close(ended)
	if r.writer != nil {
		errs = append(errs, r.writer.Close())
	}
	if r.output != nil {
		errs = append(errs, r.output.Close())
	}
	if r.rows != nil {
		errs = append(errs, r.rows.Close())
	}
	if r.engine != nil && panicked(ended) == nil { // what broke is left as it is
		errs = append(errs, r.engine.Close())
	}
	return errors.Join(errs...)
}
