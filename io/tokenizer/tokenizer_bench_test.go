package tokenizer

import (
	"go/build"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prose is 0.6 MB of English that every Go installation has.
func prose(b *testing.B) string {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join(build.Default.GOROOT, "src/testdata/Isaac.Newton-Opticks.txt"))
	if err != nil {
		b.Skip(err)
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD")
}

// BenchmarkEncode measures one core. The cache is emptied before each text: only words that come again in the
// text's 0.6 MB profit from it. The vocabularies have 3000 pieces, so that a word takes more merges than with a
// real one of 100 000.
func BenchmarkEncode(b *testing.B) {
	text := prose(b)
	for _, family := range []string{"gpt2", "llama3", "qwen3", "olmoe", "gpt_oss", "deepseek_v3", "deepseek_v2", "bloom", "bert-uncased", "llama2", "mistral-metaspace", "gemma", "t5-unigram", "xlmr-unigram"} {
		b.Run(family, func(b *testing.B) {
			tokens := load(b, family)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			begin := processorTime()
			for b.Loop() {
				forget(tokens.model)
				if _, err := tokens.Encode(text, true); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(text))*float64(b.N)/1e6/(processorTime()-begin).Seconds(), "MB/cpu-s")
		})
	}
}

func forget(m model) {
	switch m := m.(type) {
	case *bpe:
		m.cache = newCache()
	case *wordPiece:
		m.cache = newCache()
	case *unigram:
		m.cache = newCache()
	}
}

// processorTime is what the process has used, the collector's work included: on a machine that others use too, it
// tells more than the clock.
func processorTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkEncodeUncached is the model's own speed: no word is remembered.
func BenchmarkEncodeUncached(b *testing.B) {
	text, tokens := prose(b), load(b, "llama3")
	m := tokens.model.(*bpe)
	pieces := piecesOf(b, scanners[llama3Regex], text)
	b.SetBytes(int64(len(text)))
	var ids []int32
	var err error
	for b.Loop() {
		ids = ids[:0]
		for _, piece := range pieces {
			if ids, err = m.compute(ids, piece); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkScan is the pre-tokenizer alone, by hand and as a regex.
func BenchmarkScan(b *testing.B) {
	text := prose(b)
	dialect, err := regexp2Dialect(llama3Regex)
	if err != nil {
		b.Fatal(err)
	}
	var spans []span
	for name, p := range map[string]pattern{"by hand": scanners[llama3Regex], "regexp2": mustCompile(b, dialect)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if spans, err = p.matches(spans[:0], text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLongPiece is one piece of 1 MB, which the heap joins.
func BenchmarkLongPiece(b *testing.B) {
	text, tokens := strings.Repeat(" ", 1<<20), load(b, "gpt2")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := tokens.Encode(text, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	text := prose(b)
	for _, family := range []string{"llama3", "llama2", "bert-cased", "t5-unigram"} {
		b.Run(family, func(b *testing.B) {
			tokens := load(b, family)
			ids, err := tokens.Encode(text, false)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tokens.Decode(ids, false)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		load(b, "llama3")
	}
}
