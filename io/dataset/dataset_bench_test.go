package dataset

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
	"github.com/klauspost/compress/zstd"
)

// prompts are texts of about 200 bytes that compress as prose does: words drawn with falling frequency.
func prompts(n int) [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(9))
		for k := range words[i] {
			words[i][k] = 'a' + byte(r.IntN(26))
		}
	}
	out := make([][]byte, n)
	for i := range out {
		var b []byte
		for len(b) < 200 {
			b = append(append(b, words[int(float64(len(words))*r.Float64()*r.Float64()*r.Float64())]...), ' ')
		}
		out[i] = b[:200]
	}
	return out
}

// writeParquet writes a column of texts, without pqarrow: its two versions cannot be linked into one binary.
func writeParquet(tb testing.TB, path string, texts [][]byte, group int, codec compress.Compression) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	text := schema.MustPrimitive(schema.NewPrimitiveNodeLogical("prompt", parquet.Repetitions.Optional, schema.StringLogicalType{}, parquet.Types.ByteArray, -1, -1))
	root := schema.MustGroup(schema.NewGroupNode("schema", parquet.Repetitions.Required, schema.FieldList{text}, -1))
	w := file.NewParquetWriter(f, root, file.WithWriterProps(parquet.NewWriterProperties(parquet.WithCompression(codec), parquet.WithDictionaryDefault(false))))
	for len(texts) > 0 {
		n := min(group, len(texts))
		rows, err := w.AppendRowGroupChecked()
		if err != nil {
			tb.Fatal(err)
		}
		col, err := rows.NextColumn()
		if err != nil {
			tb.Fatal(err)
		}
		values, def := make([]parquet.ByteArray, n), make([]int16, n)
		for i, text := range texts[:n] {
			values[i], def[i] = text, 1
		}
		if _, err := col.(*file.ByteArrayColumnChunkWriter).WriteBatch(values, def, nil); err != nil {
			tb.Fatal(err)
		}
		if err := col.Close(); err != nil {
			tb.Fatal(err)
		}
		texts = texts[n:]
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
}

func jsonLines(texts [][]byte) []byte {
	var b bytes.Buffer
	for i, text := range texts {
		fmt.Fprintf(&b, "{\"id\": %d, \"prompt\": %q}\n", i, text)
	}
	return b.Bytes()
}

// The rate at which prompts of 200 bytes come out, one goroutine: rows/s, and MB/s of their text.
func BenchmarkRead(b *testing.B) {
	const n = 400_000
	texts, dir := prompts(n), b.TempDir()
	lines := jsonLines(texts)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, write := range map[string]func(path string){
		"zstd.parquet":   func(p string) { writeParquet(b, p, texts, 100_000, compress.Codecs.Zstd) },
		"snappy.parquet": func(p string) { writeParquet(b, p, texts, 100_000, compress.Codecs.Snappy) },
		"none.parquet":   func(p string) { writeParquet(b, p, texts, 100_000, compress.Codecs.Uncompressed) },
		"lines.jsonl":    func(p string) { writeFile(b, p, lines) },
		"zstd.jsonl.zst": func(p string) { writeFile(b, p, z.EncodeAll(lines, nil)) },
	} {
		path := filepath.Join(dir, name)
		write(path)
		b.Run(name, func(b *testing.B) {
			set, err := Open(context.Background(), []string{path}, Columns{})
			if err != nil {
				b.Fatal(err)
			}
			defer set.Close()
			b.ReportAllocs()
			for b.Loop() {
				rows := 0
				for row, err := range set.Read(context.Background(), 0, 0, set.Rows()) {
					if err != nil || len(row.Prompt) != 200 {
						b.Fatal(err, row)
					}
					rows++
				}
				if rows != n {
					b.Fatal(rows)
				}
			}
			rate := n * float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "rows/s")
			b.ReportMetric(rate*200/1e6, "MB/s")
		})
	}
}

func writeFile(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}
