package cpu

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/dsbatch/dsbatch/kernels"
)

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		env     string
		want    string
	}{
		"an unknown level":            {Options{Level: "sse9"}, "", `level: instruction set "sse9" is unknown`},
		"an unknown level, by name":   {Options{}, "sse9", `DSBATCH_CPU: instruction set "sse9" is unknown`},
		"the option wins":             {Options{Level: "sse9"}, "reference", `level: instruction set "sse9"`},
		"a number of threads below 0": {Options{Threads: -1}, "", "threads -1"},
	} {
		t.Setenv("DSBATCH_CPU", c.env)
		if d, err := New(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, d, err, c.want)
		}
	}
	t.Setenv("DSBATCH_CPU", "reference")
	d, err := New(Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Arch() != "cpu/reference" || d.Name() != "cpu reference, 2 threads" {
		t.Errorf("%s, %s", d.Arch(), d.Name())
	}
}

func TestMemory(t *testing.T) {
	d := newDevice(t, Auto, 1)
	if free, total := d.Memory(); free <= 0 || free > total {
		t.Errorf("%d bytes free of %d", free, total)
	}
	for _, size := range []int{0, 1, 1000, mapFrom, 3 * hugePage} {
		x, err := d.Alloc("test", kernels.BF16, 1, size/2)
		if err != nil {
			t.Fatal(err)
		}
		b := x.Mem.(kernels.HostMemory).Bytes()
		if len(b) != size/2*2 || int64(len(b)) != x.Mem.Size() {
			t.Errorf("%d bytes became %d", size, len(b))
		}
		if len(b) > 0 && uintptr(unsafe.Pointer(&b[0]))%align != 0 {
			t.Errorf("%d bytes are not aligned", size)
		}
		x.Mem.Free()
	}
	_, err := d.Alloc("KV of a small model", kernels.F32, 1<<20, 1<<36)
	if err == nil || !strings.Contains(err.Error(), "KV of a small model: ") || !strings.Contains(err.Error(), "288230376151711744 bytes") {
		t.Errorf("2⁵⁸ bytes: %v", err)
	}
	for _, shape := range [][2]int{{-1, 2}, {2, -1}, {math.MaxInt / 2, 3}} {
		if x, err := d.Alloc("test", kernels.F32, shape[0], shape[1]); err == nil {
			t.Errorf("%v became %v", shape, x)
		}
	}
}

// TestUpload: in place where type and alignment allow, else as converted.
func TestUpload(t *testing.T) {
	d := newDevice(t, Auto, 1)
	data := make([]byte, 4*6+4)
	for i := range 6 {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(i)+0.5))
	}
	x, err := d.Upload("test", kernels.F32, kernels.Matrix{DType: kernels.F32, Rows: 2, Cols: 3, Data: data[:24]})
	if err != nil || &bytesOf(x, 0)[0] != &data[0] {
		t.Errorf("float32 was copied (%v)", err)
	}
	copy(data[2:], data[:24])
	x, err = d.Upload("test", kernels.F32, kernels.Matrix{DType: kernels.F32, Rows: 2, Cols: 3, Data: data[2:26]})
	if err != nil || &bytesOf(x, 0)[0] == &data[2] || vector[float32](x)[5] != 5.5 {
		t.Errorf("float32 at an odd address: %v, %v", x, err)
	}
	x, err = d.Upload("test", kernels.BF16, kernels.Matrix{DType: kernels.F32, Rows: 2, Cols: 3, Data: data[2:26]})
	if err != nil || x.DType != kernels.BF16 || vector[uint16](x)[5] != 0x40b0 {
		t.Errorf("float32 to bfloat16: %v, %v", x, err)
	}
	for name, m := range map[string]kernels.Matrix{
		"too short": {DType: kernels.F32, Rows: 2, Cols: 4, Data: data[:24]},
		"int8":      {DType: kernels.I8, Rows: 2, Cols: 3, Data: data[:6]},
	} {
		if x, err := d.Upload("test", kernels.F32, m); err == nil {
			t.Errorf("%s: became %v", name, x)
		}
	}
}

func newDevice(t *testing.T, l Level, threads int) *Device {
	t.Helper()
	d, err := New(Options{Level: l.String(), Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() }) // never fails
	return d
}

// TestHalves checks that every 16-bit float widens and comes back, on every level as in Go, and what lies between two of them
// rounds to the nearer one.
func TestHalves(t *testing.T) {
	for _, l := range detect().levels() {
		d := newDevice(t, l, 1)
		for _, h := range []kernels.DType{kernels.BF16, kernels.F16} {
			bits := make([]byte, 2<<16)
			for i := range 1 << 16 {
				binary.LittleEndian.PutUint16(bits[2*i:], uint16(i))
			}
			narrow, err := d.Upload("test", h, kernels.Matrix{DType: h, Rows: 256, Cols: 256, Data: bits})
			if err != nil {
				t.Fatal(err)
			}
			wide, _ := d.Alloc("test", kernels.F32, 256, 256)
			back, _ := d.Alloc("test", h, 256, 256)
			s := &Stream{dev: d}
			s.Copy(wide, narrow)
			s.Copy(back, wide)
			w, b := vector[float32](wide), vector[uint16](back)
			for i := range w {
				want, again := fromBF16(uint16(i)), fromBF16(b[i])
				if h == kernels.F16 {
					want, again = fromF16(uint16(i)), fromF16(b[i])
				}
				if math.Float32bits(w[i]) != math.Float32bits(want) || want == want && int(b[i]) != i || want != want && again == again {
					t.Fatalf("%v, %v: %#x is %v, want %v, and comes back as %#x", l, h, i, w[i], want, b[i])
				}
			}
			for i := range w { // values anywhere
				w[i] = math.Float32frombits(rand.Uint32())
			}
			s.Copy(back, wide)
			for i, x := range w {
				want := toBF16(x)
				if h == kernels.F16 {
					want = toF16(x)
				}
				if x == x && b[i] != want {
					t.Fatalf("%v, %v: %v became %#x, want %#x", l, h, x, b[i], want)
				}
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestThreadsChangeNoBitOfAnyOp runs ops that are large enough to be shared out on 1, 2 and 5 threads.
func TestThreadsChangeNoBitOfAnyOp(t *testing.T) {
	for _, l := range detect().levels() {
		want := opsBits(t, newDevice(t, l, 1))
		for _, threads := range []int{2, 5} {
			for name, got := range opsBits(t, newDevice(t, l, threads)) {
				if !bytes.Equal(got, want[name]) {
					t.Errorf("%v: %s has other bits with %d threads", l, name, threads)
				}
			}
		}
	}
}

// opsBits is the results of ops on always the same numbers.
func opsBits(t *testing.T, d *Device) map[string][]byte {
	const tokens, hidden, heads, dim, experts, choices = 203, 1056, 8, 36, 60, 4
	rng := rand.New(rand.NewPCG(3, 4))
	floats := func(rows, cols int) kernels.Tensor {
		x, err := d.Alloc("test", kernels.F32, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		for i := range vector[float32](x) {
			vector[float32](x)[i] = float32(rng.NormFloat64())
		}
		return x
	}
	ints := func(rows, cols int, f func(int) int) kernels.Tensor {
		x, err := d.Alloc("test", kernels.I32, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		for i := range vector[int32](x) {
			vector[int32](x)[i] = int32(f(i))
		}
		return x
	}
	zero := func(int) int { return 0 }
	count := func(i int) int { return i }
	s := &Stream{dev: d}
	x, y, z := floats(tokens, hidden), floats(tokens, hidden), floats(tokens, hidden)
	s.Norm(y, x, z, kernels.Norm{Weight: floats(1, hidden), Eps: 1e-5})

	const block = 16
	blocks := (tokens + block - 1) / block
	c, err := d.NewCache(kernels.CacheSpec{DType: kernels.BF16, Layers: 1, Blocks: blocks, BlockTokens: block, KVHeads: heads / 2, HeadDim: dim})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Free()
	q, k, a := floats(tokens, heads*dim), floats(tokens, heads/2*dim), floats(tokens, heads*dim)
	cos := floats(tokens, dim/2)
	b := kernels.Batch{Tokens: tokens, Seqs: 1, Position: ints(1, tokens, count), Slot: ints(1, tokens, count), Start: ints(1, 2, func(i int) int { return i * tokens }),
		Blocks: ints(1, blocks, count), MaxContext: tokens}
	s.Store(c, 0, q, k, floats(tokens, heads/2*dim), b, kernels.StoreSpec{Rope: &kernels.Rope{Cos: cos, Sin: cos, Dim: dim},
		QNorm: &kernels.Norm{Groups: heads, Weight: floats(1, dim)}, KNorm: &kernels.Norm{Weight: floats(1, heads/2*dim)}})
	s.Attention(a, q, c, 0, b, kernels.AttentionSpec{Heads: heads, KVHeads: heads / 2, HeadDim: dim, Scale: 0.2, Causal: true})

	r := kernels.Routing{K: choices, Experts: experts, Expert: ints(tokens, choices, zero), Weight: floats(tokens, choices),
		Offsets: ints(1, experts+1, zero), Choices: ints(1, tokens*choices, zero), Place: ints(1, tokens*choices, zero)}
	s.Gate(r, floats(tokens, experts), kernels.Gate{Experts: experts, K: choices, Renormalise: true})
	s.Table(r)
	moe, mix := floats(tokens, hidden), floats(tokens, hidden)
	s.Combine(moe, floats(tokens*choices, hidden), r)
	s.Mix(mix, moe, x, floats(tokens, 2))

	const rows, vocab = 40, 9001
	logits, target := floats(rows, vocab), ints(rows, 1, count)
	logprob, greedy := floats(rows, 1), ints(rows, 1, zero)
	s.Score(logprob, greedy, logits, target, vocab)
	column := func(v float32) kernels.Tensor {
		x := floats(rows, 1)
		for i := range vector[float32](x) {
			vector[float32](x)[i] = v
		}
		return x
	}
	u := floats(rows, 1)
	for i := range vector[float32](u) {
		vector[float32](u)[i] = rng.Float32()
	}
	token, drawn := ints(rows, 1, zero), floats(rows, 1)
	s.Sample(logits, kernels.Sampling{Temperature: column(0.9), TopK: ints(rows, 1, func(i int) int { return i % 2 * 50 }), TopP: column(0.9), MinP: column(0.01),
		Penalty: column(1), U: u, Vocab: vocab, Token: token, Logprob: drawn})
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	bits := map[string][]byte{}
	for name, x := range map[string]kernels.Tensor{"norm": y, "residual": x, "rope": q, "attention": a, "experts": r.Expert, "weights": r.Weight,
		"place": r.Place, "combine": moe, "mix": mix, "score": logprob, "token": token, "logprob": drawn} {
		bits[name] = bytes.Clone(x.Mem.(*memory).data)
	}
	return bits
}
