package results

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// VerifyOptions of Verify. The zero value reads everything, with one reader a core.
type VerifyOptions struct {
	Readers int  // parts read at once, 1..256; 0: one a core
	Quick   bool // trust the digests of the commit lines, read no part

	fs fileSystem
}

// Report of Verify.
type Report struct {
	Summary           // what is committed
	Finished bool     // _SUCCESS is there
	Expected int64    // rows of the job
	Problems []string // a sentence each, in the order of the parts, then what is missing; none: the output is whole
}

// Whole tells whether every row is there once, undamaged.
func (r Report) Whole() bool { return r.Finished && len(r.Problems) == 0 }

// Verify checks that the output dir holds every row of its job once, as it was written. What it finds is in the
// report; the error is of what kept it from looking (fs.ErrNotExist: no output there).
func Verify(ctx context.Context, dir string, o VerifyOptions) (Report, error) {
	if o.fs == nil {
		o.fs = disk{}
	}
	if o.Readers <= 0 {
		o.Readers = runtime.GOMAXPROCS(0)
	}
	job, err := readJob(o.fs, dir)
	if err != nil {
		return Report{}, err
	}
	report := Report{}
	if report.Finished, err = exists(o.fs, filepath.Join(dir, successName)); err != nil {
		return report, err
	}
	var notes []string
	l, err := readLedger(ctx, o.fs, dir, job.Chunks, job.Samples, func(note string) { notes = append(notes, note) })
	if err != nil {
		return report, err
	}
	if report.Summary = l.summary(); report.Chunks < len(job.Chunks) { // else a later start has mended what they tell
		report.Problems = notes
	}
	if err := report.strangers(o.fs, dir, len(job.Chunks)); err != nil {
		return report, err
	}
	problems := make([][]string, len(job.Chunks))
	v := verifier{fs: o.fs, dir: dir, quick: o.Quick, samples: job.Samples}
	err = inParallel(ctx, o.Readers, len(job.Chunks), func(i int) (err error) {
		problems[i], err = v.chunk(ctx, job.Chunks[i], l.lines[i])
		return err
	})
	var missing []Chunk
	for i, c := range job.Chunks {
		report.Expected += c.Rows()
		report.Problems = append(report.Problems, problems[i]...)
		if l.lines[i] == nil {
			missing = append(missing, c)
		}
	}
	report.Problems = append(report.Problems, uncommitted(missing)...)
	if err == nil && report.Finished && !o.Quick {
		err = report.badRows(ctx, o.fs, dir)
	}
	if err == nil && !report.Finished {
		report.Problems = append(report.Problems, "the output is not finished: there is no "+successName)
	}
	return report, err
}

// mostMissing runs of missing parts are listed; a job that was stopped may have thousands.
const mostMissing = 8

// uncommitted is a sentence for each run of chunks that have no commit line; chunks are ascending.
func uncommitted(chunks []Chunk) (problems []string) {
	for len(chunks) > 0 {
		n := 1
		for n < len(chunks) && chunks[n].Index == chunks[0].Index+n {
			n++
		}
		if len(problems) == mostMissing {
			return append(problems, fmt.Sprintf("the rows of %d parts more are missing", len(chunks)))
		}
		first, last := chunks[0], chunks[n-1]
		parts := partName(first.Index) + " is"
		if n > 1 {
			parts = partName(first.Index) + " to " + partName(last.Index) + " are"
		}
		problems = append(problems, fmt.Sprintf("rows %d to %d are missing: %s not committed", first.First, last.First+last.Rows()-1, parts))
		chunks = chunks[n:]
	}
	return problems
}

// inParallel calls work(0…n−1) from a number of goroutines until one fails.
func inParallel(ctx context.Context, goroutines, n int, work func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var all sync.WaitGroup
	for range min(goroutines, 256, n) {
		all.Go(func() {
			for i := range next {
				if err := work(i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	all.Wait()
	return context.Cause(ctx)
}

// strangers finds parts that no chunk has: whoever reads the folder would get their rows, too.
func (r *Report) strangers(fsys fileSystem, dir string, chunks int) error {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, ok := numbers(name, "part-", ".parquet", 1)
		known := ok && n[0] < chunks && name == partName(n[0])
		if strings.HasSuffix(name, ".parquet") && !strings.HasPrefix(name, ".") && !known {
			r.Problems = append(r.Problems, name+" is no part of this job; its rows are too many")
		}
	}
	return nil
}

// badRows holds bad-rows.parquet against the commit lines.
func (r *Report) badRows(ctx context.Context, fsys fileSystem, dir string) error {
	name := state(dir, "bad-rows.parquet")
	t, err := openTable(ctx, fsys, name)
	if err == nil {
		err = t.each(ctx, func(arrow.RecordBatch, int64) error { return nil })
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		r.Problems = append(r.Problems, fmt.Sprintf("bad-rows.parquet cannot be read: %v", err))
	case t.rows != r.Bad:
		r.Problems = append(r.Problems, fmt.Sprintf("bad-rows.parquet has %d rows, the commit lines %d", t.rows, r.Bad))
	}
	return nil
}

// verifier checks one chunk after the other.
type verifier struct {
	fs      fileSystem
	dir     string
	quick   bool
	samples int
}

// chunk says what is wrong with a chunk whose commit line is line; nil: there is none, and that is said elsewhere.
func (v verifier) chunk(ctx context.Context, c Chunk, line *commitLine) (problems []string, err error) {
	if line == nil || v.quick {
		return nil, nil
	}
	rows := fmt.Sprintf("rows %d to %d", c.First, c.First+c.Rows()-1)
	problem := func(format string, args ...any) {
		problems = append(problems, line.Part+": "+fmt.Sprintf(format, args...))
	}
	t, err := openTable(ctx, v.fs, filepath.Join(v.dir, line.Part))
	if err != nil {
		problem("%s cannot be read: %v", rows, err)
		return problems, ctx.Err()
	}
	sums, places, bad := digests{}, placeCheck{first: c.First, rows: c.Rows(), samples: v.samples}, int64(0)
	err = t.each(ctx, func(batch arrow.RecordBatch, before int64) error {
		sums.add(batch, c.First*int64(v.samples)+before)
		places.see(batch)
		bad += errorsIn(batch)
		return nil
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		problem("%s cannot be read: %v", rows, err)
		return problems, nil
	}
	problems = append(problems, places.problems(line.Part)...)
	if t.rows != line.Records {
		problem("%d records instead of %d", t.rows, line.Records)
	}
	if names := sums.differing(line.Columns); len(names) > 0 {
		problem("%s: not as they were written (columns %s)", rows, strings.Join(names, ", "))
	}
	if sum, err := sumFile(v.fs, filepath.Join(v.dir, line.Part)); err != nil {
		problem("%s cannot be read: %v", rows, err)
	} else if sum != line.SHA256 && len(problems) == 0 {
		problem("its bytes are not those that were written, though %s are", rows)
	}
	if v.samples == 1 && bad != line.bad { // of several samples one alone may be bad
		problem("%d bad rows, its commit line has %d", bad, line.bad)
	}
	return problems, nil
}

func errorsIn(batch arrow.RecordBatch) int64 {
	at := batch.Schema().FieldIndices("error")
	if len(at) == 0 {
		return 0
	}
	return batch.NumRows() - int64(batch.Column(at[0]).NullN())
}

// placeCheck follows the column row, where there is one, and tells which rows are missing, doubled or of elsewhere.
type placeCheck struct {
	first, rows int64
	samples     int
	seen        []int32 // [rows] records of each row
	strange     []int64
	blind       bool // an id column stands in the place of row
}

func (p *placeCheck) see(batch arrow.RecordBatch) {
	at := batch.Schema().FieldIndices("row")
	if len(at) == 0 || at[0] != 0 {
		p.blind = true
		return
	}
	numbers, ok := batch.Column(0).(*array.Int64)
	if !ok {
		p.blind = true
		return
	}
	if p.seen == nil {
		p.seen = make([]int32, p.rows)
	}
	for i := range numbers.Len() {
		switch at := numbers.Value(i) - p.first; {
		case numbers.IsNull(i):
			p.strange = append(p.strange, -1)
		case at < 0 || at >= p.rows:
			p.strange = append(p.strange, numbers.Value(i))
		default:
			p.seen[at]++
		}
	}
}

func (p *placeCheck) problems(part string) (problems []string) {
	if p.blind {
		return nil
	}
	var missing, doubled []int64
	for i := range p.rows {
		n := int32(0)
		if p.seen != nil {
			n = p.seen[i]
		}
		if n < int32(p.samples) {
			missing = append(missing, p.first+i)
		} else if n > int32(p.samples) {
			doubled = append(doubled, p.first+i)
		}
	}
	for _, kind := range []struct {
		rows []int64
		what string
	}{{missing, "missing"}, {doubled, "there more than once"}, {p.strange, "of another part"}} {
		if len(kind.rows) > 0 {
			problems = append(problems, fmt.Sprintf("%s: rows %s: %s", part, listRows(kind.rows), kind.what))
		}
	}
	return problems
}

// listRows writes row numbers out, the first few of them.
func listRows(rows []int64) string {
	const shown = 8
	slices.Sort(rows)
	text := strings.Trim(strings.ReplaceAll(fmt.Sprint(rows[:min(shown, len(rows))]), " ", ", "), "[]")
	if len(rows) > shown {
		text += fmt.Sprintf(" and %d more", len(rows)-shown)
	}
	return text
}
