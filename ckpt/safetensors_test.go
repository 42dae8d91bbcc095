package ckpt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGoldenSafetensors reads every golden file a second way, by its JSON alone.
func TestGoldenSafetensors(t *testing.T) {
	paths, err := filepath.Glob(goldens + "/*/*.safetensors")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := binary.LittleEndian.Uint64(file)
		var header map[string]struct {
			DType   string
			Shape   []int64
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(file[8:8+n], &header); err != nil && !strings.Contains(err.Error(), "metadata") {
			t.Fatal(err)
		}
		delete(header, "__metadata__")
		c := open(t, path)
		if len(c.Names()) != len(header) || !slices.IsSorted(c.Names()) || c.Files()[0].Size != int64(len(file)) {
			t.Fatalf("%s: %d names, want %d", path, len(c.Names()), len(header))
		}
		total := int64(0)
		for name, want := range header {
			x, ok := c.Tensor(name)
			if !ok || x.DType.String() != want.DType || !slices.Equal(x.Shape, want.Shape) {
				t.Fatalf("%s: %s is %v %v, want %+v", path, name, x.DType, x.Shape, want)
			}
			if !bytes.Equal(content(t, x), file[8+int64(n)+want.Offsets[0]:8+int64(n)+want.Offsets[1]]) {
				t.Errorf("%s: %s has other bytes", path, name)
			}
			total += x.Size()
		}
		if c.BytesRead() != total {
			t.Errorf("%s: %d bytes read, of %d", path, c.BytesRead(), total)
		}
	}
}

func TestSaveAndOpen(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var tensors []Tensor
	for i, shape := range [][]int64{{}, {0}, {1}, {3, 5}, {2, 3, 4}, {7, 0, 2}} {
		for _, d := range []DType{F32, BF16, U8, I64, Bool, F8E4M3} {
			n, _ := elements(shape)
			b := make([]byte, n*d.Size())
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			x, err := NewTensor(fmt.Sprintf("%v.%d \"ü\n", d, i), d, shape, b)
			if err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, x)
		}
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := SaveSafetensors(path, tensors); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	if len(c.Names()) != len(tensors) {
		t.Errorf("%d tensors, want %d", len(c.Names()), len(tensors))
	}
	for _, want := range tensors {
		x, ok := c.Tensor(want.Name)
		if !ok || x.DType != want.DType || !slices.Equal(x.Shape, want.Shape) || !bytes.Equal(content(t, x), content(t, want)) {
			t.Errorf("%q: %v %v, want %v %v", want.Name, x.DType, x.Shape, want.DType, want.Shape)
		}
		if x.Size() > 0 && x.src.(laid).p[0].at%x.DType.Size() != 0 {
			t.Errorf("%q is not aligned", want.Name)
		}
	}
	if left, _ := filepath.Glob(filepath.Dir(path) + "/.*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := SaveSafetensors(path, append(tensors, tensors[0])); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a name given twice: %v", err)
	}
	if err := SaveSafetensors(filepath.Join(path, "x"), tensors); err == nil {
		t.Error("written below a file")
	}
}

// st is a safetensors file of a header and some bytes.
func st(header string, data int) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), make([]byte, data)...)
}

func TestDamagedSafetensors(t *testing.T) {
	entry := func(name, dtype, shape string, begin, end int) string {
		return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
	}
	a := entry("a", "F32", "[2]", 0, 8)
	for name, c := range map[string]struct {
		file []byte
		kind error
		says []string
	}{
		"empty":              {nil, ErrDamaged, []string{"0 bytes", "cut short"}},
		"no header":          {st("", 0), ErrDamaged, []string{"broken header"}},
		"length of a TB":     {append(binary.LittleEndian.AppendUint64(nil, 1<<40), "{}"...), ErrDamaged, []string{"1099511627776"}},
		"length negative":    {append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), ErrDamaged, []string{"header"}},
		"ends in header":     {append(binary.LittleEndian.AppendUint64(nil, 99), "{}"...), ErrDamaged, []string{"cut short"}},
		"no JSON":            {st(`{"a":{"dtype"`, 0), ErrDamaged, []string{"broken header"}},
		"a list":             {st(`[]`, 0), ErrDamaged, []string{"broken header"}},
		"something follows":  {st(`{} {}`, 0), ErrDamaged, []string{"follows"}},
		"data cut short":     {st("{"+a+"}", 7), ErrDamaged, []string{`"a"`, "cut short"}},
		"data too long":      {st("{"+a+"}", 9), ErrDamaged, []string{"for 1 bytes after"}},
		"overlap":            {st("{"+a+","+entry("b", "F32", "[2]", 4, 12)+"}", 12), ErrDamaged, []string{`"b"`, `overlaps tensor "a"`}},
		"same bytes":         {st("{"+a+","+entry("b", "F32", "[2]", 0, 8)+"}", 8), ErrDamaged, []string{"overlaps"}},
		"hole":               {st("{"+a+","+entry("b", "F32", "[2]", 12, 20)+"}", 20), ErrDamaged, []string{`"b"`, "hole of 4"}},
		"offset out of file": {st("{"+a+","+entry("b", "F32", "[2]", 8, 16)+"}", 8), ErrDamaged, []string{`"b"`, "ends at byte"}},
		"negative offset":    {st("{"+entry("a", "F32", "[2]", -8, 0)+"}", 8), ErrDamaged, []string{`"a"`, "impossible offsets"}},
		"backwards":          {st("{"+entry("a", "F32", "[2]", 8, 0)+"}", 8), ErrDamaged, []string{"impossible offsets"}},
		"shape too large":    {st("{"+entry("a", "F32", "[3]", 0, 8)+"}", 8), ErrDamaged, []string{`"a"`, "[3] needs 12"}},
		"shape overflows":    {st("{"+entry("a", "F32", "[4294967296,4294967296]", 0, 8)+"}", 8), ErrDamaged, []string{"impossible shape"}},
		"shape negative":     {st("{"+entry("a", "F32", "[-1,-2]", 0, 8)+"}", 8), ErrDamaged, []string{"impossible shape"}},
		"no shape":           {st(`{"a":{"dtype":"F32","data_offsets":[0,8]}}`, 8), ErrDamaged, []string{"lacks its shape"}},
		"one offset":         {st(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}}`, 8), ErrDamaged, []string{"lacks"}},
		"unknown type":       {st("{"+entry("a", "F4", "[16]", 0, 8)+"}", 8), ErrUnsupported, []string{`"a"`, `"F4"`}},
		"a name twice":       {st("{"+a+","+entry("a", "F32", "[2]", 8, 16)+"}", 16), ErrDamaged, []string{`"a"`, "twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.safetensors")
			if err := os.WriteFile(path, c.file, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path, Options{})
			wants(t, err, c.kind, append(c.says, path)...)
		})
	}
}

// FuzzHeader: what is accepted lies inside the file, alone, and has the bytes that its type and shape need.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\x7f{}")) // a header longer than any memory
	f.Add(st(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[],"data_offsets":[8,9]}}`, 9))
	f.Fuzz(func(t *testing.T, file []byte) {
		entries, err := readHeader(file)
		if err != nil && entries != nil {
			t.Fatalf("%d tensors of a refused file", len(entries))
		}
		names, covered := map[string]bool{}, int64(0)
		for _, x := range entries {
			n := x.dtype.Size()
			for _, s := range x.shape {
				n *= s
			}
			if names[x.name] || x.begin < 8 || x.end < x.begin || x.end > int64(len(file)) || x.end-x.begin != n {
				t.Errorf("%q: bytes %d to %d of %v %v accepted in a file of %d", x.name, x.begin, x.end, x.dtype, x.shape, len(file))
			}
			names[x.name] = true
			covered += n
		}
		if err == nil && covered != int64(len(file))-8-int64(binary.LittleEndian.Uint64(file)) {
			t.Errorf("%d bytes of data are somebody's, in a file of %d", covered, len(file))
		}
	})
}
