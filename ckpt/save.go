package ckpt

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// SaveSafetensors writes tensors as one safetensors file: aside first, fsynced, then renamed, so that path holds the
// whole file or what it held before. Memory: one tensor at a time where it has to be gathered, else none. Widest types
// come first, then names ascending, so that every tensor is aligned and equal tensors give equal files.
func SaveSafetensors(path string, tensors []Tensor) (err error) {
	ts := slices.Clone(tensors)
	slices.SortFunc(ts, func(a, b Tensor) int {
		return cmp.Or(-cmp.Compare(a.DType.Size(), b.DType.Size()), cmp.Compare(a.Name, b.Name))
	})
	header, err := writeHeader(ts)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("%s: cannot be written: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	write := func() error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, t := range ts {
			b, err := t.Bytes()
			if err != nil {
				return err
			}
			if _, err = w.Write(b); err != nil {
				return err
			}
			t.Release()
		}
		return nil
	}
	rename := func() error { return os.Rename(f.Name(), path) }
	for _, step := range []func() error{write, w.Flush, func() error { return f.Chmod(0o644) }, f.Sync, f.Close, rename} {
		if err = step(); err != nil {
			return fmt.Errorf("%s: cannot be written: %w", path, err)
		}
	}
	return nil
}

// writeHeader is the length and the JSON header, padded to 8 bytes, of tensors in file order.
func writeHeader(ts []Tensor) ([]byte, error) {
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
		fmt.Fprintf(&h, `,%s:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, t.DType.String(), dims, at, at+t.Size())
		at += t.Size()
	}
	h.WriteByte('}')
	for h.Len()%8 != 0 {
		h.WriteByte(' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(h.Len())), h.Bytes()...), nil
}
