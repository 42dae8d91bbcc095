package ckpt

import (
	"archive/zip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A writer of PyTorch files for tests, so that damaged and odd ones can be made. It shares no code with the reader.

// view is a tensor to be pickled.
type view struct {
	dtype          DType
	key            string // of its storage
	numel          int64  // of its storage
	offset         int64
	shape, strides []int64
}

// item is an entry of a dict: a view, a dict, or a plain value.
type item struct {
	key   string
	value any
}

// global names a class, called with its arguments where there are any, and given a state where there is one.
type global struct {
	module, name string
	call         bool
	args         []any
	state        any
}

// pickled is the program, protocol 2, that builds value.
func pickled(value any) []byte {
	p := []byte{0x80, 2}
	return append(pickleValue(p, value), '.')
}

func pickleText(p []byte, s string) []byte {
	p = append(p, 'X')
	p = binary.LittleEndian.AppendUint32(p, uint32(len(s)))
	return append(p, s...)
}

func pickleInt(p []byte, n int64) []byte {
	if int64(int32(n)) == n {
		return binary.LittleEndian.AppendUint32(append(p, 'J'), uint32(n))
	}
	return binary.LittleEndian.AppendUint64(append(p, 0x8a, 8), uint64(n))
}

func pickleInts(p []byte, ns []int64) []byte {
	p = append(p, '(')
	for _, n := range ns {
		p = pickleInt(p, n)
	}
	return append(p, 't')
}

func pickleValue(p []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(p, 'N')
	case bool:
		return append(p, map[bool]byte{true: 0x88, false: 0x89}[v])
	case int:
		return pickleInt(p, int64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(p, 'G'), floatBits(v))
	case string:
		return pickleText(p, v)
	case []any:
		p = append(p, ']', '(')
		for _, x := range v {
			p = pickleValue(p, x)
		}
		return append(p, 'e')
	case []item:
		p = append(p, '}', '(')
		for _, x := range v {
			p = pickleValue(pickleText(p, x.key), x.value)
		}
		return append(p, 'u')
	case global:
		p = append(append(p, 'c'), v.module+"\n"+v.name+"\n"...)
		if v.call {
			p = append(p, '(')
			for _, a := range v.args {
				p = pickleValue(p, a)
			}
			p = append(p, 't', 'R')
		}
		if v.state != nil {
			p = append(pickleValue(p, v.state), 'b')
		}
		return p
	case view:
		p = append(p, "ctorch._utils\n_rebuild_tensor_v2\n(("...)
		p = pickleText(p, "storage")
		p = append(append(p, 'c'), "torch\n"+storageClass[v.dtype]+"\n"...)
		p = pickleText(pickleText(p, v.key), "cpu")
		p = append(pickleInt(p, v.numel), 't', 'Q')
		p = pickleInts(pickleInts(pickleInt(p, v.offset), v.shape), v.strides)
		p = append(p, 0x89)
		p = append(p, "ccollections\nOrderedDict\n)R"...)
		return append(p, 't', 'R')
	}
	panic("the tests pickle no such value")
}

var storageClass = map[DType]string{F32: "FloatStorage", F16: "HalfStorage", BF16: "BFloat16Storage", I64: "LongStorage", U8: "ByteStorage"}

// archive is a file of torch.save in the making.
type archive struct {
	root     any
	storages []storageBytes
	method   uint16 // of the storages: zip.Store
	order    string // byteorder, "" for none
}

type storageBytes struct {
	key  string
	data []byte
}

// put adds a storage of the tensor's own and returns the tensor.
func (a *archive) put(dtype DType, shape []int64, data []byte) view {
	key := strconv.Itoa(len(a.storages))
	a.storages = append(a.storages, storageBytes{key, data})
	strides, n := make([]int64, len(shape)), int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = n
		n *= shape[i]
	}
	return view{dtype, key, int64(len(data)) / dtype.Size(), 0, shape, strides}
}

func (a *archive) write(t testing.TB, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	entry := func(name string, method uint16, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "archive/" + name, Method: method})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	entry("data.pkl", zip.Store, pickled(a.root))
	if a.order != "" {
		entry("byteorder", zip.Store, []byte(a.order))
	}
	for _, s := range a.storages {
		entry("data/"+s.key, a.method, s.data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeLegacy writes the form before PyTorch 1.6.
func (a *archive) writeLegacy(t testing.TB, path string) string {
	t.Helper()
	b := []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")
	b = append(b, pickled(1001)...)
	b = append(b, pickled([]item{{"protocol_version", 1001}, {"little_endian", true}})...)
	b = append(b, pickled(a.root)...)
	var keys []any
	for _, s := range a.storages {
		keys = append(keys, s.key)
	}
	b = append(b, pickled(keys)...)
	for _, s := range a.storages {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s.data)/4)) // float32 in these tests
		b = append(b, s.data...)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
