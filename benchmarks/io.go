package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/engine"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/shard"
	"github.com/dsbatch/dsbatch/stats"
)

// IOOptions of IO.
type IOOptions struct {
	Folder string // for what is written; the caller removes it
	Rows   int64
	Bytes  int    // of text a row
	Model  string // "": no run
	Input  string // data set of the run
}

// IO measures how fast rows pass from Parquet to committed Parquet parts, in how much memory, and what reading and
// writing rows costs of a run of a model.
func IO(ctx context.Context, o IOOptions) ([]Group, error) {
	pass, err := passRows(ctx, o)
	if err != nil || o.Model == "" {
		return []Group{pass}, err
	}
	share, err := shareOfRun(ctx, o)
	return []Group{pass, share}, err
}

func passRows(ctx context.Context, o IOOptions) (g Group, err error) {
	g = Group{Name: "Parquet to Parquet", Note: fmt.Sprintf("%d rows of %d bytes, read, made records of, and committed chunk by chunk, one reader and one writer", o.Rows, o.Bytes)}
	input := filepath.Join(o.Folder, "input.parquet")
	if err := writeTexts(input, o.Rows, o.Bytes); err != nil {
		return g, err
	}
	info, err := os.Stat(input)
	if err != nil {
		return g, err
	}
	if err := forget([]string{input}); err != nil {
		return g, err
	}
	forgetResident()
	begin := time.Now()
	read, wrote, err := pass(ctx, input, filepath.Join(o.Folder, "output"), o.Rows)
	if err != nil {
		return g, err
	}
	took := time.Since(begin)
	most, _ := residentMost()
	thousands := float64(o.Rows) / 1e3
	g.Figures = []Figure{
		rate("rows", "k rows/s", thousands, round{seconds: took.Seconds()}),
		rate("text", "MB/s", thousands*float64(o.Bytes)/1e3, round{seconds: took.Seconds()}),
		rate("reading, by itself", "k rows/s", thousands, round{seconds: read.Seconds()}),
		rate("committing, by itself", "k rows/s", thousands, round{seconds: wrote.Seconds()}),
		cost("resident at most", "MB", float64(most)/1e6, 500, "as promised"),
		plain("input file", "MB", float64(info.Size())/1e6),
	}
	return g, nil
}

// writeTexts writes a column prompt of texts that compress as prose does: words drawn with falling frequency.
func writeTexts(path string, rows int64, size int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	text := schema.MustPrimitive(schema.NewPrimitiveNodeLogical("prompt", parquet.Repetitions.Optional,
		schema.StringLogicalType{}, parquet.Types.ByteArray, -1, -1))
	root := schema.MustGroup(schema.NewGroupNode("schema", parquet.Repetitions.Required, schema.FieldList{text}, -1))
	w := file.NewParquetWriter(f, root, file.WithWriterProps(parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Snappy), parquet.WithDictionaryDefault(false))))
	const group = 1 << 16
	texts, defined := prose(group, size), make([]int16, group)
	for i := range defined {
		defined[i] = 1
	}
	for at := int64(0); at < rows; at += group {
		n := min(group, rows-at)
		for i := range n { // no two rows alike
			copy(texts[i], fmt.Sprintf("%012d ", at+i))
		}
		rows, err := w.AppendRowGroupChecked()
		if err != nil {
			return err
		}
		column, err := rows.NextColumn()
		if err != nil {
			return err
		}
		if _, err := column.(*file.ByteArrayColumnChunkWriter).WriteBatch(texts[:n], defined[:n], nil); err != nil {
			return err
		}
		if err := column.Close(); err != nil {
			return err
		}
	}
	return w.Close() // and the file
}

func prose(n, size int) []parquet.ByteArray {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(9))
		for k := range words[i] {
			words[i][k] = 'a' + byte(r.IntN(26))
		}
	}
	texts := make([]parquet.ByteArray, n)
	for i := range texts {
		var b []byte
		for len(b) < size {
			b = append(append(b, words[int(float64(len(words))*r.Float64()*r.Float64()*r.Float64())]...), ' ')
		}
		texts[i] = b[:size]
	}
	return texts
}

// pass reads every row and commits it, as a rank of a job does: a reader beside a writer. It returns the time that
// each was at work.
func pass(ctx context.Context, input, output string, rows int64) (read, wrote time.Duration, err error) {
	in, err := dataset.Open(ctx, []string{input}, dataset.Columns{Prompt: "prompt"})
	if err != nil {
		return 0, 0, err
	}
	defer in.Close() //nolint:errcheck // only read
	chunks := shard.Chunks([]int64{rows}, shard.ChunkRows(rows))
	list := make([]results.Chunk, len(chunks))
	for i, c := range chunks {
		list[i] = results.Chunk(c)
	}
	layout := results.Layout{Task: results.Generate}
	out, err := results.Create(ctx, output, results.Fingerprint{}, layout, list, results.Options{})
	if err != nil {
		return 0, 0, err
	}
	w, err := results.Join(ctx, output, out.Start(), 0, layout, results.Options{})
	if err != nil {
		return 0, 0, err
	}
	type filled struct {
		chunk   results.Chunk
		records []results.Record
	}
	ready := make(chan filled, 1)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var writer sync.WaitGroup
	writer.Go(func() {
		for c := range ready {
			if ctx.Err() != nil {
				continue
			}
			begin := time.Now()
			if err := w.Commit(ctx, c.chunk, c.records, nil); err != nil {
				stop(err)
			}
			wrote += time.Since(begin)
		}
	})
	for _, c := range list {
		begin := time.Now()
		records := make([]results.Record, 0, c.Rows())
		for row, err := range in.Read(ctx, c.File, c.From, c.To) {
			if err != nil {
				stop(err)
				break
			}
			records = append(records, results.Record{Row: row.Number, Output: &row.Prompt, FinishReason: "length"})
		}
		read += time.Since(begin)
		if ctx.Err() != nil {
			break
		}
		ready <- filled{c, records}
	}
	close(ready)
	writer.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, 0, err
	}
	if err := w.Close(); err != nil {
		return 0, 0, err
	}
	summary, err := out.Finish(ctx)
	if err != nil {
		return 0, 0, err
	}
	if summary.Rows != rows {
		return 0, 0, fmt.Errorf("%d of %d rows are committed", summary.Rows, rows)
	}
	return read, wrote, out.Close()
}

// shareOfRun runs a model over a data set and reads from its statistics what the files cost.
func shareOfRun(ctx context.Context, o IOOptions) (g Group, err error) {
	g = Group{Name: "share of a run", Note: fmt.Sprintf("%s over %s, greedy, 48 tokens a row", o.Model, o.Input)}
	job := config.New()
	job.Model, job.Input, job.Output, job.MaxNewTokens = o.Model, []string{o.Input}, filepath.Join(o.Folder, "run"), 48
	if _, err := engine.Run(ctx, mpi.Alone(), job, engine.RunOptions{Version: "bench"}); err != nil {
		return g, err
	}
	data, err := os.ReadFile(filepath.Join(job.Output, "stats.json"))
	if err != nil {
		return g, err
	}
	var report stats.Report
	if err := json.Unmarshal(data, &report); err != nil {
		return g, err
	}
	for _, p := range report.Phases {
		if p.Phase == stats.Read.String() || p.Phase == stats.Commit.String() {
			f := plain(p.Phase, "% of the run", 100*p.Mean/report.Rates.Seconds)
			f.Seconds = p.Mean
			g.Figures = append(g.Figures, f)
		}
	}
	g.Figures = append(g.Figures, plain("the run, loading left out", "s", report.Rates.Seconds))
	return g, nil
}
