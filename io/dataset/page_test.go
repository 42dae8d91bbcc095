package dataset

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// chunkOf is the only column chunk of a file of 40,000 prompts in pages of about 1 MB.
func chunkOf(t *testing.T, texts [][]byte) ([]byte, chunk) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.parquet")
	writeParquet(t, path, texts, len(texts), compress.Codecs.Snappy)
	var budget atomic.Int64
	budget.Store(footerBudget)
	p, err := openParquet(path, &budget)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.chunk(p.meta, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, c
}

// readChunk reads rows of a chunk from a place, and looks at what is behind them.
func readChunk(b []byte, c chunk, skip int64, rows int) (arrow.Array, error) {
	var f inflater
	l, err := newLeaf(openPages(bytes.NewReader(b), c.start, c.size, c.values, c.column, c.codec, &f), arrow.BinaryTypes.String)
	if err == nil {
		err = l.skip(skip)
	}
	if err != nil {
		return nil, err
	}
	builder := array.NewStringBuilder(memory.DefaultAllocator)
	for rows > 0 {
		n, err := l.ready(rows)
		if err == nil {
			err = l.flat(builder, n)
		}
		if err != nil {
			return nil, err
		}
		rows -= n
	}
	return builder.NewArray(), l.end()
}

// The footer's counts and the pages' must agree to the last, wherever the lie is.
func TestPagesAreCounted(t *testing.T) {
	texts := prompts(40_000)
	b, right := chunkOf(t, texts)
	if _, err := readChunk(b, right, 0, 40_000); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*chunk)
		rows   int
		says   string
	}{
		"a value more":        {func(c *chunk) { c.values++ }, 40_001, "the pages end after 40000 of 40001 values"},
		"a value less":        {func(c *chunk) { c.values-- }, 39_999, "more than the 39999 values stated"},
		"a byte less":         {func(c *chunk) { c.size-- }, 40_000, "left of its column"},
		"a page less":         {func(c *chunk) { c.size /= 2 }, 40_000, "left of its column"},
		"pages behind":        {func(c *chunk) { c.values = pageValues(b, *c) }, 0, "pages behind the"},
		"pages behind unread": {func(*chunk) {}, 10, "pages behind its last row"},
		"a later start":       {func(c *chunk) { c.start += 3; c.size -= 3 }, 40_000, ""},
	} {
		c2 := right
		c.change(&c2)
		if c.rows == 0 {
			c.rows = int(c2.values)
		}
		if _, err := readChunk(b, c2, 0, c.rows); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// pageValues is the number of values in the first page.
func pageValues(b []byte, c chunk) int64 {
	var f inflater
	p := openPages(bytes.NewReader(b), c.start, c.size, c.values, c.column, c.codec, &f)
	h, err := p.header()
	if err != nil {
		panic(err)
	}
	return int64(h.values)
}

// Rows behind a skip are those of a read from the start, and pages before them are not decompressed.
func TestPagesAreSkipped(t *testing.T) {
	texts := prompts(40_000)
	b, c := chunkOf(t, texts)
	first := pageValues(b, c)
	for _, skip := range []int64{0, 1, first - 1, first, first + 1, 3*first + 7, 39_999} {
		a, err := readChunk(b, c, skip, int(40_000-skip))
		if err != nil {
			t.Fatal(err)
		}
		for i := range a.Len() {
			if a.(*array.String).Value(i) != string(texts[skip+int64(i)]) {
				t.Fatalf("skip %d: row %d differs", skip, i)
			}
		}
	}
	spoiled := bytes.Clone(b)
	spoiled[c.start+2000] ^= 0xff // inside the first page
	if _, err := readChunk(spoiled, c, first, 10); err != nil && !strings.Contains(err.Error(), "behind its last row") {
		t.Errorf("a page that is skipped is decoded: %v", err)
	}
}

func TestFooterClaims(t *testing.T) {
	var budget atomic.Int64
	path := filepath.Join(t.TempDir(), "x.parquet")
	for name, footer := range map[string]string{
		"a list of 2^31 elements":  "\x15\x02\x29\xfc\xff\xff\xff\xff\x07",
		"2^30 children":            "\x15\x02\x19\x1c\x48\x01s\x15\x80\x80\x80\x80\x08\x00\x16\x00\x19\x0c\x00",
		"a binary of 2^40 bytes":   "\x15\x02\x28\x80\x80\x80\x80\x80\x20",
		"structs without end":      "\x15\x02" + strings.Repeat("\x1c", 500),
		"a varint of eleven bytes": "\x15" + strings.Repeat("\xff", 11),
	} {
		writeFile(t, path, []byte("PAR1"+footer+string([]byte{byte(len(footer)), byte(len(footer) >> 8), 0, 0})+"PAR1"))
		if _, err := openParquet(path, &budget); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Readers of all kinds at once, over formats whose cursors are shared between reads.
func TestConcurrentReads(t *testing.T) {
	set := open(t, Columns{Carry: []CarryColumn{{"id", ""}}}, "testdata/prompts.parquet", "testdata/formats/prompts.jsonl.gz", "testdata/formats/file-zstd.arrow", "testdata/formats/prompts.jsonl")
	want := map[int64]string{}
	for _, row := range all(t, set, 1<<40, false) {
		want[row.Number] = row.Prompt
	}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 40 {
				i := r.IntN(len(set.Files()))
				f := set.Files()[i]
				from := r.Int64N(f.Rows)
				to := from + r.Int64N(f.Rows-from+1)
				if rec, _, err := set.Carry(context.Background(), i, from, to); err != nil || rec.NumRows() != to-from {
					t.Error(rec, err)
				}
				next := f.First + from
				for row, err := range set.Read(context.Background(), i, from, to) {
					if err != nil || row.Number != next || row.Prompt != want[next] {
						t.Errorf("file %d, row %d: %v, %v", i, next, row, err)
						return
					}
					if next++; r.IntN(50) == 0 {
						break
					}
				}
			}
		})
	}
	group.Wait()
}
