package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	v15 "github.com/apache/arrow/go/v15/arrow"
	array15 "github.com/apache/arrow/go/v15/arrow/array"
	memory15 "github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

// testJob is a small job whose records follow from the row alone, as promise 1 has it.
type testJob struct {
	layout Layout
	chunks []Chunk
	fp     Fingerprint
}

func newTestJob() testJob {
	j := testJob{layout: Layout{Task: Generate, Logprobs: 2, Carry: []v15.Field{{Name: "source", Type: v15.BinaryTypes.String, Nullable: true}}}}
	j.fp.Add("model", map[string]any{"sha256": "6d1b", "layers": 4})
	j.fp.Add("dtype", "fp32")
	j.fp.Add("version", "1.0")
	j.chunks = cut(3, 3, 1, 2)
	return j
}

// cut makes chunks of the given numbers of rows.
func cut(rows ...int64) (chunks []Chunk) {
	first := int64(0)
	for i, n := range rows {
		chunks = append(chunks, Chunk{Index: i, File: 0, From: first, To: first + n, First: first})
		first += n
	}
	return chunks
}

func textOf(row int64) *string {
	s := fmt.Sprintf("output of row %d: %s", row, strings.Repeat("é", int(row%5)))
	return &s
}

// record is what row is: every fourth is bad.
func record(row int64) Record {
	if row%4 == 2 {
		return Record{Row: row, ID: row * 10, Error: fmt.Sprintf("row %d: prompt is null", row)}
	}
	r := Record{Row: row, ID: row * 10, Output: textOf(row), FinishReason: "stop", PromptTokens: int32(row), CumulativeLogprob: -float64(row) / 3, OutputIDs: []int32{}, TokenLogprobs: []float32{}, TopLogprobs: [][]TokenLogprob{}}
	for i := range int32(row % 3) {
		r.OutputIDs = append(r.OutputIDs, i+int32(row))
		r.TokenLogprobs = append(r.TokenLogprobs, -float32(i)/7)
		r.TopLogprobs = append(r.TopLogprobs, []TokenLogprob{{i, -1}, {i + 1, -2.5}})
	}
	r.OutputTokens = int32(len(r.OutputIDs))
	return r
}

func recordsOf(c Chunk) (records []Record) {
	for row := c.First; row < c.First+c.Rows(); row++ {
		records = append(records, record(row))
	}
	return records
}

func carryOf(c Chunk) v15.Record {
	b := array15.NewStringBuilder(memory15.DefaultAllocator)
	for row := c.First; row < c.First+c.Rows(); row++ {
		if row%3 == 0 {
			b.AppendNull()
		} else {
			b.Append(fmt.Sprint("source of ", row))
		}
	}
	schema := v15.NewSchema([]v15.Field{{Name: "source", Type: v15.BinaryTypes.String, Nullable: true}}, nil)
	return array15.NewRecord(schema, []v15.Array{b.NewArray()}, c.Rows())
}

// testOptions are those of one process of a test: all other processes are known to be dead.
func testOptions(fsys fileSystem) Options {
	return Options{fs: fsys, Beat: time.Millisecond, RowGroupRows: 2, self: &process{Host: "test", PID: 1, fate: func(process) fate { return dead }}}
}

// run is one start: ranks writers take the open chunks in turn. stopAfter ≥ 0 stops cleanly after so many chunks, with
// some rows of the next saved.
func (j testJob) run(fsys fileSystem, ranks, stopAfter int) error {
	ctx := context.Background()
	out, err := Create(ctx, "/out", j.fp, j.layout, j.chunks, testOptions(fsys))
	if err != nil {
		return err
	}
	if out.Finished() {
		return nil
	}
	writers := make([]*Writer, ranks)
	for rank := range writers {
		if writers[rank], err = Join(ctx, "/out", out.Start(), rank, j.layout, testOptions(fsys)); err != nil {
			return err
		}
	}
	done := out.Committed()
	for i, c := range j.chunks {
		if done[i] {
			continue
		}
		w := writers[i%ranks]
		saved, err := w.Open(ctx, c)
		if err != nil {
			return err
		}
		for _, r := range saved {
			if diff := cmp.Diff(stored(record(r.Row)), r); diff != "" {
				return fmt.Errorf("saved row: %s", diff)
			}
		}
		if stopAfter == 0 {
			return errors.Join(w.SaveOpen(c, recordsOf(c)[:1]), out.Close())
		}
		if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); err != nil {
			return err
		}
		stopAfter--
	}
	for _, w := range writers {
		if err := w.Close(); err != nil {
			return err
		}
	}
	if _, err := out.Finish(ctx); err != nil {
		return err
	}
	return out.Close()
}

// stored is r as it comes back: without what has no column, and with finish_reason filled in.
func stored(r Record) Record {
	r.ID = nil
	if r.Error != "" {
		return Record{Row: r.Row, FinishReason: "error", Error: r.Error}
	}
	return r
}

// check holds the output against the records themselves, by a path that uses no digest.
func (j testJob) check(t *testing.T, fsys fileSystem, what string) {
	t.Helper()
	ctx := context.Background()
	report, err := Verify(ctx, "/out", VerifyOptions{fs: fsys})
	if err != nil || !report.Whole() {
		t.Fatalf("%s: %v, %q", what, err, report.Problems)
	}
	var got, want []Record
	var sources, wantSources []string
	for _, c := range j.chunks {
		table, err := openTable(ctx, fsys, filepath.Join("/out", partName(c.Index)))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		err = table.each(ctx, func(batch arrow.RecordBatch, _ int64) error {
			records, err := scanRecords(j.layout.columns(), batch)
			got = append(got, records...)
			for i := range records {
				sources = append(sources, batch.Column(int(batch.NumCols())-1).ValueStr(i))
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, r := range recordsOf(c) {
			want = append(want, stored(r))
			wantSources = append(wantSources, carryOf(c).Column(0).ValueStr(int(r.Row-c.First)))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s: %s", what, diff)
	}
	if diff := cmp.Diff(wantSources, sources); diff != "" {
		t.Fatalf("%s: carried column: %s", what, diff)
	}
	names, err := fsys.ReadDir("/out/_dsbatch")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "open-") || strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s: %s is left over", what, name)
		}
	}
}

// TestKilledAnywhere is promise 2: a start dies at every single operation in turn, the next one dies somewhere else or
// stops cleanly, the third finishes; each with another number of ranks.
func TestKilledAnywhere(t *testing.T) {
	job := newTestJob()
	whole := newCrashDisk()
	if err := job.run(whole, 2, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, whole, "undisturbed")
	t.Logf("%d operations", whole.ops)
	ends := map[string]func(*crashDisk, uint64) *crashDisk{
		"kill": func(d *crashDisk, _ uint64) *crashDisk { return d.afterKill() },
		"power failure": func(d *crashDisk, seed uint64) *crashDisk {
			return d.afterPowerFailure(rand.New(rand.NewPCG(seed, 7)))
		},
	}
	for name, next := range ends {
		for k := 1; k <= whole.ops; k++ {
			what := fmt.Sprintf("%s at operation %d", name, k)
			chance := rand.New(rand.NewPCG(uint64(k), 3))
			d := newCrashDisk()
			d.dieAt = k
			if err := job.run(d, 2, -1); !errors.Is(err, errDead) {
				t.Fatalf("%s (%s): %v", what, d.log[len(d.log)-1], err)
			}
			what += " (" + d.log[len(d.log)-1] + ")"
			d = next(d, uint64(k))
			stop := -1
			if k%2 == 0 {
				d.dieAt = 1 + chance.IntN(whole.ops)
				what += fmt.Sprintf(", then at operation %d", d.dieAt)
			} else {
				stop = chance.IntN(3)
				what += fmt.Sprintf(", then a clean stop after %d chunks", stop)
			}
			if err := job.run(d, 3, stop); err != nil && !errors.Is(err, errDead) {
				t.Fatalf("%s: second start: %v", what, err)
			}
			d = next(d, uint64(k)+1000)
			if err := job.run(d, 1, -1); err != nil {
				t.Fatalf("%s: third start: %v", what, err)
			}
			job.check(t, d, what)
		}
	}
}

// TestKilledAfterACleanStop: the same from the open rows of an earlier start.
func TestKilledAfterACleanStop(t *testing.T) {
	job, begun := newTestJob(), newCrashDisk()
	if err := job.run(begun, 2, 1); err != nil {
		t.Fatal(err)
	}
	if begun.names["/out/_dsbatch/open-0000001.parquet"] == nil {
		t.Fatal("no open rows")
	}
	for k := 1; ; k++ {
		d := begun.afterKill()
		d.dieAt = k
		err := job.run(d, 2, -1)
		what := "operation " + d.log[len(d.log)-1]
		d = d.afterPowerFailure(rand.New(rand.NewPCG(uint64(k), 9)))
		if again := job.run(d, 1, -1); again != nil {
			t.Fatalf("%s: %v", what, again)
		}
		job.check(t, d, what)
		if err == nil {
			return
		}
	}
}

// TestCommittedSurvives: when Commit has returned, the next start does not do the chunk again, whatever failed then.
func TestCommittedSurvives(t *testing.T) {
	job, ctx := newTestJob(), context.Background()
	for seed := range uint64(20) {
		d := newCrashDisk()
		out, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		w, err := Join(ctx, "/out", out.Start(), 0, job.layout, testOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		c := job.chunks[1]
		if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); err != nil {
			t.Fatal(err)
		}
		d = d.afterPowerFailure(rand.New(rand.NewPCG(seed, 5)))
		if out, err = Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]bool{false, true, false, false}, out.Committed()); diff != "" {
			t.Errorf("seed %d: %s", seed, diff)
		}
	}
}

func TestFinishedOutputIsLeftAlone(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	if err := job.run(d, 2, -1); err != nil {
		t.Fatal(err)
	}
	before := d.ops
	out, err := Create(context.Background(), "/out", job.fp, job.layout, job.chunks, testOptions(d))
	if err != nil || !out.Finished() {
		t.Fatal(err)
	}
	summary, err := out.Finish(context.Background())
	if err != nil || out.Close() != nil || d.ops != before {
		t.Errorf("%v; %d operations more: %q", err, d.ops-before, d.log[before:])
	}
	if summary.Rows != 9 || summary.Bad != 2 || summary.Chunks != 4 {
		t.Errorf("%+v", summary)
	}
	other := job
	other.fp = Fingerprint{{"dtype", "bf16"}}
	var mismatch *MismatchError
	if err := other.run(d, 1, -1); !errors.As(err, &mismatch) || d.ops != before {
		t.Errorf("%v; %d operations more", err, d.ops-before)
	}
}

func TestLostPartIsDoneAgain(t *testing.T) {
	for name, harm := range map[string]func(*crashDisk){
		"missing":   func(d *crashDisk) { delete(d.names, "/out/part-0000002.parquet") },
		"truncated": func(d *crashDisk) { n := d.names["/out/part-0000002.parquet"]; n.now = n.now[:len(n.now)-1] },
		"of a chunk of another size": func(d *crashDisk) {
			d.names["/out/part-0000002.parquet"] = d.names["/out/part-0000001.parquet"]
		},
	} {
		job, d := newTestJob(), newCrashDisk()
		if err := job.run(d, 2, -1); err != nil {
			t.Fatal(err)
		}
		harm(d)
		if report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d}); err != nil || report.Whole() {
			t.Errorf("%s: %v, found whole", name, err)
		}
		if err := job.run(d, 3, 0); err != nil || d.names["/out/_SUCCESS"] != nil {
			t.Fatalf("%s: %v; it claims success before the part is there again", name, err)
		}
		if err := job.run(d, 3, -1); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		job.check(t, d, name)
	}
}

// TestTakenOverWhileWriting: a start that loses the output in the middle of a part does not put it in place.
func TestTakenOverWhileWriting(t *testing.T) {
	job, ctx, d := newTestJob(), context.Background(), newCrashDisk()
	out, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Join(ctx, "/out", out.Start(), 0, job.layout, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	d.before = func(what, name string) {
		if what == "write" && strings.HasSuffix(name, ".tmp") {
			d.names["/out/_dsbatch/lease-000002.json"] = &inode{}
		}
	}
	c := job.chunks[0]
	if err := w.Commit(ctx, c, recordsOf(c), carryOf(c)); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	if names, err := d.ReadDir("/out"); err != nil || len(names) != 0 {
		t.Errorf("%v, %q", err, names)
	}
}

// TestTwoStartsWriteOneChunk: a rank of a dead start is quicker than its end. The line that tells the truth counts.
func TestTwoStartsWriteOneChunk(t *testing.T) {
	job, ctx, d := newTestJob(), context.Background(), newCrashDisk()
	first, err := Create(ctx, "/out", job.fp, job.layout, job.chunks, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	c := job.chunks[1]
	old, err := Join(ctx, "/out", first.Start(), 1, job.layout, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	other := recordsOf(c)
	other[0] = Record{Row: c.First, Error: "a reason that names rank 1"} // not what promise 1 allows, but be safe
	if err := old.Commit(ctx, c, other, carryOf(c)); err != nil {
		t.Fatal(err)
	}
	late, err := readAll(d, "/out/part-0000001.parquet")
	if err != nil {
		t.Fatal(err)
	}
	d.put("/out/part-0000001.parquet", nil) // which the second start does not find
	if err := job.run(d, 1, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, d, "the second start's part")
	d.put("/out/part-0000001.parquet", late) // the rename of the first comes last
	report, err := Verify(ctx, "/out", VerifyOptions{fs: d})
	if err != nil || len(report.Problems) != 1 || report.Bad != 3 { // bad-rows.parquet knows two
		t.Errorf("%v, %+v", err, report)
	}
	if err := old.Commit(ctx, c, recordsOf(c), carryOf(c)); !errors.Is(err, ErrLost) {
		t.Errorf("the old start may still commit: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	job := newTestJob()
	whole := newCrashDisk()
	if err := job.run(whole, 2, -1); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range whole.names {
		total += len(f.now)
	}
	for room := 0; room < total; room += total / 40 {
		d := newCrashDisk()
		d.room = room
		err := job.run(d, 2, -1)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "/out") || !strings.Contains(err.Error(), "make room") {
			t.Fatalf("room for %d bytes of %d: %v", room, total, err)
		}
		for name := range d.names {
			if strings.HasSuffix(name, ".tmp") {
				t.Errorf("room for %d bytes: %s still takes some of it", room, name)
			}
		}
		d = d.afterKill()
		if err := job.run(d, 3, -1); err != nil {
			t.Fatalf("room for %d bytes, then enough: %v", room, err)
		}
		job.check(t, d, fmt.Sprintf("room for %d bytes, then enough", room))
	}
}

func TestCannotWrite(t *testing.T) {
	job, ctx := newTestJob(), context.Background()
	inTheWay := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(inTheWay, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_, err := Create(ctx, inTheWay, job.fp, job.layout, job.chunks, Options{})
	if err == nil || !strings.Contains(err.Error(), inTheWay) || !strings.Contains(err.Error(), "not a directory") {
		t.Error(err)
	}
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere")
	}
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	_, err = Create(ctx, filepath.Join(closed, "out"), job.fp, job.layout, job.chunks, Options{})
	if err == nil || !strings.Contains(err.Error(), closed) || !strings.Contains(err.Error(), "give a folder that you may write to with --output") {
		t.Error(err)
	}
}

// TestBadRows: the list at the end has every bad row of every rank and start, in the order of the rows.
func TestBadRows(t *testing.T) {
	layout := Layout{Task: Generate, ID: v15.Field{Name: "key", Type: v15.PrimitiveTypes.Int64}}
	chunks := cut(3, 4, 5)
	out, first := begin(t, layout, chunks, Options{})
	second, err := Join(context.Background(), "/out", out.Start(), 1, layout, first.options)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range map[int]*Writer{2: first, 0: second, 1: first} {
		if err := w.Commit(context.Background(), chunks[i], recordsOf(chunks[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := out.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	table, err := openTable(context.Background(), first.options.fs, "/out/_dsbatch/bad-rows.parquet")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := table.each(context.Background(), func(batch arrow.RecordBatch, _ int64) error {
		for i := range int(batch.NumRows()) {
			line := ""
			for c, f := range batch.Schema().Fields() {
				line += f.Name + "=" + batch.Column(c).ValueStr(i) + " "
			}
			got = append(got, line)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"row=2 id=20 part=part-0000000.parquet error=row 2: prompt is null ",
		"row=6 id=60 part=part-0000001.parquet error=row 6: prompt is null ",
		"row=10 id=100 part=part-0000002.parquet error=row 10: prompt is null ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestForeignFolder(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	d.folders["/out"] = true
	d.names["/out/part-0000000.parquet"] = &inode{}
	if err := job.run(d, 1, -1); err == nil || !strings.Contains(err.Error(), "part-0000000.parquet") || d.ops != 0 {
		t.Errorf("%v after %q", err, d.log)
	}
}

func TestNothingToDo(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	job.chunks = nil
	if err := job.run(d, 3, -1); err != nil {
		t.Fatal(err)
	}
	job.check(t, d, "no rows")
}

// TestReallyKilled kills real processes with SIGKILL, at moments that nobody chose, on a real disk.
func TestReallyKilled(t *testing.T) {
	const folder = "DSBATCH_TEST_OUTPUT"
	job, ctx := newTestJob(), context.Background()
	rows := make([]int64, 40)
	for i := range rows {
		rows[i] = 20
	}
	job.chunks = cut(rows...)
	start := func(dir string) error {
		out, err := Create(ctx, dir, job.fp, job.layout, job.chunks, Options{})
		if err != nil || out.Finished() {
			return err
		}
		w, err := Join(ctx, dir, out.Start(), 0, job.layout, Options{})
		if err != nil {
			return err
		}
		for i, done := range out.Committed() {
			if done {
				continue
			}
			if err := w.Commit(ctx, job.chunks[i], recordsOf(job.chunks[i]), carryOf(job.chunks[i])); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
		_, err = out.Finish(ctx)
		return errors.Join(err, w.Close(), out.Close())
	}
	if dir := os.Getenv(folder); dir != "" { // a child
		if err := start(dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, chance := filepath.Join(t.TempDir(), "out"), rand.New(rand.NewPCG(1, 2))
	kills := 0
	for finished := false; !finished && kills < 200; {
		child := exec.Command(os.Args[0], "-test.run=^TestReallyKilled$")
		child.Env = append(os.Environ(), folder+"="+dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(20+chance.IntN(200))*time.Millisecond, func() { _ = child.Process.Kill() })
		finished = child.Wait() == nil
		timer.Stop()
		if !finished {
			kills++
		}
	}
	t.Logf("%d kills", kills)
	if err := start(dir); err != nil && kills < 200 {
		t.Fatal(err)
	} else if err != nil || kills == 0 {
		t.Fatalf("%v after %d kills", err, kills)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	if err := start(whole); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(ctx, dir, VerifyOptions{})
	if err != nil || !report.Whole() || report.Rows != 800 {
		t.Errorf("%v %+v", err, report)
	}
	diff, err := Diff(ctx, dir, whole, DiffOptions{})
	if err != nil || !diff.Same() || diff.Records != 800 {
		t.Errorf("%v %+v", err, diff)
	}
}

func TestPeek(t *testing.T) {
	if _, err := Peek(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	job, dir := newTestJob(), filepath.Join(t.TempDir(), "a", "b")
	out, err := Create(context.Background(), dir, job.fp, job.layout, job.chunks, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Peek(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(job.chunks, got.Chunks); diff != "" || got.Fingerprint.Get("dtype") != "fp32" {
		t.Errorf("%s %+v", diff, got)
	}
}
