package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// feeder reads and tokenizes a rank's chunks beside its steps.
type feeder struct {
	ask   chan shard.Chunk
	ready chan fed
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// fed is a chunk ready for the scheduler, or why it cannot be read.
type fed struct {
	chunk *chunkState
	err   error
}

// feed starts the feeder. A chunk's rows that an earlier start has finished come with their records.
func (e *Engine) feed(ctx context.Context, rows *dataset.Dataset, saved *results.Writer, record *stats.Recorder,
	begin beside) *feeder {
	ctx, cancel := context.WithCancel(ctx)
	f := &feeder{ask: make(chan shard.Chunk, 64), ready: make(chan fed, 64), stop: cancel}
	f.done.Add(1)
	go func() {
		defer f.done.Done()
		for {
			select {
			case <-ctx.Done():
				return
			case chunk, open := <-f.ask:
				if !open {
					return
				}
				var out fed
				out.err = begin(phaseRead, chunk.Index, func(t *comm.Task) (err error) {
					out.chunk, err = e.readChunk(ctx, rows, saved, chunk, record, t)
					return err
				})
				select {
				case f.ready <- out:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return f
}

// close ends the feeder; chunks that it has not handed over are dropped.
func (f *feeder) close() {
	f.stop()
	f.done.Wait()
}

// readChunk reads a chunk's rows and makes their sequences.
func (e *Engine) readChunk(ctx context.Context, rows *dataset.Dataset, saved *results.Writer, chunk shard.Chunk,
	record *stats.Recorder, task *comm.Task) (*chunkState, error) {
	end := record.Phase(stats.Read)
	open, err := saved.Open(ctx, results.Chunk(chunk))
	if err != nil {
		return nil, err
	}
	finished := map[int64][]results.Record{}
	for _, r := range open {
		finished[r.Row] = append(finished[r.Row], r)
	}
	n := int(chunk.Rows())
	c := &chunkState{chunk: chunk, left: n} // grows with the rows that come: their number is the file's word
	i := 0
	for in, err := range rows.Read(dataset.WithProgress(ctx, task.Progress), chunk.File, chunk.From, chunk.To) {
		if err != nil {
			return nil, err
		}
		if i == n {
			return nil, fmt.Errorf("%w: %s gives more rows than the %d that it has", dataset.ErrDamaged,
				rows.Files()[chunk.File].Path, rows.Files()[chunk.File].Rows)
		}
		end()
		tokenize := record.Phase(stats.Tokenize)
		var row *rowState
		records := finished[in.Number]
		if len(records) == e.samples() {
			slices.SortFunc(records, func(a, b results.Record) int { return int(a.Sample - b.Sample) })
			c.left--
		} else {
			records, row = nil, e.newRow(in)
			row.chunk = c
			for _, q := range row.seqs {
				q.prefixKeys() // while the steps go on
			}
		}
		c.rows, c.saved = append(c.rows, row), append(c.saved, records)
		tokenize()
		end = record.Phase(stats.Read)
		task.Progress()
		i++
	}
	end()
	if i != n {
		return nil, fmt.Errorf("%w: %s ends after %d of the %d rows of chunk %d", dataset.ErrDamaged, rows.Files()[chunk.File].Path, i, n, chunk.Index)
	}
	f := &rows.Files()[chunk.File]
	record.AddBytes(stats.InputBytes, int64(float64(f.Bytes)*float64(n)/float64(f.Rows)))
	return c, nil
}

// committers is how many chunks are committed at once. What a commit waits for is the disk, which takes several at a time;
// at the end of a job many chunks become whole together.
const committers = 4

// committer commits whole chunks beside the steps.
type committer struct {
	whole chan *chunkState
	done  sync.WaitGroup
	mu    sync.Mutex
	err   error
}

// commit starts the committer.
func (e *Engine) commit(ctx context.Context, rows *dataset.Dataset, out *results.Writer, record *stats.Recorder,
	begin beside) *committer {
	c := &committer{whole: make(chan *chunkState, 16)}
	for range committers {
		c.done.Go(func() {
			for chunk := range c.whole {
				if c.failed() == nil {
					c.fail(begin(phaseCommit, chunk.chunk.Index, func(t *comm.Task) error {
						return e.commitChunk(dataset.WithProgress(ctx, t.Progress), rows, out, chunk, record)
					}))
				}
			}
		})
	}
	return c
}

func (e *Engine) commitChunk(ctx context.Context, rows *dataset.Dataset, out *results.Writer, c *chunkState, record *stats.Recorder) error {
	defer record.Phase(stats.Commit)()
	records := e.finished(c)
	if len(rows.CarrySchema()) == 0 {
		return out.Commit(ctx, results.Chunk(c.chunk), records, nil)
	}
	carry, bad, err := rows.Carry(ctx, c.chunk.File, c.chunk.From, c.chunk.To)
	if err != nil {
		return err
	}
	defer carry.Release()
	for _, row := range setAside(records, bad) {
		record.AddBadRow(stats.BadRow{File: row.File, Row: row.Row, Reason: row.Err.Error()})
	}
	return out.Commit(ctx, results.Chunk(c.chunk), records, carry)
}

// failed is the first commit's error.
func (c *committer) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *committer) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// close waits until all that was handed over is committed.
func (c *committer) close() error {
	close(c.whole)
	c.done.Wait()
	return c.failed()
}
