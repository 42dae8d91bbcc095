package cuda

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dsbatch/dsbatch/kernels"
)

//go:embed *.cu *.cuh
var sources embed.FS

// program is one .cu file for the types that it is compiled for: A and B in the source, where it has them.
type program struct {
	file   string
	a, b   kernels.DType
	rows   bool    // IN_ROWS: 16-bit weights that lie in rows
	groups bool    // GROUPS: int8 weights whose scales are by group
	alibi  bool    // ALIBI: attention whose scores fall with distance
	latent bool    // LATENT: keys hold the values
	sinks  bool    // SINKS: attention with sinks
	limit  float32 // SWIGLU_LIMIT: products that end in a clamped SwiGLU, where above 0
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
	if p.rows {
		o = append(o, "-DIN_ROWS")
	}
	if p.groups {
		o = append(o, "-DGROUPS")
	}
	if p.alibi {
		o = append(o, "-DALIBI")
	}
	if p.latent {
		o = append(o, "-DLATENT")
	}
	if p.sinks {
		o = append(o, "-DSINKS")
	}
	if p.limit > 0 {
		o = append(o, "-DSWIGLU_LIMIT="+strconv.FormatFloat(float64(p.limit), 'x', -1, 32)+"f")
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
	case kernels.MXFP4:
		return "mxfp4"
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
