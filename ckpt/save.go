package ckpt

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Output is a tensor as it is to be written: under its own name, as another type where As is one.
type Output struct {
	Tensor
	As DType // Invalid: its own; else F32, BF16 or F16 of one of these or F64

	write func(ctx context.Context, write func([]byte) error) error // of bytes that are made otherwise; nil
}

// dtype is the type that is written, Size the bytes of it.
func (o Output) dtype() DType { return cmp.Or(o.As, o.DType) }

// Size is the bytes that are written.
func (o Output) Size() int64 { return o.Elements() * o.dtype().Size() }

// SaveSafetensors writes tensors as one safetensors file: aside first, fsynced, then renamed, so that path holds the
// whole file or what it held before. Memory: a few megabytes of one tensor at a time. Widest types come first, then
// names ascending, so that every tensor is aligned and equal tensors give equal files.
func SaveSafetensors(path string, tensors []Tensor) error {
	outputs := make([]Output, len(tensors))
	for i, t := range tensors {
		outputs[i].Tensor = t
	}
	return writeFile(path, func(w io.Writer) error { return writeSafetensors(context.Background(), w, outputs) })
}

// writeFile makes a file of what write writes: aside first, fsynced, then renamed.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return cannotWrite(path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	to := &fileWriter{f: f, path: path}
	w := bufio.NewWriterSize(to, 1<<20)
	if err = write(w); to.err != nil {
		return to.err
	} else if err != nil {
		return err
	}
	rename := func() error { return os.Rename(f.Name(), path) }
	for _, step := range []func() error{w.Flush, func() error { return f.Chmod(0o644) }, f.Sync, f.Close, rename} {
		if err = step(); to.err != nil {
			return to.err
		} else if err != nil {
			return cannotWrite(path, err)
		}
	}
	return nil
}

// fileWriter tells what the disk refuses from what the source of the bytes does.
type fileWriter struct {
	f    *os.File
	path string
	err  error
}

func (w *fileWriter) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	if err != nil && w.err == nil {
		w.err = cannotWrite(w.path, err)
	}
	return n, err
}

// writeSafetensors writes a whole file.
func writeSafetensors(ctx context.Context, w io.Writer, tensors []Output) error {
	ts := slices.Clone(tensors)
	slices.SortFunc(ts, func(a, b Output) int {
		return cmp.Or(-cmp.Compare(a.dtype().Size(), b.dtype().Size()), cmp.Compare(a.Name, b.Name))
	})
	header, err := writeHeader(ts)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range ts {
		if err := t.content(ctx, func(b []byte) error { _, err := w.Write(b); return err }); err != nil {
			return err
		}
	}
	return nil
}

// content hands on the bytes that are written.
func (o Output) content(ctx context.Context, write func([]byte) error) error {
	if o.write != nil {
		return o.write(ctx, write)
	}
	return o.Parts(ctx, func(b []byte) error {
		b, err := o.convert(b)
		if err == nil {
			err = write(b)
		}
		return err
	})
}

// writeHeader is the length and the JSON header, padded to 8 bytes, of tensors in file order.
func writeHeader(ts []Output) ([]byte, error) {
	var h bytes.Buffer
	h.WriteString(`{"__metadata__":{"format":"pt"}`)
	seen := map[string]bool{"__metadata__": true}
	at := int64(0)
	for _, t := range ts {
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor %q is given twice", t.Name)
		}
		seen[t.Name] = true
		shape := t.Shape
		if shape == nil {
			shape = []int64{}
		}
		name, err := json.Marshal(t.Name)
		if err != nil {
			return nil, err
		}
		dims, err := json.Marshal(shape)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&h, `,%s:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, t.dtype().String(), dims, at, at+t.Size())
		at += t.Size()
	}
	h.WriteByte('}')
	for h.Len()%8 != 0 {
		h.WriteByte(' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(h.Len())), h.Bytes()...), nil
}
