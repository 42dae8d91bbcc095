package results

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	v15 "github.com/apache/arrow/go/v15/arrow"
	array15 "github.com/apache/arrow/go/v15/arrow/array"
	memory15 "github.com/apache/arrow/go/v15/arrow/memory"
)

// words is text of about n bytes that compresses as English does.
func words(chance *rand.Rand, n int) string {
	const alphabet = "etaoinshrdlucmfwypvbgk"
	var b strings.Builder
	for b.Len() < n {
		for range 2 + chance.IntN(6) {
			b.WriteByte(alphabet[min(chance.IntN(len(alphabet)), chance.IntN(len(alphabet)))])
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// BenchmarkCommit writes chunks of 10,000 rows of 200 bytes, as dsbatch bench io does: prompts carried along, and
// generations of 40 tokens.
func BenchmarkCommit(b *testing.B) {
	const rows = 10_000
	for name, generate := range map[string]bool{"carry": false, "generate": true} {
		b.Run(name, func(b *testing.B) {
			layout, ctx := Layout{Task: Embed, Carry: []v15.Field{{Name: "prompt", Type: v15.BinaryTypes.String, Nullable: true}}}, context.Background()
			if generate {
				layout = Layout{Task: Generate}
			}
			chance := rand.New(rand.NewPCG(1, 1))
			texts := array15.NewStringBuilder(memory15.DefaultAllocator)
			records := make([]Record, rows)
			for i := range records {
				text := words(chance, 200)
				texts.Append(text)
				records[i] = Record{Row: int64(i), Output: &text, FinishReason: "stop", PromptTokens: int32(chance.IntN(50)), OutputTokens: 40, CumulativeLogprob: -chance.Float64()}
				for range 40 {
					records[i].OutputIDs = append(records[i].OutputIDs, int32(chance.ExpFloat64()*2000))
				}
			}
			var carry v15.Record
			if !generate {
				carry = array15.NewRecord(v15.NewSchema(layout.Carry, nil), []v15.Array{texts.NewArray()}, rows)
			}
			dir, chunk := b.TempDir(), cut(rows)[0]
			out, err := Create(ctx, dir, nil, layout, []Chunk{chunk}, Options{})
			if err != nil {
				b.Fatal(err)
			}
			w, err := Join(ctx, dir, out.Start(), 0, layout, Options{})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := w.Commit(ctx, chunk, records, carry); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds()/1e3, "krows/s")
			size, err := disk{}.Stat(dir + "/" + partName(0))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(size)/rows, "bytes/row")
			if err := out.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkVerify reads what BenchmarkCommit writes; BenchmarkDigest is the part of both that digests take.
func BenchmarkVerify(b *testing.B) {
	const rows, chunks = 10_000, 8
	dir, ctx := b.TempDir(), context.Background()
	layout, chance := Layout{Task: Generate}, rand.New(rand.NewPCG(1, 1))
	all := cut(rows, rows, rows, rows, rows, rows, rows, rows)
	out, err := Create(ctx, dir, nil, layout, all, Options{})
	if err != nil {
		b.Fatal(err)
	}
	w, err := Join(ctx, dir, out.Start(), 0, layout, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range all {
		records := make([]Record, rows)
		for i := range records {
			text := words(chance, 200)
			records[i] = Record{Row: c.First + int64(i), Output: &text, OutputIDs: make([]int32, 40)}
		}
		if err := w.Commit(ctx, c, records, nil); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := out.Finish(ctx); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if report, err := Verify(ctx, dir, VerifyOptions{}); err != nil || !report.Whole() {
			b.Fatal(err, report.Problems)
		}
	}
	b.ReportMetric(rows*chunks*float64(b.N)/b.Elapsed().Seconds()/1e3, "krows/s")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "readers")
	if err := out.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkDigest(b *testing.B) {
	columns := Layout{Task: Generate}.columns()
	_, w := begin(b, Layout{Task: Generate}, cut(1), Options{})
	chance := rand.New(rand.NewPCG(1, 1))
	for _, bytes := range []int{20, 200, 2000} {
		records := make([]Record, 10_000)
		for i := range records {
			text := words(chance, bytes)
			records[i] = Record{Row: int64(i), Output: &text, OutputIDs: make([]int32, bytes/5)}
		}
		batch, err := buildBatch(columns, w.own, records)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(bytes), func(b *testing.B) {
			b.SetBytes(int64(len(records) * bytes * 9 / 5))
			sums := digests{}
			for b.Loop() {
				sums.add(batch, 0)
			}
		})
	}
}
