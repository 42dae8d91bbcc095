package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

// everyProgram is each .cu file for all types that the ops compile it for.
func everyProgram() []program {
	floats := []kernels.DType{kernels.F32, kernels.BF16, kernels.F16}
	all := []program{{file: "select.cu"}, {file: "gate.cu"}, {file: "routing.cu"}, {file: "capacity.cu"}, {file: "score.cu"}, {file: "sample.cu"},
		{file: "window.cu"}, {file: "gather.cu"}}
	for _, a := range floats {
		all = append(all, program{file: "norm.cu", a: a}, program{file: "combine.cu", a: a}, program{file: "reduce.cu", a: a}, program{file: "sum.cu", a: a}, program{file: "tanh.cu", a: a})
		for _, b := range floats {
			for _, file := range []string{"copy.cu", "embed.cu", "rope.cu", "attention.cu", "pack.cu"} {
				all = append(all, program{file: file, a: a, b: b})
			}
			all = append(all, program{file: "attention.cu", a: a, b: b, alibi: true}, program{file: "attention.cu", a: a, b: b, sinks: true})
			if a == b { // as models have it
				all = append(all, program{file: "attention.cu", a: a, b: b, latent: true}, program{file: "rope.cu", a: a, b: b, latent: true})
			}
			if a == b || b == kernels.F32 {
				all = append(all, program{file: "gemm_f32.cu", a: a, b: b}, program{file: "gemm_f32.cu", a: a, b: b, limit: 7})
			}
		}
		if a != kernels.F32 {
			all = append(all, program{file: "sm90_gemm_narrow.cu", a: a, b: kernels.I8}, program{file: "sm90_gemm_narrow.cu", a: a, b: kernels.I8, groups: true})
		}
		all = append(all, program{file: "pack.cu", a: kernels.I8, b: a})
		if a != kernels.F32 {
			all = append(all, program{file: "peak.cu", a: a}, program{file: "sm90_peak.cu", a: a})
			all = append(all, program{file: "attention_mma.cu", a: a}, program{file: "sm90_attention.cu", a: a},
				program{file: "attention_mma.cu", a: a, alibi: true}, program{file: "sm90_attention.cu", a: a, alibi: true},
				program{file: latentFile, a: a, latent: true},
				program{file: "attention_mma.cu", a: a, sinks: true}, program{file: "sm90_attention.cu", a: a, sinks: true},
				program{file: "sm90_gemm.cu", a: a, b: a, limit: 7}, program{file: "sm90_gemm_tiles.cu", a: a, b: a, limit: 7},
				program{file: "gemm.cu", a: a, b: a, limit: 7}, program{file: "gemm.cu", a: a, b: kernels.I8, limit: 7},
				program{file: "sm90_gemm_narrow.cu", a: a, b: kernels.I8, limit: 7},
				program{file: "sm90_gemm.cu", a: a, b: a}, program{file: "sm90_gemm_tiles.cu", a: a, b: a}, program{file: "gemm.cu", a: a, b: a},
				program{file: "sm90_gemm.cu", a: a, b: a, rows: true}, program{file: "sm90_gemm_tiles.cu", a: a, b: a, rows: true}, program{file: "trial.cu", a: a},
				program{file: "gemm.cu", a: a, b: kernels.I8}, program{file: "gemm.cu", a: a, b: kernels.I8, groups: true})
		}
	}
	for _, limit := range []float32{0, 7} {
		for _, file := range []string{"gemm.cu", "sm90_gemm_narrow.cu"} {
			all = append(all, program{file: file, a: kernels.BF16, b: kernels.MXFP4, limit: limit})
		}
	}
	return append(all, program{file: "pack_mxfp4.cu"})
}

// programsOf is those of them that there are for an architecture.
func programsOf(arch string) []program {
	return slices.DeleteFunc(everyProgram(), func(p program) bool { return strings.HasPrefix(p.file, "sm90_") && arch != "sm_90a" })
}

// TestEveryKernelCompiles compiles all kernels for the oldest and for the newest card, and lets none spill registers:
// no GPU is needed, only NVRTC, which .ci/nvrtc fetches.
func TestEveryKernelCompiles(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for a minute or two")
	}
	if err := openCompiler(findCompiler(t)); err != nil {
		t.Skipf("NO KERNEL WAS COMPILED: %v; .ci/nvrtc fetches NVRTC, %s names it", err, compilerVariable)
	}
	only := os.Getenv("DSBATCH_KERNELS") // a part of a file's name, while working on one
	var running sync.WaitGroup
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, arch := range []string{"sm_80", "sm_90a"} {
		for _, p := range programsOf(arch) {
			if !strings.Contains(p.file, only) {
				continue
			}
			limit <- struct{}{}
			running.Go(func() {
				defer func() { <-limit }()
				_, log, err := p.compile(arch, "--ptxas-options=-v")
				if err != nil {
					t.Errorf("%s for %s: %v\n%s", strings.Join(p.options(arch), " "), p.file, err, log)
					return
				}
				if strings.Contains(log, "serializ") { // wgmma that waits for each of its kind
					t.Errorf("%s: %s", p.file, log)
				}
				for _, k := range resources(log) {
					if testing.Verbose() {
						t.Logf("%s %v: %v", p.file, p.options(arch)[3:], k)
					}
					if k.spilled > 0 || k.stack > 0 {
						t.Errorf("%s %s: %v", p.file, strings.Join(p.options(arch), " "), k)
					}
				}
			})
		}
	}
	running.Wait()
}

// TestKernelsWait: a kernel that does not begin by waiting for what was launched earlier reads what is not there yet, now
// and then, on cards that set it up beside the one before.
func TestKernelsWait(t *testing.T) {
	files, err := sources.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	before := regexp.MustCompile(`^(\s|\\|//.*|extern __shared__[^;]*;)*`)
	kernel := regexp.MustCompile(`extern "C" __global__ [^{]*\b(\w+|\w+##\w+)\([^{]*\{`)
	seen := 0
	for _, f := range files {
		text, err := sources.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range kernel.FindAllSubmatchIndex(text, -1) {
			seen++
			body := before.ReplaceAll(text[at[1]:], nil)
			first := regexp.MustCompile(`^after_earlier\(\)`)
			if f.Name() == windowFile { // what comes after one that waits for other ranks is set up when they have come
				first = regexp.MustCompile(`^after_earlier(_alone)?\(\)`)
			}
			if strings.HasPrefix(f.Name(), "sm90_gemm") { // whose products wait as late as they can
				first = regexp.MustCompile(`^product<.*>\(a, shared\)\.run\(\); /\* which calls after_earlier \*/`)
			}
			if !first.Match(body) {
				t.Errorf("%s: %s does not begin with after_earlier", f.Name(), text[at[2]:at[3]])
			}
		}
	}
	if seen < 25 {
		t.Errorf("only %d kernels were found", seen)
	}
}

// usage is what the assembler says of a kernel.
type usage struct {
	name                              string
	registers, stack, spilled, shared int
}

func (u usage) String() string {
	return fmt.Sprintf("%s: %d registers, %d bytes of stack, %d spilled, %d shared", u.name, u.registers, u.stack, u.spilled, u.shared)
}

var (
	compiling = regexp.MustCompile(`Compiling entry function '(\w+)'`)
	frame     = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores`)
	used      = regexp.MustCompile(`Used (\d+) registers(?:.*?(\d+) bytes smem)?`)
)

func resources(log string) (all []usage) {
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	for line := range strings.Lines(log) {
		if m := compiling.FindStringSubmatch(line); m != nil {
			all = append(all, usage{name: m[1]})
		}
		if len(all) == 0 {
			continue
		}
		k := &all[len(all)-1]
		if m := frame.FindStringSubmatch(line); m != nil {
			k.stack, k.spilled = number(m[1]), number(m[2])
		}
		if m := used.FindStringSubmatch(line); m != nil {
			k.registers, k.shared = number(m[1]), number(m[2])
		}
	}
	return all
}

// findCompiler is where NVRTC may be: the usual places, then what .ci/nvrtc has fetched.
func findCompiler(t *testing.T) []string {
	t.Helper()
	names := compilerNames()
	script, err := filepath.Abs("../../.ci/nvrtc")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(script).Output(); err == nil {
		names = append([]string{strings.TrimSpace(string(out))}, names...)
	}
	return names
}
