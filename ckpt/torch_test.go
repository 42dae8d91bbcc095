package ckpt

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestTorchFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	a := &archive{order: "little"}
	w := a.put(F32, []int64{3, 4}, float32s(r, 12))
	shared := a.put(F32, []int64{10}, float32s(r, 10))
	turned := view{F32, shared.key, 10, 1, []int64{2, 3}, []int64{1, 3}} // a transposed view of elements 1 … 8
	a.root = []item{
		{"w", w},
		{"shared", shared},
		{"outer", []item{{"turned", turned}, {"none", nil}, {"step", 7}}},
		{"parameter", global{"torch._utils", "_rebuild_parameter", true, []any{w, true, []item{}}, nil}},
		{"args", global{"argparse", "Namespace", true, nil, []item{{"x", 1.5}}}},
		{"empty", view{F32, w.key, 12, 0, []int64{0, 3}, []int64{3, 1}}},
	}
	dir := t.TempDir()
	for name, path := range map[string]string{
		"zip":    a.write(t, filepath.Join(dir, "x.pt")),
		"legacy": a.writeLegacy(t, filepath.Join(dir, "old.pt")),
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, path)
			if want := []string{"empty", "outer.turned", "parameter", "shared", "w"}; !slices.Equal(c.Names(), want) {
				t.Fatalf("names %q, want %q", c.Names(), want)
			}
			x, _ := c.Tensor("w")
			if !bytes.Equal(content(t, x), a.storages[0].data) || x.DType != F32 || !slices.Equal(x.Shape, []int64{3, 4}) {
				t.Errorf("w is %v %v", x.DType, x.Shape)
			}
			x, _ = c.Tensor("outer.turned")
			var want []byte
			for row := range 2 {
				for col := range 3 {
					at := 4 * (1 + row + 3*col)
					want = append(want, a.storages[1].data[at:at+4]...)
				}
			}
			if !bytes.Equal(content(t, x), want) {
				t.Error("the transposed view has other elements")
			}
		})
	}
}

func TestDamagedTorchFiles(t *testing.T) {
	plain := func() *archive { return &archive{} }
	with := func(change func(a *archive, v *view)) *archive {
		a := plain()
		v := a.put(F32, []int64{2, 3}, make([]byte, 24))
		change(a, &v)
		if a.root == nil {
			a.root = []item{{"w", v}}
		}
		return a
	}
	for name, c := range map[string]struct {
		a    *archive
		kind error
		says []string
	}{
		"storage not there": {with(func(a *archive, v *view) { v.key = "7" }), ErrDamaged, []string{`"w"`, `"7" is not in the file`}},
		"storage cut short": {with(func(a *archive, v *view) { a.storages[0].data = make([]byte, 23) }), ErrDamaged, []string{`"w"`, "23 bytes", "cut short"}},
		"storage negative":  {with(func(a *archive, v *view) { v.numel = -1 }), ErrDamaged, []string{`"w"`}},
		"offset out of it":  {with(func(a *archive, v *view) { v.offset = 1 }), ErrDamaged, []string{`"w"`, "reaches element 6 of a storage of 6"}},
		"offset huge":       {with(func(a *archive, v *view) { v.offset = 1<<63 - 1 }), ErrDamaged, []string{`"w"`}},
		"offset negative":   {with(func(a *archive, v *view) { v.offset = -1 }), ErrDamaged, []string{`"w"`}},
		"strides out of it": {with(func(a *archive, v *view) { v.strides = []int64{4, 1} }), ErrDamaged, []string{`"w"`, "reaches element 6"}},
		"strides overflow":  {with(func(a *archive, v *view) { v.strides = []int64{1 << 62, 1 << 62} }), ErrDamaged, []string{`"w"`, "impossible offset"}},
		"strides negative":  {with(func(a *archive, v *view) { v.strides = []int64{-3, 1} }), ErrDamaged, []string{`"w"`, "impossible offset"}},
		"too few strides":   {with(func(a *archive, v *view) { v.strides = []int64{3} }), ErrDamaged, []string{`"w"`, "impossible shape"}},
		"shape too large":   {with(func(a *archive, v *view) { v.shape = []int64{1 << 40, 1 << 40} }), ErrDamaged, []string{`"w"`, "impossible shape"}},
		"expanded":          {with(func(a *archive, v *view) { v.shape, v.strides = []int64{1 << 40}, []int64{0} }), ErrDamaged, []string{`"w"`, ".contiguous()"}},
		"storage twice":     {with(func(a *archive, v *view) { a.storages = append(a.storages, a.storages[0]) }), ErrDamaged, []string{"storage 0 twice"}},
		"compressed":        {with(func(a *archive, v *view) { a.method = zip.Deflate }), ErrUnsupported, []string{"compressed"}},
		"big-endian":        {with(func(a *archive, v *view) { a.order = "big" }), ErrUnsupported, []string{`"big"`}},
		"no dict":           {with(func(a *archive, v *view) { a.root = []any{*v} }), ErrUnsupported, []string{"no dict"}},
		"name twice":        {with(func(a *archive, v *view) { a.root = []item{{"m.w", *v}, {"m", []item{{"w", *v}}}} }), ErrDamaged, []string{`"m.w"`, "twice"}},
		"foreign class":     {with(func(a *archive, v *view) { a.root = global{"os", "system", true, []any{"touch /tmp/pwned"}, nil} }), ErrUnsupported, []string{`"os.system"`, "nothing of it was run"}},
		"foreign class named": {with(func(a *archive, v *view) {
			a.root = []item{{"w", *v}, {"x", global{"builtins", "eval", false, nil, nil}}}
		}), ErrUnsupported, []string{`"builtins.eval"`}},
		"foreign in args": {with(func(a *archive, v *view) {
			a.root = []item{{"args", global{"my.module", "Config", true, nil, []item{}}}}
		}), ErrUnsupported, []string{`"my.module.Config"`}},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.a.write(t, filepath.Join(t.TempDir(), "x.pt"))
			_, err := Open(path, Options{})
			wants(t, err, c.kind, append(c.says, path)...)
		})
	}
}

func TestBrokenArchives(t *testing.T) {
	dir := t.TempDir()
	a := &archive{}
	a.root = []item{{"w", a.put(F32, []int64{64}, make([]byte, 256))}}
	good, err := os.ReadFile(a.write(t, filepath.Join(dir, "good.pt")))
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(a.writeLegacy(t, filepath.Join(dir, "old.pt")))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Replace(good, []byte("_rebuild_tensor_v2"), []byte("_rebuild_tensor_v9"), 1)
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"empty":              {nil, "neither a zip"},
		"text":               {[]byte("<!DOCTYPE html>"), "neither a zip"},
		"zip cut short":      {good[:len(good)-30], "cut short"},
		"zip half":           {good[:len(good)/2], "cut short"},
		"pickle flipped":     {flipped, "data.pkl"}, // its checksum tells
		"legacy cut short":   {old[:len(old)-1], "cut short"},
		"legacy no storages": {old[:len(old)-264], "cut short"},
		"legacy half":        {old[:60], "pickle"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "x.bin")
			if err := os.WriteFile(path, c.file, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path, Options{})
			wants(t, err, ErrDamaged, path, c.says)
		})
	}
}

// TestOverlappingRecords moves one entry of the zip directory onto another's bytes.
func TestOverlappingRecords(t *testing.T) {
	dir := t.TempDir()
	a := &archive{}
	x, y := a.put(F32, []int64{2}, make([]byte, 8)), a.put(F32, []int64{2}, make([]byte, 8))
	a.root = []item{{"x", x}, {"y", y}}
	file, err := os.ReadFile(a.write(t, filepath.Join(dir, "x.pt")))
	if err != nil {
		t.Fatal(err)
	}
	var at []int // of the two records' directory entries
	for i := 0; i+46 < len(file); i++ {
		if bytes.HasPrefix(file[i:], []byte("PK\x01\x02")) && strings.Contains(string(file[i+46:min(len(file), i+46+14)]), "data/") {
			at = append(at, i)
		}
	}
	if len(at) != 2 {
		t.Fatalf("%d records in the directory", len(at))
	}
	copy(file[at[1]+42:at[1]+46], file[at[0]+42:at[0]+46]) // where the record begins
	path := filepath.Join(dir, "y.pt")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, Options{})
	wants(t, err, ErrDamaged, path, "overlap")
}

// TestDeepAndShared: a pickle may hold one dict in itself, or many times, in few bytes; the walk must end.
func TestDeepAndShared(t *testing.T) {
	self := []byte("\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.") // d = {}; d["a"] = d
	doubled := []byte("\x80\x02}q\x00")                       // each dict holds the one before twice
	for i := range byte(40) {
		doubled = append(doubled, "0}q"...)
		doubled = append(doubled, i+1)
		doubled = append(doubled, "(X\x01\x00\x00\x00ah"...)
		doubled = append(doubled, i)
		doubled = append(doubled, "X\x01\x00\x00\x00bh"...)
		doubled = append(doubled, i, 'u')
	}
	doubled = append(doubled, '.')
	for name, program := range map[string][]byte{"itself": self, "doubled": doubled} {
		root, _, err := unpickle(program, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := &torchFile{m: &mapping{path: "x.pt"}}
		_, err = f.flatten(root.(*dict))
		wants(t, err, ErrDamaged, "dicts deep")
	}
}

// FuzzTorch: of any file that is accepted, every tensor can be read, and nothing outside the file is touched.
func FuzzTorch(f *testing.F) {
	a := &archive{}
	a.root = []item{{"w", a.put(F32, []int64{2, 3}, make([]byte, 24))}}
	for _, path := range []string{a.write(f, filepath.Join(f.TempDir(), "x.pt")), a.writeLegacy(f, filepath.Join(f.TempDir(), "y.pt"))} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file := &torchFile{m: &mapping{path: "x.pt", data: b, read: new(atomic.Int64)}}
		if file.parse() != nil {
			return
		}
		root, ok := file.root.(*dict)
		if !ok {
			return
		}
		tensors, err := file.flatten(root)
		if err != nil {
			return
		}
		for _, x := range tensors {
			if got, err := x.Bytes(); err != nil || int64(len(got)) != x.Size() || len(got) > len(b) {
				t.Errorf("%q: %v %v accepted in a file of %d bytes, but reads %d (%v)", x.Name, x.DType, x.Shape, len(b), len(got), err)
			}
		}
	})
}

// FuzzPickle: what is accepted is built of the few kinds of objects that pickle.go lists, from classes on the list.
func FuzzPickle(f *testing.F) {
	f.Add(pickled([]item{{"a", 1}, {"b", []any{true, nil, 2.5, "x"}}, {"c", global{"argparse", "Namespace", true, nil, []item{{"d", 1 << 40}}}}}))
	f.Add(pickled(view{F32, "0", 6, 0, []int64{2, 3}, []int64{3, 1}}))
	f.Add([]byte("cos\nsystem\n(X\x02\x00\x00\x00lstR."))
	f.Add([]byte("\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93."))
	f.Add(binary.LittleEndian.AppendUint32([]byte("\x80\x02\x8b"), 1<<31))
	f.Fuzz(func(t *testing.T, program []byte) {
		x, n, err := unpickle(program, (&torchFile{}).storageOf)
		if err != nil {
			return
		}
		if n < 1 || n > len(program) || program[n-1] != '.' {
			t.Errorf("%d of %d bytes make up the program", n, len(program))
		}
		budget := 10_000
		var walk func(x any, depth int)
		walk = func(x any, depth int) {
			if budget--; depth > 20 || budget < 0 {
				return
			}
			switch v := x.(type) {
			case tuple:
				for _, i := range v {
					walk(i, depth+1)
				}
			case *list:
				for _, i := range v.items {
					walk(i, depth+1)
				}
			case *dict:
				if len(v.keys) != len(v.items) {
					t.Errorf("a dict has %d keys for %d items", len(v.keys), len(v.items))
				}
				for _, i := range v.items {
					walk(i, depth+1)
				}
			case *opaque:
				if known[v.class] == nil {
					t.Errorf("an object of %q, which is not on the list", v.class)
				}
				walk(v.args, depth+1)
				walk(v.state, depth+1)
			case *class:
				if known[v.name] != v {
					t.Errorf("class %q is not on the list", v.name)
				}
			}
		}
		walk(x, 0)
	})
}
