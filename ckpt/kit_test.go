package ckpt

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goldens = "../model/testdata/golden"

// trained is the folder of a trained model: the bundled one's, or another's beside the checkout. Where that is not there
// the test says loudly that it skips.
func trained(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"../examples", "../../shared/models"} {
		dir = filepath.Join(dir, name)
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	t.Skipf("SKIPPED: the trained model %s is not beside the checkout (../shared/models); only the bundled one is tested", name)
	return ""
}

func floatBits(f float64) uint64 { return math.Float64bits(f) }

func open(t testing.TB, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func content(t testing.TB, x Tensor) []byte {
	t.Helper()
	b, err := x.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// float32s are n random numbers as bytes.
func float32s(r *rand.Rand, n int64) []byte {
	b := make([]byte, 0, 4*n)
	for range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(r.NormFloat64())))
	}
	return b
}

// copyTree copies a checkpoint, but for the files whose base names are given.
func copyTree(t testing.TB, from string, but ...string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		for _, b := range but {
			if d.Name() == b {
				return nil
			}
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// wants fails unless err is there, of the kind, and its sentence has all the words.
func wants(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want a refusal that says %q", words)
	}
	t.Log(err)
	if !errors.Is(err, kind) {
		t.Errorf("%v: is of the kind %v, want %v", err, errors.Unwrap(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}

// zeros is a tensor of zeros.
func zeros(t *testing.T, name string, d DType, shape ...int64) Tensor {
	t.Helper()
	n, _ := elements(shape)
	x, err := NewTensor(name, d, shape, make([]byte, n*d.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return x
}
