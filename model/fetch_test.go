package model

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
)

// manyTensors is a file of tensors of unequal sizes, tensor i full of the byte i.
func manyTensors(t *testing.T) (*ckpt.Checkpoint, []ckpt.Tensor) {
	header, data := "{", []byte{}
	var names []string
	for i := range 40 {
		n, from := 8*(1+i*i%13), len(data)
		for range n {
			data = append(data, byte(i))
		}
		names = append(names, fmt.Sprintf("t%02d", i))
		header += fmt.Sprintf(`"%s":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]},`, names[i], n, from, len(data))
	}
	header = header[:len(header)-1] + "}"
	for len(header)%8 != 0 {
		header += " "
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := os.WriteFile(path, append(append([]byte{byte(len(header)), byte(len(header) >> 8), 0, 0, 0, 0, 0, 0}, header...), data...), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := ckpt.Open(path, ckpt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var tensors []ckpt.Tensor
	for i := range names { // neither in the file's order nor each once
		x, ok := c.Tensor(names[i*7%len(names)])
		if !ok {
			t.Fatalf("no tensor %s", names[i])
		}
		tensors = append(tensors, x)
	}
	return c, tensors
}

func TestTensorsComeInTheOrderAskedFor(t *testing.T) {
	_, tensors := manyTensors(t)
	ctx := context.Background()
	f := fetch(ctx, tensors)
	defer f.close()
	for i, want := range tensors {
		got, data, err := f.take(ctx)
		if err != nil || got.Name != want.Name || int64(len(data)) != want.Size() || data[0] != byte(i*7%len(tensors)) {
			t.Fatalf("tensor %d: %s, %d bytes, %v; want %s of %d", i, got.Name, len(data), err, want.Name, want.Size())
		}
	}
}

func TestFetcherEndsEarly(t *testing.T) {
	_, tensors := manyTensors(t)
	ctx, cancel := context.WithCancel(context.Background())
	f := fetch(ctx, tensors)
	if _, _, err := f.take(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	f.close() // waits for the fetchers
	if _, _, err := f.take(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestReadingErrorNamesTheTensor(t *testing.T) {
	c, tensors := manyTensors(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	f := fetch(context.Background(), tensors)
	defer f.close()
	if _, _, err := f.take(context.Background()); err == nil || !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed checkpoint gives %v", err)
	}
}

// A panic in a reader is that of whoever takes the tensor, and says where it was.
func TestTensorThatPanics(t *testing.T) {
	_, tensors := manyTensors(t)
	tensors[3] = ckpt.Tensor{Name: "t", Shape: []int64{-1}}
	f := fetch(t.Context(), tensors)
	defer f.close()
	defer func() {
		if p, ok := recover().(*kernels.Panic); !ok || f.asked != 4 || !strings.Contains(string(p.Stack), "readTensor") {
			t.Errorf("after %d tensors: %v", f.asked, p)
		}
	}()
	for range tensors {
		if _, _, err := f.take(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
