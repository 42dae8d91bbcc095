package results

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// finished is a finished output of the test job.
func finished(t testing.TB) (testJob, *crashDisk) {
	t.Helper()
	job, d := newTestJob(), newCrashDisk()
	if err := job.run(d, 2, -1); err != nil {
		t.Fatal(err)
	}
	return job, d
}

// rewrite makes a part of other records, as another program might have; the commit line stays what it was.
func rewrite(t testing.TB, d *crashDisk, job testJob, chunk int, records []Record) {
	t.Helper()
	layout := job.layout
	layout.Carry = nil
	w, err := Join(context.Background(), "/out", 1, 99, layout, testOptions(d))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeAside(d, "/out/.x.tmp", "/out/"+partName(chunk), func(to io.Writer) error {
		return w.writePart(to, Chunk{To: int64(len(records))}, records, nil, digests{})
	}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	patch(t, d, chunk)
}

// patch makes the commit line of a chunk agree with the size of its part, so that only the content can tell.
func patch(t testing.TB, d *crashDisk, chunk int) {
	t.Helper()
	for name, f := range d.names {
		if !strings.Contains(name, "/commits-") {
			continue
		}
		var out []byte
		if err := readCommitsFile(d, name, func(c commitLine) error {
			if c.Chunk == chunk {
				name := "/out/" + c.Part
				sum, err := sumFile(d, name)
				if err != nil {
					return err
				}
				c.Bytes, c.SHA256 = int64(len(d.names[name].now)), sum
			}
			line, err := c.encode()
			out = append(out, line...)
			return err
		}, func(int) {}); err != nil {
			t.Fatal(err)
		}
		f.now = out
	}
}

func TestVerifyFinds(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(t *testing.T, d *crashDisk, job testJob)
		want string
	}{
		"a row missing": {func(t *testing.T, d *crashDisk, job testJob) {
			rewrite(t, d, job, 1, recordsOf(job.chunks[1])[:2])
		}, "part-0000001.parquet: rows 5: missing"},
		"a row doubled": {func(t *testing.T, d *crashDisk, job testJob) {
			r := recordsOf(job.chunks[1])
			rewrite(t, d, job, 1, []Record{r[0], r[1], r[1], r[2]})
		}, "part-0000001.parquet: rows 4: there more than once"},
		"a row of another part": {func(t *testing.T, d *crashDisk, job testJob) {
			rewrite(t, d, job, 1, append(recordsOf(job.chunks[1]), record(8)))
		}, "part-0000001.parquet: rows 8: of another part"},
		"rows swapped": {func(t *testing.T, d *crashDisk, job testJob) {
			r := recordsOf(job.chunks[1])
			rewrite(t, d, job, 1, []Record{r[1], r[0], r[2]})
		}, "part-0000001.parquet: rows 3 to 5: not as they were written (columns cumulative_logprob, "},
		"another text": {func(t *testing.T, d *crashDisk, job testJob) {
			r := recordsOf(job.chunks[1])
			r[0].Output = ptr("something else")
			rewrite(t, d, job, 1, r)
		}, "(columns output, source)"}, // rewrite leaves the carried column out
		"a part too many": {func(_ *testing.T, d *crashDisk, _ testJob) {
			d.names["/out/part-0000004.parquet"] = d.names["/out/part-0000000.parquet"]
		}, "part-0000004.parquet is no part of this job"},
		"a copy of a part": {func(_ *testing.T, d *crashDisk, _ testJob) {
			d.names["/out/part-0000001 (1).parquet"] = d.names["/out/part-0000001.parquet"]
		}, "part-0000001 (1).parquet is no part of this job"},
		"a part missing": {func(_ *testing.T, d *crashDisk, _ testJob) {
			delete(d.names, "/out/part-0000002.parquet")
		}, "part-0000002.parquet is committed, but is missing or another one"},
		"no commits": {func(_ *testing.T, d *crashDisk, _ testJob) {
			delete(d.names, "/out/_dsbatch/commits-000001-00000.jsonl")
		}, "rows 0 to 2 are missing: part-0000000.parquet is not committed"},
		"no _SUCCESS": {func(_ *testing.T, d *crashDisk, _ testJob) {
			delete(d.names, "/out/_SUCCESS")
		}, "the output is not finished"},
		"bad rows of another job": {func(_ *testing.T, d *crashDisk, _ testJob) {
			d.names["/out/_dsbatch/bad-rows.parquet"] = d.names["/out/part-0000000.parquet"]
		}, "bad-rows.parquet has 3 rows, the commit lines 2"},
		"no bad rows": {func(_ *testing.T, d *crashDisk, _ testJob) {
			delete(d.names, "/out/_dsbatch/bad-rows.parquet")
		}, "bad-rows.parquet cannot be read"},
	} {
		job, d := finished(t)
		c.harm(t, d, job)
		report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d})
		if err != nil || report.Whole() || !slices.ContainsFunc(report.Problems, func(p string) bool { return strings.Contains(p, c.want) }) {
			t.Errorf("%s: %v, %q", name, err, report.Problems)
		}
	}
}

// TestVerifyFindsFlippedBytes turns a bit of every third byte of a part in turn, whatever it is good for.
func TestVerifyFindsFlippedBytes(t *testing.T) {
	job, d := finished(t)
	ctx, c := context.Background(), job.chunks[1]
	l, err := readLedger(ctx, d, "/out", job.chunks, 1, func(note string) { t.Error(note) })
	if err != nil {
		t.Fatal(err)
	}
	v := verifier{fs: d, dir: "/out", samples: 1}
	part := d.names["/out/part-0000001.parquet"].now
	for i := 0; i < len(part); i += 3 {
		part[i] ^= 1 << (i % 8)
		problems, err := v.chunk(ctx, c, l.lines[1])
		if err != nil || len(problems) == 0 || !strings.HasPrefix(problems[0], "part-0000001.parquet: ") {
			t.Errorf("byte %d: %v, %q", i, err, problems)
		}
		part[i] ^= 1 << (i % 8)
	}
	if problems, err := v.chunk(ctx, c, l.lines[1]); err != nil || problems != nil {
		t.Error(err, problems)
	}
}

func TestVerifyWhatIsNoOutput(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/no/such/folder"} {
		if _, err := Verify(context.Background(), dir, VerifyOptions{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestVerifyQuick(t *testing.T) {
	_, d := finished(t)
	part := d.names["/out/part-0000001.parquet"]
	part.now[len(part.now)/3] ^= 1
	if report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d, Quick: true}); err != nil || !report.Whole() {
		t.Error(err, report.Problems) // it trusts what is written
	}
	part.now = part.now[:10]
	if report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d, Quick: true}); err != nil || report.Whole() {
		t.Error(err, "a truncated part passes")
	}
}

// TestMissingPartsInOneLine: neighbours are told together, and of very many runs the first.
func TestMissingPartsInOneLine(t *testing.T) {
	for _, c := range []struct {
		missing []int // chunks of 3 rows
		want    []string
	}{
		{nil, nil},
		{[]int{2}, []string{"rows 6 to 8 are missing: part-0000002.parquet is not committed"}},
		{[]int{0, 2, 3, 4}, []string{"rows 0 to 2 are missing: part-0000000.parquet is not committed",
			"rows 6 to 14 are missing: part-0000002.parquet to part-0000004.parquet are not committed"}},
	} {
		var chunks []Chunk
		for _, i := range c.missing {
			chunks = append(chunks, Chunk{Index: i, To: 3, First: int64(3 * i)})
		}
		if got := uncommitted(chunks); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.missing, got, c.want)
		}
	}
	var odd []Chunk
	for i := range 100 {
		odd = append(odd, Chunk{Index: 2*i + 1, To: 3, First: int64(6*i + 3)})
	}
	if got := uncommitted(odd); len(got) != mostMissing+1 || got[mostMissing] != "the rows of 92 parts more are missing" {
		t.Errorf("%q", got)
	}
}
