package cuda

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dsbatch/dsbatch/kernels"
)

//go:embed *.cu *.cuh
var sources embed.FS

// program is one .cu file for the types that it is compiled for: A and B in the source, where it has them.
type program struct {
	file   string
	a, b   kernels.DType
	groups bool // GROUPS: int8 weights whose scales are by group
}

// options are the compiler's, for a target such as sm_90a.
func (p program) options(arch string) []string {
	o := []string{"--gpu-architecture=" + arch, "--std=c++17", "--device-as-default-execution-space"}
	if p.a != 0 {
		o = append(o, "-DA="+sourceType(p.a))
	}
	if p.b != 0 {
		o = append(o, "-DB="+sourceType(p.b))
	}
	if p.groups {
		o = append(o, "-DGROUPS")
	}
	return o
}

func sourceType(t kernels.DType) string {
	switch t {
	case kernels.F32:
		return "float"
	case kernels.BF16:
		return "bf16"
	case kernels.F16:
		return "f16"
	case kernels.I8:
		return "i8"
	case kernels.I32:
		return "int"
	}
	return "void"
}

// source is a program's text, and the headers that it may include.
func (p program) source() (text string, headers map[string]string, err error) {
	b, err := sources.ReadFile(p.file)
	if err != nil {
		return "", nil, err
	}
	names, err := fs.Glob(sources, "*.cuh")
	if err != nil {
		return "", nil, err
	}
	headers = map[string]string{}
	for _, n := range names {
		h, err := sources.ReadFile(n)
		if err != nil {
			return "", nil, err
		}
		headers[n] = string(h)
	}
	return string(b), headers, nil
}

// compile makes machine code of p; log is the compiler's.
func (p program) compile(arch string, more ...string) (image []byte, log string, err error) {
	text, headers, err := p.source()
	if err != nil {
		return nil, "", err
	}
	return compileProgram(p.file, text, headers, append(p.options(arch), more...))
}

// programs are the compiled kernels of one GPU, each made when it is first needed.
type programs struct {
	ctx     handle
	card    card
	arch    string
	driver  int
	dir     string // of the cache
	modules map[program]handle
	kernels map[kernelKey]handle
	begin   func(file string) (done func()) // told of what is compiled; nil: nobody is
}

type kernelKey struct {
	program
	name string
}

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
	return &programs{ctx: ctx, card: c, arch: c.arch(), driver: driver, dir: dir, modules: map[program]handle{}, kernels: map[kernelKey]handle{}}, nil
}

// kernel is a function of a program.
func (p *programs) kernel(k kernelKey) (handle, error) {
	if f, ok := p.kernels[k]; ok {
		return f, nil
	}
	m, ok := p.modules[k.program]
	if !ok {
		image, err := p.image(k.program)
		if err != nil {
			return 0, err
		}
		if m, err = moduleLoad(p.ctx, image); err != nil {
			return 0, fmt.Errorf("%s for %s: %w", k.file, p.arch, err)
		}
		p.modules[k.program] = m
	}
	f, err := moduleFunction(p.ctx, m, k.name, p.card.shared)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", k.file, err)
	}
	p.kernels[k] = f
	return f, nil
}

// image is a program's machine code, from the cache where it is there.
func (p *programs) image(g program) ([]byte, error) {
	path, err := p.cached(g)
	if err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return b, nil
	}
	if p.begin != nil {
		defer p.begin(g.file)()
	}
	if err := openCompiler(compilerNames()); err != nil {
		return nil, fmt.Errorf("%w; install CUDA 12 or 13, or `pip install nvidia-cuda-nvrtc` and point %s at its libnvrtc.so", err, compilerVariable)
	}
	b, log, err := g.compile(p.arch)
	if err != nil {
		return nil, fmt.Errorf("%s for %s: %w\n%s", g.file, p.arch, err, log)
	}
	// A cache that cannot be written costs time, not the job.
	_ = writeAside(path, b)
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

func (p *programs) close() error {
	var errs []error
	for _, m := range p.modules {
		errs = append(errs, moduleFree(p.ctx, m))
	}
	return errors.Join(errs...)
}

// compilerVariable names an environment variable that holds the path of NVRTC's library.
const compilerVariable = "DSBATCH_NVRTC"

// compilerNames are the libraries to try, in order.
func compilerNames() []string {
	var names []string
	if n := os.Getenv(compilerVariable); n != "" {
		names = append(names, n)
	}
	names = append(names, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
	for _, home := range []string{os.Getenv("CUDA_HOME"), os.Getenv("CUDA_PATH"), "/usr/local/cuda"} {
		if home != "" {
			names = append(names, filepath.Join(home, "lib64", "libnvrtc.so"))
		}
	}
	return names
}
