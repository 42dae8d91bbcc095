package ckpt

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Checked is what reading a checkpoint whole has found.
type Checked struct {
	Files   int
	Tensors int
	Bytes   int64 // of tensors read
	NaN     int64 // numbers that are none
	Inf     int64
	Faults  []error // one for each fault, each naming its file and, where there is one, the tensor
}

// CheckFiles opens every file of tensors at path, a folder or one file, by itself and tells what is wrong with each: for a
// checkpoint that Open refuses, which names only the first fault. known is that one.
func CheckFiles(path string, known error) (y Checked) {
	y.Faults = []error{known}
	_ = filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			y.fault(&Error{File: file, Kind: err, What: "cannot be listed: " + cause(err)})
			return nil
		}
		if d.IsDir() || !holdsWeights(d.Name()) {
			return nil
		}
		y.Files++
		c := &Checkpoint{Path: file, root: path, files: map[string]int64{}, tensors: map[string]Tensor{}}
		tensors, err := c.openTensors(file)
		if err == nil {
			y.Tensors += len(tensors)
			err = c.checkRecords()
		}
		y.fault(err)
		_ = c.Close()
		return nil
	})
	return y
}

// holdsWeights tells by its name whether a file of a model's folder is one of weights: a trainer leaves others beside them.
func holdsWeights(name string) bool {
	switch filepath.Ext(name) {
	case ".safetensors":
		return true
	case ".bin":
		return strings.HasPrefix(name, "pytorch_model")
	case ".pt":
		return strings.HasSuffix(name, "model_states.pt") || slices.Contains(stateFiles, name)
	}
	return false
}

// fault notes an error, of several joined each, unless it is known.
func (y *Checked) fault(err error) {
	if joined, several := err.(interface{ Unwrap() []error }); several {
		for _, e := range joined.Unwrap() {
			y.fault(e)
		}
		return
	}
	if err != nil && !slices.ContainsFunc(y.Faults, func(e error) bool { return e.Error() == err.Error() }) {
		y.Faults = append(y.Faults, err)
	}
}

// Check reads a checkpoint whole, with several readers: the checksums of PyTorch's files, and every number of every tensor.
// Numbers that are infinite or none are faults where counts says so of the tensor. progress, unless nil, is told of bytes
// read. An error is only that of ctx.
func (c *Checkpoint) Check(ctx context.Context, readers int, counts func(name string) bool, progress func(bytes int64)) (y Checked, err error) {
	var lock sync.Mutex
	names := make(chan string)
	var working sync.WaitGroup
	for range max(readers, 1) {
		working.Go(func() {
			for name := range names {
				part := c.checkTensor(ctx, name, counts(name), progress)
				lock.Lock()
				y.Bytes, y.NaN, y.Inf = y.Bytes+part.Bytes, y.NaN+part.NaN, y.Inf+part.Inf
				for _, e := range part.Faults {
					y.fault(e)
				}
				lock.Unlock()
			}
		})
	}
	for _, name := range c.names {
		if ctx.Err() != nil {
			break
		}
		names <- name
	}
	close(names)
	working.Wait()
	if err := ctx.Err(); err != nil {
		return y, err
	}
	y.fault(c.checkRecords())
	y.Files, y.Tensors = len(c.Files()), len(c.names)
	slices.SortFunc(y.Faults, func(a, b error) int { return bytes.Compare([]byte(a.Error()), []byte(b.Error())) })
	return y, nil
}

// checkTensor reads one.
func (c *Checkpoint) checkTensor(ctx context.Context, name string, numbers bool, progress func(int64)) (y Checked) {
	t := c.tensors[name]
	err := t.Parts(ctx, func(b []byte) error {
		if progress != nil {
			progress(int64(len(b)))
		}
		if numbers {
			nan, inf := notFinite(t.DType, b)
			y.NaN, y.Inf = y.NaN+nan, y.Inf+inf
		}
		return nil
	})
	if err == nil {
		_, y.Bytes = t.stored()
	} else if ctx.Err() == nil {
		y.fault(err)
	}
	if y.NaN+y.Inf > 0 {
		y.fault(damaged(t.file(), name, "holds %d NaN and %d infinities among %d numbers: what is computed from it is spoilt; copy the file again, or save the model anew", y.NaN, y.Inf, t.Elements()))
	}
	return y
}

// notFinite counts the NaN and the infinities among numbers of 16 bits or more.
func notFinite(d DType, b []byte) (nan, inf int64) {
	var mask, ones uint64
	step := int(d.Size())
	switch d {
	case F64:
		mask, ones = 1<<63-1, 0x7ff<<52
	case F32:
		mask, ones = 1<<31-1, 0xff<<23
	case BF16:
		mask, ones = 1<<15-1, 0xff<<7
	case F16:
		mask, ones = 1<<15-1, 0x1f<<10
	default:
		return 0, 0
	}
	for ; len(b) >= step; b = b[step:] {
		var v uint64
		switch step {
		case 8:
			v = binary.LittleEndian.Uint64(b)
		case 4:
			v = uint64(binary.LittleEndian.Uint32(b))
		default:
			v = uint64(binary.LittleEndian.Uint16(b))
		}
		switch v &= mask; {
		case v > ones:
			nan++
		case v == ones:
			inf++
		}
	}
	return nan, inf
}

// checkRecords compares every record of the PyTorch files that are open with the checksum that its zip entry has.
func (c *Checkpoint) checkRecords() error {
	c.mu.Lock()
	maps := slices.Clone(c.maps)
	c.mu.Unlock()
	var errs []error
	for _, m := range maps {
		if bytes.HasPrefix(m.data, []byte("PK\x03\x04")) {
			errs = append(errs, m.checkZip())
		}
	}
	return errors.Join(errs...)
}

// checkZip reads a mapped zip whole; its entries lie inside the file, as openTorch has checked of those that hold weights.
func (m *mapping) checkZip() error {
	z, err := zip.NewReader(bytes.NewReader(m.data), int64(len(m.data)))
	if err != nil {
		return damaged(m.path, "", "has a broken zip directory (%v): it was cut short; copy it again", err)
	}
	var errs []error
	for _, e := range z.File {
		begin, err := e.DataOffset()
		size := int64(e.UncompressedSize64)
		if err != nil || e.Method != zip.Store || size < 0 || begin < 0 || begin > int64(len(m.data))-size {
			continue // its pickle, which was read and checked, or what holds no weights
		}
		sum := uint32(0)
		for at := begin; at < begin+size; at += partBytes {
			to := min(at+partBytes, begin+size)
			if err := m.fetch(at, to); err != nil {
				return errors.Join(append(errs, err)...)
			}
			if err := m.guard(func() { sum = crc32.Update(sum, crc32.IEEETable, m.data[at:to]) }); err != nil {
				return errors.Join(append(errs, err)...)
			}
			m.forget(at, to)
		}
		if sum != e.CRC32 {
			errs = append(errs, damaged(m.path, "", "has bytes in its record %s that are not those that were written (checksum %08x, not %08x); copy the file again", e.Name, sum, e.CRC32))
		}
	}
	return errors.Join(errs...)
}

// String is what was read, on one line.
func (y Checked) String() string {
	return fmt.Sprintf("%d tensors in %d files, %d bytes read, %d NaN, %d infinities", y.Tensors, y.Files, y.Bytes, y.NaN, y.Inf)
}
