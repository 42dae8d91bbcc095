package cuda

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// pretended is programs that are compiled by nobody, but seem to be, and counted.
func pretended(dir string, compiled *atomic.Int64) *programs {
	p := cachedPrograms(card{major: 8}, 13000, dir)
	p.compile = func(program) ([]byte, error) {
		compiled.Add(1)
		return []byte("machine code"), nil
	}
	return p
}

// TestCompilingIsTold: what is waited for while it is compiled is told of, what is there or found in the cache is not.
func TestCompilingIsTold(t *testing.T) {
	dir, compiled := t.TempDir(), atomic.Int64{}
	for _, again := range []bool{false, true} {
		var told, want []string
		p := pretended(dir, &compiled)
		held := make(chan struct{})
		pretend := p.compile
		p.compile = func(g program) ([]byte, error) { <-held; return pretend(g) }
		p.begin = func(file string) func() {
			told = append(told, "begin "+file)
			held <- struct{}{} // not compiled before it is told
			return func() { told = append(told, "end "+file) }
		}
		for _, file := range []string{"select.cu", "score.cu", "select.cu"} {
			if err := p.wait(p.module(program{file: file}), file); err != nil {
				t.Fatal(err)
			}
		}
		if !again {
			want = []string{"begin select.cu", "end select.cu", "begin score.cu", "end score.cu"}
		}
		if !slices.Equal(told, want) {
			t.Errorf("%q, want %q", told, want)
		}
	}
}

// TestRanksCompileOnce: of ranks that start together each program is compiled by one, and all get it.
func TestRanksCompileOnce(t *testing.T) {
	dir, compiled := t.TempDir(), atomic.Int64{}
	all := []program{{file: "select.cu"}, {file: "routing.cu"}, {file: "score.cu"}}
	var loads atomic.Int64
	var ranks sync.WaitGroup
	for range 8 {
		p := pretended(dir, &compiled)
		p.load = func(image []byte) (handle, error) {
			if string(image) != "machine code" {
				t.Errorf("%q was loaded", image)
			}
			loads.Add(1)
			return 1, nil
		}
		ranks.Go(func() {
			p.prepare(all)
			for _, g := range all {
				if err := p.wait(p.module(g), g.file); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ranks.Wait()
	if c, n := compiled.Load(), loads.Load(); c != int64(len(all)) || n != int64(8*len(all)) {
		t.Errorf("8 ranks of %d programs: %d compiled, %d loaded", len(all), c, n)
	}
	written := map[string]bool{}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		written[f.Name()] = true
	}
	if len(written) != len(all)+1 || !written["lock"] {
		t.Errorf("the cache has %v", written)
	}
}

// TestNothingIsCompiledForAClosedDevice: what waits for a core is given up.
func TestNothingIsCompiledForAClosedDevice(t *testing.T) {
	var compiled atomic.Int64
	p := pretended(t.TempDir(), &compiled)
	for range cap(p.cores) {
		p.cores <- struct{}{}
	}
	m := p.module(program{file: "select.cu"})
	if err := p.close(0); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(m, "select.cu"); !errors.Is(err, errClosed) || compiled.Load() != 0 {
		t.Errorf("%v, %d compiled", err, compiled.Load())
	}
}

// TestPreparedPrograms: what is compiled ahead is what CI compiles, for all types, kinds of attention and cards.
func TestPreparedPrograms(t *testing.T) {
	every := everyProgram()
	kinds := []kernels.Made{{HeadDim: 128}, {HeadDim: 20}, {HeadDim: 256}, {HeadDim: 64, ALiBi: true}, {HeadDim: 64, Sinks: true, Limit: 7},
		{HeadDim: 576, Latent: 512}, {HeadDim: 80, Latent: 64}}
	for _, c := range []card{{major: 8}, {major: 9}} {
		for _, m := range kinds {
			for _, m.Weights = range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16, kernels.I8} {
				for _, m.Stored = range []kernels.DType{kernels.F32, kernels.BF16, kernels.F16} {
					seen := map[program]bool{}
					for _, g := range (&Device{card: c}).needed(m) {
						if !slices.Contains(every, g) {
							t.Errorf("%+v on %s: %+v is compiled for nobody", m, c.arch(), g)
						}
						if seen[g] {
							t.Errorf("%+v: %+v stands twice", m, g)
						}
						seen[g] = true
					}
				}
			}
		}
	}
}

// TestKindsOfAttentionAreCompiledAhead: what models with sinks (gpt-oss), latents (DeepSeek) and ALiBi (BLOOM) have of their own
// is compiled before the first step, and nothing in its place that they do not need.
func TestKindsOfAttentionAreCompiledAhead(t *testing.T) {
	bf16, f32 := kernels.BF16, kernels.F32
	for _, c := range []struct {
		what         string
		made         kernels.Made
		card         card
		want, others []program
	}{
		{"gpt-oss on Hopper", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 64, Sinks: true, Limit: 7}, card{major: 9}, []program{
			{file: "attention_mma.cu", a: bf16, sinks: true}, {file: "sm90_attention.cu", a: bf16, sinks: true},
			{file: "sm90_gemm.cu", a: bf16, b: bf16, limit: 7}, {file: "sm90_gemm_tiles.cu", a: bf16, b: bf16, limit: 7}, {file: "sm90_gemm.cu", a: bf16, b: bf16},
		}, []program{{file: "attention_mma.cu", a: bf16}, {file: "sm90_attention.cu", a: bf16}}},
		{"gpt-oss before Hopper", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 64, Sinks: true, Limit: 7}, card{major: 8}, []program{
			{file: "attention_mma.cu", a: bf16, sinks: true}, {file: "gemm.cu", a: bf16, b: bf16, limit: 7}, {file: "gemm.cu", a: bf16, b: bf16},
		}, []program{{file: "sm90_attention.cu", a: bf16, sinks: true}}},
		{"DeepSeek-V2 on Hopper", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 576, Latent: 512}, card{major: 9}, []program{
			{file: "attention_latent.cu", a: bf16, latent: true}, {file: "rope.cu", a: bf16, b: bf16, latent: true},
		}, []program{{file: "attention_mma.cu", a: bf16}, {file: "sm90_attention.cu", a: bf16}, {file: "rope.cu", a: bf16, b: bf16}}},
		{"DeepSeek-V2 in float32", kernels.Made{Weights: f32, Stored: bf16, HeadDim: 576, Latent: 512}, card{major: 9}, []program{
			{file: "attention.cu", a: f32, b: f32, latent: true}, {file: "rope.cu", a: f32, b: f32, latent: true},
		}, []program{{file: "attention_latent.cu", a: f32, latent: true}, {file: "attention.cu", a: f32, b: f32}}},
		{"a latent of another size", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 80, Latent: 64}, card{major: 9}, []program{
			{file: "attention.cu", a: bf16, b: bf16, latent: true},
		}, []program{{file: "attention_latent.cu", a: bf16, latent: true}}},
		{"BLOOM", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 128, ALiBi: true}, card{major: 8}, []program{
			{file: "attention_mma.cu", a: bf16, alibi: true},
		}, []program{{file: "attention_mma.cu", a: bf16}}},
		{"GPT-J, whose heads have 256 values", kernels.Made{Weights: bf16, Stored: bf16, HeadDim: 256}, card{major: 9}, []program{
			{file: "attention.cu", a: bf16, b: bf16},
		}, []program{{file: "attention_mma.cu", a: bf16}, {file: "sm90_attention.cu", a: bf16}}},
	} {
		needed := (&Device{card: c.card}).needed(c.made)
		for _, p := range c.want {
			if !slices.Contains(needed, p) {
				t.Errorf("%s: %+v is not compiled ahead", c.what, p)
			}
		}
		for _, p := range c.others {
			if slices.Contains(needed, p) {
				t.Errorf("%s: %+v is compiled for nothing", c.what, p)
			}
		}
	}
}

// holderVariable has this test's program hold a turn until it is killed.
const holderVariable = "DSBATCH_TEST_HOLDS_TURN"

// TestTurns: a second one waits until the first has ended, or the file is there, or the first was killed, or patience is
// at its end.
func TestTurns(t *testing.T) {
	if path := os.Getenv(holderVariable); path != "" {
		held := takeTurn(path, time.Hour)
		fmt.Println("held")
		time.Sleep(time.Hour)
		held.end() // kept until then: a file that nobody knows any more is closed, and its lock gone
	}
	path := filepath.Join(t.TempDir(), "k.cubin")
	first := takeTurn(path, time.Hour)
	second := make(chan turn)
	go func() { second <- takeTurn(path, time.Hour) }()
	other := takeTurn(path+"2", time.Hour) // another file's does not wait
	other.end()
	select {
	case <-second:
		t.Fatal("two have their turn at a time")
	case <-time.After(5 * turnLook):
	}
	first.end()
	held := <-second
	takeTurn(path, time.Nanosecond).end() // out of patience
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	takeTurn(path, time.Hour).end() // it is there
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	held.end()

	holder := exec.Command(os.Args[0], "-test.run", "^TestTurns$")
	holder.Env = append(os.Environ(), holderVariable+"="+path)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { second <- takeTurn(path, time.Hour) }()
	select {
	case <-second:
		t.Fatal("another process has its turn too")
	case <-time.After(5 * turnLook):
	}
	if killed := holder.Process.Kill(); killed != nil || err != nil || strings.TrimSpace(line) != "held" {
		t.Fatalf("%q, %v, %v", line, err, killed)
	}
	_ = holder.Wait() // it was killed
	(<-second).end()
}

// TestWriteAside: many ranks that start together write one file whole, and leave nothing else.
func TestWriteAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	path, image := filepath.Join(dir, "k.cubin"), bytes.Repeat([]byte("image"), 1<<16)
	var ranks sync.WaitGroup
	for range 8 {
		ranks.Go(func() {
			for range 20 {
				if err := writeAside(path, image); err != nil {
					t.Error(err)
				}
				if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, image) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			}
		})
	}
	ranks.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestCacheNames: what changes machine code changes the name of its file.
func TestCacheNames(t *testing.T) {
	h100 := &programs{arch: "sm_90a", driver: 13000, dir: "d"}
	names := map[string]string{}
	for what, g := range map[string]func() (string, error){
		"gemm":         func() (string, error) { return h100.cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.BF16}) },
		"another type": func() (string, error) { return h100.cached(program{file: "gemm.cu", a: kernels.F16, b: kernels.F16}) },
		"another file": func() (string, error) { return h100.cached(program{file: "copy.cu", a: kernels.BF16, b: kernels.BF16}) },
		"another card": func() (string, error) {
			return (&programs{arch: "sm_80", driver: 13000, dir: "d"}).cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.BF16})
		},
		"another driver": func() (string, error) {
			return (&programs{arch: "sm_90a", driver: 12080, dir: "d"}).cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.BF16})
		},
		"int8 by groups": func() (string, error) {
			return h100.cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.I8, groups: true})
		},
		"attention": func() (string, error) { return h100.cached(program{file: "attention_mma.cu", a: kernels.BF16}) },
		"attention with slopes": func() (string, error) {
			return h100.cached(program{file: "attention_mma.cu", a: kernels.BF16, alibi: true})
		},
		"attention with sinks": func() (string, error) {
			return h100.cached(program{file: "attention_mma.cu", a: kernels.BF16, sinks: true})
		},
		"clamped": func() (string, error) {
			return h100.cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.BF16, limit: 7})
		},
		"clamped elsewhere": func() (string, error) {
			return h100.cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.BF16, limit: 6})
		},
		"int8 whole rows": func() (string, error) { return h100.cached(program{file: "gemm.cu", a: kernels.BF16, b: kernels.I8}) },
	} {
		name, err := g()
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := names[name]; ok {
			t.Errorf("%s and %s are both %s", what, other, name)
		}
		names[name] = what
	}
}
