package cuda

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/dsbatch/dsbatch/kernels"
)

// programs are the compiled kernels of one GPU, each made when it is first needed or when prepare asks for it before.
// Several goroutines may ask.
type programs struct {
	card    card
	arch    string
	driver  int
	dir     string                             // of the cache
	compile func(program) ([]byte, error)      // to machine code
	load    func(image []byte) (handle, error) // onto the GPU
	begin   func(file string) (done func())    // told of what is waited for while it is compiled; nil: nobody is
	cores   chan struct{}                      // one taken by each that compiles
	closed  chan struct{}

	mu      sync.Mutex
	modules map[program]*module
	kernels map[kernelKey]handle
	making  sync.WaitGroup
}

type kernelKey struct {
	program
	name string
}

// module is a program on its way to the GPU.
type module struct {
	slow   chan struct{} // closed when it was not found in the cache
	done   chan struct{} // closed when handle or err is there
	handle handle
	err    error
}

// errClosed is what a program ends with that nobody waits for any more.
var errClosed = errors.New("the device was closed")

func newPrograms(ctx handle, c card, dir string) (*programs, error) {
	driver, err := driverVersion()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		base, err := os.UserCacheDir() // $XDG_CACHE_HOME
		if err != nil {
			base = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Getuid())) // a job without a home
		}
		dir = filepath.Join(base, "dsbatch", "cuda")
	}
	p := cachedPrograms(c, driver, dir)
	p.load = func(image []byte) (handle, error) { return moduleLoad(ctx, image) }
	return p, nil
}

// cachedPrograms is programs that are compiled and cached, and loaded nowhere.
func cachedPrograms(c card, driver int, dir string) *programs {
	return &programs{card: c, arch: c.arch(), driver: driver, dir: dir, cores: make(chan struct{}, runtime.GOMAXPROCS(0)),
		compile: func(g program) ([]byte, error) { return compileFor(c.arch(), g) },
		load:    func([]byte) (handle, error) { return 0, nil },
		closed:  make(chan struct{}), modules: map[program]*module{}, kernels: map[kernelKey]handle{}}
}

// kernel is a function of a program.
func (p *programs) kernel(ctx handle, k kernelKey) (handle, error) {
	p.mu.Lock()
	f, ok := p.kernels[k]
	p.mu.Unlock()
	if ok {
		return f, nil
	}
	m := p.module(k.program)
	if err := p.wait(m, k.file); err != nil {
		return 0, err
	}
	f, err := moduleFunction(ctx, m.handle, k.name, p.card.shared)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", k.file, err)
	}
	p.mu.Lock()
	p.kernels[k] = f
	p.mu.Unlock()
	return f, nil
}

// prepare begins to make programs; wait tells what became of one.
func (p *programs) prepare(all []program) {
	for _, g := range all {
		p.module(g)
	}
}

// module begins to make a program, unless that has begun.
func (p *programs) module(g program) *module {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m, ok := p.modules[g]; ok {
		return m
	}
	m := &module{slow: make(chan struct{}), done: make(chan struct{})}
	p.modules[g] = m
	p.making.Go(func() {
		defer close(m.done)
		image, err := p.image(g, m.slow)
		if err == nil {
			m.handle, err = p.load(image)
		}
		if err != nil {
			m.err = fmt.Errorf("%s for %s: %w", g.file, p.arch, err)
		}
	})
	return m
}

// ready waits until a program is on the GPU, and tells nobody: for goroutines that the load does not wait for.
func (p *programs) ready(g program) error {
	m := p.module(g)
	<-m.done
	return m.err
}

// wait waits until m is on the GPU, and tells of it where it must be compiled.
func (p *programs) wait(m *module, file string) error {
	select {
	case <-m.done:
		return m.err
	default:
	}
	select {
	case <-m.done:
	case <-m.slow:
		if p.begin != nil {
			defer p.begin(file)()
		}
		<-m.done
	}
	return m.err
}

// image is a program's machine code, from the cache where it is there; slow is closed where it is not. Of the ranks of a
// node that start together one compiles it, and the others wait for the cache.
func (p *programs) image(g program, slow chan<- struct{}) ([]byte, error) {
	path, err := p.cached(g)
	if err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return b, nil
	}
	close(slow)
	mine := takeTurn(path, turnPatience)
	defer mine.end()
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return b, nil
	}
	select {
	case p.cores <- struct{}{}:
		defer func() { <-p.cores }()
	case <-p.closed:
		return nil, errClosed
	}
	b, err := p.compile(g)
	if err != nil {
		return nil, err
	}
	// A cache that cannot be written costs time, not the job.
	_ = writeAside(path, b)
	return b, nil
}

// compileFor makes machine code of g with NVRTC.
func compileFor(arch string, g program) ([]byte, error) {
	if err := openCompiler(compilerNames()); err != nil {
		return nil, fmt.Errorf("%w; install CUDA 12 or 13, or `pip install nvidia-cuda-nvrtc` and point %s at its libnvrtc.so", err, compilerVariable)
	}
	b, log, err := g.compile(arch)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return b, nil
}

// cached is where the machine code of g lies in the cache: its name is a digest of all that it follows from.
func (p *programs) cached(g program) (string, error) {
	text, headers, err := g.source()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	names, _ := fs.Glob(sources, "*.cuh") // sorted
	for _, n := range names {
		text += "\x00" + n + "\x00" + headers[n]
	}
	_, _ = fmt.Fprintf(h, "%s\x00%s\x00%d", strings.Join(g.options(p.arch), " "), text, p.driver) // never fails
	return filepath.Join(p.dir, strings.TrimSuffix(g.file, ".cu")+"-"+hex.EncodeToString(h.Sum(nil)[:12])+".cubin"), nil
}

// writeAside writes a file that others may read or write at the same time: whole or not at all.
func writeAside(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// close waits for what is being compiled; what has not begun stays undone.
func (p *programs) close(ctx handle) error {
	close(p.closed)
	p.making.Wait()
	var errs []error
	for _, m := range p.modules {
		if m.err == nil {
			errs = append(errs, moduleFree(ctx, m.handle))
		}
	}
	return errors.Join(errs...)
}

// needed is the programs that such a model needs, those that take longest first. What is missing here is compiled when an op
// asks for it.
func (d *Device) needed(m kernels.Made) []program {
	w, from, f32 := m.Weights, m.Stored, kernels.F32
	act := d.Activations(w)
	var all []program
	if act == f32 {
		all = []program{{file: "gemm_f32.cu", a: f32, b: f32}}
	} else {
		few, _ := d.gemmFor(act, w, 0)
		all = []program{few}
		if few.file == sm90File {
			many, fewInRows := few, few
			many.file, fewInRows.rows = sm90StayingFile, true
			manyInRows := many
			manyInRows.rows = true
			all = []program{many, manyInRows, few, fewInRows}
		}
	}
	if m.Limit > 0 { // of experts, whose weights never lie in rows
		for _, g := range slices.Clone(all) {
			if g.limit = m.Limit; !g.rows {
				all = append(all, g)
			}
		}
	}
	all = append(all, d.attentionPrograms(m)...)
	if act != f32 {
		all = append(all, program{file: "gemm_f32.cu", a: act, b: f32})
	}
	if all[0].file == sm90StayingFile {
		all = append(all, program{file: "trial.cu", a: act})
	}
	all = append(all, program{file: "sample.cu"}, program{file: "norm.cu", a: act}, program{file: "gate.cu"},
		program{file: "pack.cu", a: w, b: from}, program{file: "combine.cu", a: act}, program{file: "rope.cu", a: act, b: act, latent: m.Latent > 0},
		program{file: "select.cu"}, program{file: "score.cu"}, program{file: "embed.cu", a: act, b: from}, program{file: "routing.cu"})
	if w != f32 { // gates are packed in float32
		all = append(all, program{file: "pack.cu", a: f32, b: from})
	}
	if from != f32 { // norms are float32
		all = append(all, program{file: "copy.cu", a: f32, b: from})
	}
	if m.Latent > 0 { // the part of the queries that is not rotated beside the other
		all = append(all, program{file: "copy.cu", a: act, b: act})
	}
	return all
}

// attentionPrograms are those of a model's attention, whose cache is of its activations' type.
func (d *Device) attentionPrograms(m kernels.Made) []program {
	act := d.Activations(m.Weights)
	p := attentionProgram(act, act, m.HeadDim, m.Latent, m.ALiBi, m.Sinks)
	all := []program{p}
	if p.file == attentionMMAFile && d.card.arch() == "sm_90a" {
		p.file = "sm90_attention.cu"
		all = append(all, p)
	}
	return all
}
