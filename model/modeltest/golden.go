// Package modeltest opens golden models: a checkpoint with a reference implementation's answers beside it
// (expected.safetensors, expected.json), as model/testdata/golden/README.md describes them.
package modeltest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
)

// Golden is one golden model's folder and its answers.
type Golden struct {
	Dir     string
	Answers map[string]Answer // by prompt, "0", "1", …; nil where there is no expected.json
	tensors *ckpt.Checkpoint
}

// Answer is what the reference implementation made of one prompt.
type Answer struct {
	Prompt   []int32   `json:"prompt"`
	Greedy   []int32   `json:"greedy"`
	Margins  []float64 `json:"margins"`  // top-1 minus top-2 logit at each step of Greedy
	Logprobs []float64 `json:"logprobs"` // of the prompt's tokens 1…n-1
}

// Open opens the golden in dir.
func Open(t testing.TB, dir string) *Golden {
	t.Helper()
	g := OpenTensors(t, filepath.Join(dir, "expected.safetensors"))
	g.Dir = dir
	if data, err := os.ReadFile(filepath.Join(dir, "expected.json")); err == nil {
		if err := json.Unmarshal(data, &g.Answers); err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
	}
	return g
}

// OpenTensors opens one file of a reference implementation's tensors, also where it is kept compressed (.gz).
func OpenTensors(t testing.TB, file string) *Golden {
	t.Helper()
	opened := file
	if !exists(file) {
		opened = filepath.Join(t.TempDir(), filepath.Base(file))
		if err := unpack(file+".gz", opened); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ckpt.Open(opened, ckpt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Golden{Dir: filepath.Dir(file), tensors: c}
}

// Unpacked is the folder itself where its files lie there as they are, else a temporary one with those that are kept
// compressed (.gz) unpacked.
func Unpacked(t testing.TB, dir string) string {
	t.Helper()
	packed, err := filepath.Glob(filepath.Join(dir, "*.gz"))
	if err != nil || len(packed) == 0 {
		return dir
	}
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, path := range packed {
		if err := unpack(path, filepath.Join(to, strings.TrimSuffix(filepath.Base(path), ".gz"))); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func unpack(from, to string) error {
	file, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// SharedGolden is the folder of a golden that is too large to be bundled; the test is skipped where it does not lie beside
// the checkout.
func SharedGolden(t testing.TB, name string) string {
	t.Helper()
	if dir := beside("golden", name); dir != "" {
		return dir
	}
	t.Skipf("SKIPPED: the golden %s is not beside the checkout (../shared/golden); only the bundled ones are tested", name)
	return ""
}

// Shared is the folder of a trained model beside the checkout; the test is skipped where it does not lie there.
func Shared(t testing.TB, name string) string {
	t.Helper()
	if dir := beside("models", name); dir != "" {
		return dir
	}
	t.Skipf("SKIPPED: the trained model %s is not beside the checkout (../shared/models); only the bundled one is tested", name)
	return ""
}

// beside is what lies in a folder beside the checkout; "": it does not.
func beside(kind, name string) string {
	for _, up := range []string{"../shared", "../../shared", "../../../shared"} {
		if dir := filepath.Join(up, kind, name); exists(dir) {
			return dir
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Prompts is how many prompts the golden has answers for.
func (g *Golden) Prompts() int {
	n := 0
	for {
		if _, ok := g.tensors.Tensor(fmt.Sprintf("%d.input_ids", n)); !ok {
			return n
		}
		n++
	}
}

// Has tells whether the golden holds a tensor.
func (g *Golden) Has(name string) bool {
	_, ok := g.tensors.Tensor(name)
	return ok
}

// Floats is a float32 tensor, and its number of columns.
func (g *Golden) Floats(t testing.TB, name string) (values []float32, cols int) {
	t.Helper()
	data, cols := g.bytes(t, name, ckpt.F32)
	values = make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return values, cols
}

// Ints is an int32 tensor.
func (g *Golden) Ints(t testing.TB, name string) []int32 {
	t.Helper()
	data, _ := g.bytes(t, name, ckpt.I32)
	values := make([]int32, len(data)/4)
	for i := range values {
		values[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return values
}

func (g *Golden) bytes(t testing.TB, name string, d ckpt.DType) ([]byte, int) {
	t.Helper()
	x, ok := g.tensors.Tensor(name)
	if !ok || x.DType != d {
		t.Fatalf("%s: no tensor %s of type %v", g.Dir, name, d)
	}
	data, err := x.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return data, int(x.Shape[len(x.Shape)-1])
}

// Key is the name of a tensor of prompt i: Key(0, "hidden", 2) is 0.hidden.2.
func Key(prompt int, parts ...any) string {
	name := strconv.Itoa(prompt)
	for _, p := range parts {
		name += fmt.Sprintf(".%v", p)
	}
	return name
}
