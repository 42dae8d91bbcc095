package ckpt

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"
)

// torchFile is a file of torch.save: what its pickle built, and where its storages lie.
type torchFile struct {
	m        *mapping
	root     any
	storages map[string]record
}

// record is where one storage lies in the file.
type record struct{ begin, end int64 }

// openTorch maps a .pt or .bin file and parses its pickle: of the weights nothing is read yet. Both forms are read, the
// zip of PyTorch 1.6 and later, and the plain pickles before it.
func openTorch(path string, read *atomic.Int64) (*torchFile, error) {
	m, err := mapFile(path, read)
	if err != nil {
		return nil, err
	}
	f := &torchFile{m: m}
	var broken error
	if err = m.guard(func() { broken = f.parse() }); err == nil {
		err = broken
	}
	if err != nil {
		_ = m.close()
		return nil, inFile(err, path)
	}
	return f, nil
}

func (f *torchFile) parse() error {
	if bytes.HasPrefix(f.m.data, []byte("PK\x03\x04")) {
		return f.parseZip()
	}
	if bytes.HasPrefix(f.m.data, legacyMagic) {
		return f.parseLegacy()
	}
	return damaged("", "", "is no file of torch.save (neither a zip nor its older form); copy it again, or convert it with a recent PyTorch")
}

// parseZip reads the directory, checks that every storage is stored plain and alone in its bytes, and runs data.pkl.
func (f *torchFile) parseZip() error {
	z, err := zip.NewReader(bytes.NewReader(f.m.data), int64(len(f.m.data)))
	if err != nil {
		return damaged("", "", "has a broken zip directory (%v): it was cut short; copy it again", err)
	}
	var pickle *zip.File
	for _, e := range z.File {
		if strings.HasSuffix("/"+e.Name, "/data.pkl") {
			if pickle != nil {
				return damaged("", "", "holds two pickles, %s and %s; save it again", pickle.Name, e.Name)
			}
			pickle = e
		}
	}
	if pickle == nil {
		return unsupported("", "", "is a zip without a data.pkl, so no file of torch.save")
	}
	prefix := strings.TrimSuffix(pickle.Name, "data.pkl")
	if err := f.findStorages(z, prefix); err != nil {
		return err
	}
	program, err := readEntry(pickle, maxPickle)
	if err != nil {
		return err
	}
	f.root, _, err = unpickle(program, f.storageOf)
	return err
}

// findStorages lists the records prefix/data/KEY.
func (f *torchFile) findStorages(z *zip.Reader, prefix string) error {
	f.storages = map[string]record{}
	var spans []record
	for _, e := range z.File {
		if e.Name == prefix+"byteorder" {
			order, err := readEntry(e, 64)
			if err != nil {
				return err
			}
			if string(order) != "little" {
				return unsupported("", "", "has byte order %q; save it again on a little-endian machine", order)
			}
		}
		key, ok := strings.CutPrefix(e.Name, prefix+"data/")
		if !ok || key == "" {
			continue
		}
		if e.Method != zip.Store || e.CompressedSize64 != e.UncompressedSize64 || e.Flags&1 != 0 {
			return unsupported("", "", "has its storage %s compressed or encrypted, as torch.save never does; save it again", key)
		}
		begin, err := e.DataOffset()
		size := e.UncompressedSize64
		if err != nil || begin < 0 || begin > int64(len(f.m.data)) || size > uint64(int64(len(f.m.data))-begin) {
			return damaged("", "", "has its storage %s outside the file (%d bytes at %d of %d); copy it again", key, size, begin, len(f.m.data))
		}
		if _, twice := f.storages[key]; twice {
			return damaged("", "", "has its storage %s twice; save it again", key)
		}
		r := record{begin, begin + int64(size)}
		f.storages[key] = r
		if size > 0 {
			spans = append(spans, r)
		}
	}
	slices.SortFunc(spans, func(a, b record) int { return int(min(max(a.begin-b.begin, -1), 1)) })
	for i := 1; i < len(spans); i++ {
		if spans[i].begin < spans[i-1].end {
			return damaged("", "", "has storages that overlap (bytes %d to %d); copy it again", spans[i].begin, spans[i-1].end)
		}
	}
	return nil
}

// readEntry is the content of a small zip entry, its checksum verified.
func readEntry(e *zip.File, limit uint64) ([]byte, error) {
	if e.UncompressedSize64 > limit {
		return nil, damaged("", "", "has a %s of %d bytes, more than the %d that are read", e.Name, e.UncompressedSize64, limit)
	}
	r, err := e.Open()
	if err == nil {
		defer r.Close() //nolint:errcheck // of memory
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(r, int64(limit)+1)); err == nil {
			return b, nil
		}
	}
	return nil, damaged("", "", "has a broken %s (%v); copy it again", e.Name, err)
}

// storageOf understands a persistent id: ('storage', class, key, location, numel) and, in old files, a view of it.
func (f *torchFile) storageOf(id any) (any, error) {
	p, _ := id.(tuple)
	if len(p) < 5 || p[0] != "storage" {
		return nil, fmt.Errorf("a persistent id is no storage")
	}
	c, ok := p[1].(*class)
	key, ok2 := p[2].(string)
	numel, ok3 := p[4].(int64)
	if !ok || !ok2 || !ok3 || c.dtype == Invalid && !strings.HasSuffix(c.name, "UntypedStorage") {
		return nil, fmt.Errorf("a storage has no class, key or size")
	}
	if len(p) > 5 && p[5] != nil {
		return nil, unsupported("", "", "has a storage that is a view of another one, as only PyTorch before 0.4 wrote; load and save it with a newer one")
	}
	return &storage{key, c.dtype, numel}, nil
}

// tensor checks a pickled tensor against its storage and the storage against the file.
func (f *torchFile) tensor(name string, r *rawTensor) (Tensor, error) {
	bad := func(format string, args ...any) (Tensor, error) {
		return Tensor{}, damaged(f.m.path, name, format, args...)
	}
	s := r.storage
	rec, ok := f.storages[s.key]
	unit := max(s.dtype.Size(), 1)
	size := r.dtype.Size()
	n, shaped := elements(r.shape)
	switch {
	case !ok:
		return bad("its storage %q is not in the file; copy it again", s.key)
	case size == 0:
		return Tensor{}, unsupported(f.m.path, name, "has no element type that is read here; convert it to float32, bfloat16 or float16")
	case s.numel < 0 || s.numel > (rec.end-rec.begin)/unit:
		return bad("its storage %q should have %d elements of %d bytes, but has %d bytes: the file was cut short; copy it again", s.key, s.numel, unit, rec.end-rec.begin)
	case !shaped || len(r.strides) != len(r.shape):
		return bad("has the impossible shape %v with strides %v; copy the file again", r.shape, r.strides)
	}
	held := (rec.end - rec.begin) / size
	if n > held {
		return bad("shows %d elements of a storage of %d; save it again after .contiguous()", n, held)
	}
	if n > 0 {
		last := r.offset
		for i, d := range r.shape {
			step := r.strides[i]
			if step < 0 || d > 1 && step > (math.MaxInt64/16-max(last, 0))/(d-1) {
				return bad("has the impossible offset %d with strides %v; copy the file again", r.offset, r.strides)
			}
			last += (d - 1) * step
		}
		if r.offset < 0 || last >= held {
			return bad("reaches element %d of a storage of %d (offset %d, shape %v, strides %v); save it again", last, held, r.offset, r.shape, r.strides)
		}
	}
	at := rec.begin
	if n > 0 {
		at += r.offset * size
	}
	p := piece{f.m, at, r.shape, r.strides}
	return Tensor{Name: name, DType: r.dtype, Shape: r.shape, src: laid{0, []piece{p}}}, nil
}

// maxDepth and maxTensors bound the walk through what a pickle built, which may hold one dict many times.
const (
	maxDepth   = 12
	maxTensors = 4 << 20
)

// flatten lists the tensors under a dict of dicts, their names joined by dots. What is neither tensor nor dict (None,
// numbers, an _extra_state) is left out.
func (f *torchFile) flatten(d *dict) ([]Tensor, error) {
	var tensors []Tensor
	seen := map[string]bool{}
	visited := 0
	var walk func(prefix string, d *dict, depth int) error
	walk = func(prefix string, d *dict, depth int) error {
		if depth > maxDepth {
			return damaged(f.m.path, prefix, "lies more than %d dicts deep", maxDepth)
		}
		for _, k := range d.keys {
			if visited++; visited > maxTensors {
				return damaged(f.m.path, "", "has more than %d entries", maxTensors)
			}
			key, ok := k.(string)
			if !ok {
				continue
			}
			switch x := d.items[k].(type) {
			case *dict:
				if err := walk(prefix+key+".", x, depth+1); err != nil {
					return err
				}
			case *rawTensor:
				if seen[prefix+key] {
					return damaged(f.m.path, prefix+key, "stands in the file twice; save it again")
				}
				seen[prefix+key] = true
				t, err := f.tensor(prefix+key, x)
				if err != nil {
					return err
				}
				tensors = append(tensors, t)
			}
		}
		return nil
	}
	return tensors, walk("", d, 0)
}
