package ckpt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// same fails unless both checkpoints have the same tensors, bit for bit.
func same(t *testing.T, a, b *Checkpoint) {
	t.Helper()
	if fmt.Sprint(a.Names()) != fmt.Sprint(b.Names()) {
		t.Fatalf("%d tensors in %s, %d in %s", len(a.Names()), a.Path, len(b.Names()), b.Path)
	}
	for _, name := range b.Names() {
		x, _ := a.Tensor(name)
		y, _ := b.Tensor(name)
		if x.DType != y.DType || fmt.Sprint(x.Shape) != fmt.Sprint(y.Shape) || !bytes.Equal(content(t, x), content(t, y)) {
			t.Errorf("%s differs: %v %v, %v %v", name, x.DType, x.Shape, y.DType, y.Shape)
		}
	}
}

// TestConvertInShards: PyTorch's files, single and sharded, become safetensors in as many files as the most bytes of one
// ask for, with what lies beside the weights.
func TestConvertInShards(t *testing.T) {
	for _, most := range []int64{0, 40_000, 1} {
		dir, _ := shard(t, "llama", true)
		write(t, filepath.Join(dir, "tokenizer.json"), `{"some": "tokenizer"}`)
		write(t, filepath.Join(dir, "training_args.bin"), "no business of the model's")
		from, to := open(t, dir), filepath.Join(t.TempDir(), "a", "b")
		if err := Convert(t.Context(), from, to, ConvertOptions{Shard: most}); err != nil {
			t.Fatal(err)
		}
		c := open(t, to)
		same(t, c, from)
		files := len(c.Files())
		if want := map[int64]int{0: 1, 1: len(from.Names())}[most]; want != 0 && files != want || want == 0 && (files < 3 || files > 8) {
			t.Errorf("%d files of at most %d bytes", files, most)
		}
		for _, f := range c.Files() {
			if filepath.Ext(f.Name) != ".safetensors" || most == 40_000 && f.Size > most+5000 {
				t.Errorf("%s of %d bytes", f.Name, f.Size)
			}
		}
		if b, err := os.ReadFile(filepath.Join(to, "tokenizer.json")); err != nil || string(b) != `{"some": "tokenizer"}` {
			t.Errorf("the tokenizer: %s (%v)", b, err)
		}
		if _, err := os.Stat(filepath.Join(to, "training_args.bin")); err == nil {
			t.Error("what is no part of a model came along")
		}
		if a, b := fmt.Sprint(from.Config().Values), fmt.Sprint(c.Config().Values); a != b {
			t.Errorf("the config changed: %s, %s", a, b)
		}
	}
}

// TestConvertKeepsFacts: of DeepSpeed and Megatron all facts stay, but for the slices of which there are none any more.
func TestConvertKeepsFacts(t *testing.T) {
	for _, golden := range []string{"ds-moe-hoisted", "ds-moe-old-files", "megatron-pp2", "megatron-v0-mp2"} {
		from, to := open(t, filepath.Join(goldens, golden)), filepath.Join(t.TempDir(), "out")
		if err := Convert(t.Context(), from, to, ConvertOptions{}); err != nil {
			t.Fatal(err)
		}
		c := open(t, to)
		same(t, c, from)
		want := from.Config().Values
		want["tensor_model_parallel_size"] = 1.0
		if a, b := fmt.Sprint(want), fmt.Sprint(c.Config().Values); a != b || c.Format != Canonical {
			t.Errorf("%s: %s: the facts changed:\n%s\n%s", golden, c.Format, a, b)
		}
		b, err := os.ReadFile(filepath.Join(to, factsFile))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, factsFile), strings.Replace(string(b), `[heads, 3, head_dim]`, `[3, heads, head_dim]`, 1))
		_, err = Open(to, Options{})
		wants(t, err, ErrMismatch, "qkv_order", "convert the checkpoint anew")
		write(t, filepath.Join(to, factsFile), strings.Replace(string(b), `"num_layers": 4`, `"num_layers": 5`, 1))
		_, err = Open(to, Options{})
		wants(t, err, ErrMismatch, "num_layers is 5")
	}
}

// TestNothingIsOverwritten and nothing half-made looks whole: a folder that is there stays, an interrupted one is none.
func TestNothingIsOverwritten(t *testing.T) {
	from := open(t, filepath.Join(goldens, "llama"))
	to := filepath.Join(t.TempDir(), "out")
	wants(t, Convert(t.Context(), from, filepath.Join(goldens, "llama"), ConvertOptions{}), ErrExists, "nothing is overwritten")
	wants(t, Convert(t.Context(), from, filepath.Join(goldens, "llama", "config.json"), ConvertOptions{}), ErrExists, "nothing is overwritten")

	err := Convert(&countdown{t.Context(), len(from.Names()) / 2}, from, to, ConvertOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	left, _ := filepath.Glob(filepath.Dir(to) + "/*")
	if len(left) > 0 {
		t.Errorf("an interrupted command leaves %v", left)
	}

	f, err := CreateFolder(to, 0) // as of one that was killed when the weights were there
	if err != nil {
		t.Fatal(err)
	}
	var outputs []Output
	for _, name := range from.Names() {
		outputs = append(outputs, Output{Tensor: from.tensors[name]})
	}
	if err := f.weights(t.Context(), outputs, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("there before it was whole")
	}
	_, err = Open(to+partial, Options{})
	wants(t, err, ErrDamaged, "config.json")
	wants(t, Convert(t.Context(), from, to, ConvertOptions{}), ErrExists, "interrupted", to+partial)
	f.Discard()
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Convert(t.Context(), from, to, ConvertOptions{}); err != nil { // an empty folder is no loss
		t.Fatal(err)
	}
	same(t, open(t, to), from)
}

// countdown is a context that ends when it has been asked so often.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestNarrowing rounds to the nearest number, of two the even one, and refuses what the type has no number for.
func TestNarrowing(t *testing.T) {
	for _, c := range []struct {
		to   DType
		from float64
		bits uint16
	}{
		{BF16, 1, 0x3f80}, {BF16, 1.00390625, 0x3f80}, {BF16, 1.01171875, 0x3f82}, {BF16, -1e-45, 0x8000}, {BF16, math.Inf(1), 0x7f80},
		{F16, 1, 0x3c00}, {F16, 1 + 1.0/2048, 0x3c00}, {F16, 1 + 3.0/2048, 0x3c02}, {F16, 65504, 0x7bff}, {F16, 65519, 0x7bff},
		{F16, math.Ldexp(1, -24), 1}, {F16, math.Ldexp(1, -25), 0}, {F16, math.Ldexp(3, -25), 2}, {F16, -math.Ldexp(1023.5, -24), 0x8400}, {F16, math.Inf(-1), 0xfc00},
	} {
		x, err := NewTensor("x", F32, []int64{1}, binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(c.from))))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Output{Tensor: x, As: c.to}.convert(content(t, x))
		if err != nil || binary.LittleEndian.Uint16(b) != c.bits {
			t.Errorf("%g as %v: %x (%v), want %04x", c.from, c.to, b, err, c.bits)
		}
	}
	for _, c := range []struct {
		from, to DType
		v        float64
	}{{F32, F16, 65520}, {F32, BF16, math.MaxFloat32}, {F64, F32, 1e39}, {F64, F16, 1e300}} {
		b := binary.LittleEndian.AppendUint64(nil, math.Float64bits(c.v))
		if c.from == F32 {
			b = binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(c.v)))
		}
		x, err := NewTensor("x", c.from, []int64{1}, b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Output{Tensor: x, As: c.to}.convert(b)
		wants(t, err, ErrUnsupported, `"x"`, c.to.String(), "wider")
	}
	for h := range 1 << 16 { // every half and bfloat16 comes back as it was
		for _, d := range []DType{F16, BF16} {
			b := binary.LittleEndian.AppendUint16(nil, uint16(h))
			v := floats(d, b)[0]
			if back := map[DType]uint16{F16: floatToHalf(v), BF16: floatToBF16(v)}[d]; !math.IsNaN(float64(v)) && back != uint16(h) {
				t.Fatalf("%v %04x comes back as %04x", d, h, back)
			}
		}
	}
}

// TestPartsAreSmall: a tensor of any cut passes in parts that do not grow with it, and that make it up.
func TestPartsAreSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	random := make([]byte, 40<<20)
	for i := range random {
		random[i] = byte(r.Uint32() >> 9)
	}
	columns := func(p ...piece) Tensor {
		return Tensor{Name: "x", DType: U8, Shape: []int64{4000, 10000}, src: laid{1, p}}
	}
	m := &mapping{path: "memory", data: random}
	for name, x := range map[string]Tensor{
		"flat":    {Name: "x", DType: F32, Shape: []int64{10 << 20}, src: laid{0, []piece{{m, 0, []int64{10 << 20}, []int64{1}}}}},
		"rows":    {Name: "x", DType: U8, Shape: []int64{3, 13 << 20}, src: laid{0, []piece{{m, 1, []int64{3, 13 << 20}, []int64{13 << 20, 1}}}}},
		"stacked": {Name: "x", DType: BF16, Shape: []int64{2, 3, 3 << 20}, src: laid{0, []piece{{m, 2, []int64{2, 3, 3 << 20}, []int64{9 << 20, 3 << 20, 1}}}}},
		"columns": columns(piece{m, 0, []int64{4000, 4000}, []int64{4000, 1}}, piece{m, 16_000_000, []int64{4000, 6000}, []int64{1, 4000}}),
		"nothing": {Name: "x", DType: F32, Shape: []int64{0, 1 << 40}, src: laid{0, []piece{{m, 0, []int64{0, 1 << 40}, []int64{1 << 40, 1}}}}},
	} {
		var all []byte
		err := x.Parts(t.Context(), func(b []byte) error {
			if len(b) > partBytes {
				t.Errorf("%s: a part of %d bytes", name, len(b))
			}
			all = append(all, b...)
			return nil
		})
		if err != nil || !bytes.Equal(all, content(t, x)) {
			t.Errorf("%s: %d bytes, want %d (%v)", name, len(all), x.Size(), err)
		}
	}
}

// TestForeignSavedFolders: an index whose files do not fit is refused, and none may lead out of the folder.
func TestForeignSavedFolders(t *testing.T) {
	piece := func(name string, d DType, shape ...int64) Tensor { return zeros(t, name, d, shape...) }
	for name, c := range map[string]struct {
		index savedIndex
		one   Tensor
		two   Tensor
		kind  error
		says  []string
	}{
		"out of the folder": {savedIndex{TPSize: 1, Checkpoints: SavedFiles{Ranks: []string{"../one.safetensors"}}}, piece("a", F32, 1), piece("a", F32, 1), ErrDamaged, []string{"outside its folder"}},
		"too few":           {savedIndex{TPSize: 2, Checkpoints: SavedFiles{Ranks: []string{"one.safetensors"}}}, piece("a", F32, 1), piece("a", F32, 1), ErrMismatch, []string{"tp_size is 2"}},
		"a name twice":      {savedIndex{}, piece("a", F32, 1), piece("a", F32, 1), ErrDamaged, []string{`"a"`, "another file"}},
		"another type":      {savedIndex{}, piece("a[0:0:1]", F32, 1), piece("a[0:1:2]", BF16, 1), ErrMismatch, []string{`"a"`, "do not fit"}},
		"another axis":      {savedIndex{}, piece("a[0:0:1]", F32, 1, 1), piece("a[1:1:2]", F32, 1, 1), ErrMismatch, []string{`"a"`, "do not fit"}},
		"another width":     {savedIndex{}, piece("a[0:0:1]", F32, 1, 4), piece("a[0:1:2]", F32, 1, 5), ErrMismatch, []string{`"a"`, "do not fit"}},
		"a hole":            {savedIndex{}, piece("a[0:0:1]", F32, 1), piece("a[0:2:3]", F32, 1), ErrMismatch, []string{`"a"`, "begins at 2"}},
		"an overlap":        {savedIndex{}, piece("a[0:0:2]", F32, 2), piece("a[0:1:3]", F32, 2), ErrMismatch, []string{`"a"`, "begins at 1"}},
		"a lie":             {savedIndex{}, piece("a[0:0:2]", F32, 1), piece("b", F32, 2), ErrDamaged, []string{"not what its name says"}},
		"an impossible one": {savedIndex{}, piece("a[7:0:2]", F32, 2), piece("b", F32, 2), ErrDamaged, []string{"not what its name says"}},
		"whole and cut":     {savedIndex{}, piece("a[0:0:2]", F32, 2), piece("a", F32, 2), ErrDamaged, []string{"whole and in pieces"}},
		"no facts":          {savedIndex{}, piece("a[0:0:2]", F32, 2), piece("a[0:2:3]", F32, 1), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.index.TPSize == 0 {
				c.index = savedIndex{TPSize: 2, Checkpoints: SavedFiles{Ranks: []string{"one.safetensors", "two.safetensors"}}}
			}
			c.index.Type = savedType
			text, err := json.Marshal(c.index)
			if err == nil {
				err = errors.Join(SaveSafetensors(filepath.Join(dir, "one.safetensors"), []Tensor{c.one}), SaveSafetensors(filepath.Join(dir, "two.safetensors"), []Tensor{c.two}))
			}
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, savedFile), string(text))
			got, err := Open(dir, Options{})
			if c.kind != nil {
				wants(t, err, c.kind, c.says...)
				return
			}
			if err != nil { // what it is of, its names do not tell
				t.Fatal(err)
			}
			if x, _ := got.Tensor("a"); fmt.Sprint(x.Shape) != "[3]" {
				t.Errorf("joined to %v", x.Shape)
			}
			_ = got.Close()
		})
	}
}
