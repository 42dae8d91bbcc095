package dataset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestFlippedBytes changes files everywhere, a little at a time: nothing may panic or take memory by a number that the
// change made, and every error must be one of ours and name the file.
func TestFlippedBytes(t *testing.T) {
	const (
		most   = 96 << 20 // bytes allocated, in sum, to open and read a file of some kB
		rounds = 30       // per file; -short: 3
	)
	n := rounds
	if testing.Short() {
		n /= 10
	}
	files, err := filepath.Glob("testdata/formats/*.*")
	if err != nil || len(files) < 50 {
		t.Fatal(files, err)
	}
	r := rand.New(rand.NewPCG(7, 7))
	dir, refused, read := t.TempDir(), 0, 0
	for _, file := range files {
		original, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(original) < 16 {
			continue
		}
		columns := Columns{CarryAll: true}
		switch {
		case strings.Contains(file, "/ids"):
			columns.IDs = "input_ids"
		case strings.Contains(file, "/messages"):
			columns.Messages = "messages"
		}
		path := filepath.Join(dir, filepath.Base(file))
		for range n {
			b := bytes.Clone(original)
			spoil(r, b)
			writeFile(t, path, b)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := readAll(path, columns)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > most {
				t.Errorf("%s: took %d MB", file, took>>20)
				keep(t, path, b)
			}
			if err != nil {
				refused++
			} else {
				read++
			}
			if err != nil && (!errors.Is(err, ErrDamaged) && !errors.Is(err, ErrColumn) || !strings.Contains(err.Error(), path)) {
				t.Errorf("%s: %v", file, err)
				keep(t, path, b)
			}
		}
	}
	if t.Logf("%d refused, %d read", refused, read); refused < read/10 || read < refused/10 {
		t.Error("the changes do not reach both outcomes: they test little")
	}
}

// spoil flips a bit, sets a byte or a word to an extreme, or copies a piece elsewhere.
func spoil(r *rand.Rand, b []byte) {
	at := r.IntN(len(b))
	if r.IntN(2) == 0 { // metadata, at the end of most formats, is where damage bites
		at = len(b) - 1 - r.IntN(min(len(b), 1200))
	}
	switch r.IntN(5) {
	case 0:
		b[at] ^= 1 << r.IntN(8)
	case 1:
		b[at] = byte(r.IntN(256))
	case 2:
		b[at] = 0xff
	case 3:
		copy(b[at:], []byte{0xff, 0xff, 0xff, 0x7f}[:r.IntN(4)+1])
	default:
		from := r.IntN(len(b))
		copy(b[at:min(at+r.IntN(32), len(b))], b[from:])
	}
}

func readAll(path string, columns Columns) error {
	set, err := Open(context.Background(), []string{path}, columns)
	if err != nil {
		return err
	}
	defer set.Close()
	for _, err := range set.Read(context.Background(), 0, 0, min(set.Rows(), 10000)) {
		if err != nil {
			return err
		}
	}
	rec, _, err := set.Carry(context.Background(), 0, 0, min(set.Rows(), 10000))
	if err == nil {
		for _, c := range rec.Columns() { // touch every value
			for i := range c.Len() {
				_ = c.ValueStr(i)
			}
		}
		rec.Release()
	}
	return err
}

func keep(t *testing.T, path string, b []byte) {
	sum := sha256.Sum256(b)
	name := filepath.Join(os.TempDir(), "dataset-"+strings.ReplaceAll(string(sum[:4]), "/", "_")+filepath.Base(path))
	name = strings.ToValidUTF8(name, "_")
	if os.WriteFile(name, b, 0o600) == nil {
		t.Logf("kept as %s", name)
	}
}
