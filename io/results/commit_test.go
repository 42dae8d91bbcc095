package results

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var sampleLine = commitLine{
	Chunk: 3, Part: "part-0000003.parquet", First: 384, Rows: 2, Records: 2, Bytes: 9021,
	Columns: digests{"row": 1<<63 + 5, "output": 0},
	Bad:     []BadRow{{384, int64(1<<62 + 1), "prompt is null; \"say\" something <\u2028>"}, {385, "a", "x"}, {386, nil, "y"}},
}

func TestCommitLine(t *testing.T) {
	line, err := sampleLine.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeCommit(line)
	if diff := cmp.Diff(sampleLine, got, cmpopts.IgnoreUnexported(commitLine{})); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	for n := range line { // torn after n bytes
		if _, err := decodeCommit(line[:n]); !errors.Is(err, errTorn) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	for n := range line {
		for bit := range 8 {
			harmed := append([]byte(nil), line...)
			harmed[n] ^= 1 << bit
			if _, err := decodeCommit(harmed); !errors.Is(err, errTorn) {
				t.Errorf("bit %d of byte %d turned: %v", bit, n, err)
			}
		}
	}
}

// TestTornLine cuts a commits file at every byte: the lines before count, the torn one does not, and the job goes on
// to the same end.
func TestTornLine(t *testing.T) {
	job, whole := newTestJob(), newCrashDisk()
	if err := job.run(whole, 1, -1); err != nil {
		t.Fatal(err)
	}
	const name = "/out/_dsbatch/commits-000001-00000.jsonl"
	content := whole.names[name].now
	ends := []int{}
	for i, c := range content {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	for n := range content {
		d := whole.afterKill()
		delete(d.names, "/out/_SUCCESS")
		d.names[name].now = content[:n]
		out, err := Create(context.Background(), "/out", job.fp, job.layout, job.chunks, testOptions(d))
		if err != nil {
			t.Fatal(err)
		}
		for chunk, done := range out.Committed() {
			if done != (n >= ends[chunk]) {
				t.Errorf("cut after %d bytes: chunk %d committed: %v", n, chunk, done)
			}
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		if n%97 == 0 {
			if err := job.run(d, 2, -1); err != nil {
				t.Fatal(err)
			}
			job.check(t, d, "after a cut")
		}
	}
}

// TestDamagedLineInTheMiddle: only the last line may be torn; any other is told of, and done again.
func TestDamagedLineInTheMiddle(t *testing.T) {
	job, d := newTestJob(), newCrashDisk()
	if err := job.run(d, 1, -1); err != nil {
		t.Fatal(err)
	}
	d.names["/out/_dsbatch/commits-000001-00000.jsonl"].now[20] ^= 1
	report, err := Verify(context.Background(), "/out", VerifyOptions{fs: d})
	want := []string{
		"commits-000001-00000.jsonl: line 1 is damaged and counts as none",
		"rows 0 to 2 are missing: part-0000000.parquet is not committed",
		"bad-rows.parquet has 2 rows, the commit lines 1",
	}
	if diff := cmp.Diff(want, report.Problems); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if err := job.run(d, 1, -1); err != nil {
		t.Fatal(err)
	}
	report, err = Verify(context.Background(), "/out", VerifyOptions{fs: d})
	if err != nil || !report.Whole() || report.Rows != 9 || report.Bad != 2 {
		t.Errorf("%v %+v", err, report)
	}
}
