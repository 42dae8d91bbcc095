package ckpt

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// byDefinition rounds an output's weights to 8 bits, in float64 where that makes no difference.
func byDefinition(w []float32) (q []int8, scale float32) {
	most := float32(0)
	for _, v := range w {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return make([]int8, len(w)), float32(math.NaN())
		}
		most = max(most, float32(math.Abs(float64(v))))
	}
	q = make([]int8, len(w))
	if most < 1e-30 {
		return q, 0
	}
	for i, v := range w {
		inverse := 127 / most
		q[i] = int8(math.RoundToEven(float64(v * inverse)))
	}
	return q, most / 127
}

// TestQuantize against the definition, weights [out, in] and [in, out], among them outputs of zeros, of infinities, of
// denormals, and rows longer than what is in memory at a time.
func TestQuantize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		out, in int64
		axis    int
	}{{7, 33, 0}, {7, 33, 1}, {1, 1, 0}, {3, 3 << 20, 0}, {5, 1, 1}, {700, 5000, 1}} {
		w := make([][]float32, c.out)
		for o := range w {
			w[o] = make([]float32, c.in)
			for i := range w[o] {
				w[o][i] = float32(r.NormFloat64())
				switch {
				case o == 1:
					w[o][i] = 0
				case o == 2:
					w[o][i] = math.Float32frombits(r.Uint32N(1000))
				case o == 4 && i == 0:
					w[o][i] = float32(math.Inf(-1))
				case o == 5 && i == 0:
					w[o][i] = float32(math.NaN())
				}
			}
		}
		var b []byte
		shape := []int64{c.out, c.in}
		if c.axis == 1 {
			shape = []int64{c.in, c.out}
		}
		for i := range shape[0] {
			for j := range shape[1] {
				o, k := i, j
				if c.axis == 1 {
					o, k = j, i
				}
				v := w[o][k]
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
			}
		}
		x, err := NewTensor("a.weight", F32, shape, b)
		if err != nil {
			t.Fatal(err)
		}
		norm, err := NewTensor("norm.weight", F32, []int64{2}, make([]byte, 8))
		if err != nil {
			t.Fatal(err)
		}
		from, to := t.TempDir(), filepath.Join(t.TempDir(), "out")
		write(t, filepath.Join(from, "config.json"), `{"torch_dtype": "float32"}`)
		if err := SaveSafetensors(filepath.Join(from, "model.safetensors"), []Tensor{x, norm}); err != nil {
			t.Fatal(err)
		}
		if err := Quantize(t.Context(), open(t, from), to, func(name string) bool { return name == "a.weight" }, c.axis); err != nil {
			t.Fatal(err)
		}
		stored, back := open(t, filepath.Join(to, "model.safetensors")), open(t, to)
		if fmt.Sprint(back.Names()) != "[a.weight norm.weight]" || fmt.Sprint(stored.Names()) != "[a.weight a.weight_scale norm.weight]" {
			t.Fatalf("%v stored, %v read", stored.Names(), back.Names())
		}
		q, _ := stored.Tensor("a.weight")
		numbers := content(t, q)
		s, _ := stored.Tensor("a.weight_scale")
		scales, err := s.Floats()
		if err != nil {
			t.Fatal(err)
		}
		y, _ := back.Tensor("a.weight")
		read, err := y.Floats()
		if err != nil || !y.Quantized() {
			t.Fatalf("%v %v (%v)", y.DType, y.Shape, err)
		}
		for o := range w {
			want, scale := byDefinition(w[o])
			if math.Float32bits(scale) != math.Float32bits(scales[o]) && !math.IsNaN(float64(scale)) {
				t.Fatalf("%v, output %d: scale %g, want %g", c, o, scales[o], scale)
			}
			for i := range want {
				at := int64(o)*c.in + int64(i)
				if c.axis == 1 {
					at = int64(i)*c.out + int64(o)
				}
				v := float32(want[i]) * scale
				if int8(numbers[at]) != want[i] || read[at] != v && !(math.IsNaN(float64(v)) && math.IsNaN(float64(read[at]))) {
					t.Fatalf("%v, output %d, input %d: %d (%g), want %d (%g)", c, o, i, int8(numbers[at]), read[at], want[i], v)
				}
			}
		}
	}
}

// TestScalesComeBack: packed in 8 bits again, a quantized output has the scale and the numbers that it had: for every scale that
// is not too small, since multiplying by a power of two changes no digit.
func TestScalesComeBack(t *testing.T) {
	for bits := math.Float32bits(1); bits < math.Float32bits(2); bits += 97 {
		scale := math.Float32frombits(bits) / 127
		again := 127 * scale
		if again/127 != scale {
			t.Fatalf("the scale %g comes back as %g", scale, again/127)
		}
		inverse := 127 / again
		for q := float32(-127); q <= 127; q++ {
			if v := q * scale; math.RoundToEven(float64(v*inverse)) != float64(q) {
				t.Fatalf("%g of scale %g comes back as %g", q, scale, v*inverse)
			}
		}
	}
}

// TestDamagedQuantized: numbers without scales, scales of another width, facts of another kind.
func TestDamagedQuantized(t *testing.T) {
	number := func(name string, d DType, shape ...int64) Tensor { return zeros(t, name, d, shape...) }
	for name, c := range map[string]struct {
		facts   string
		tensors []Tensor
		says    string
	}{
		"no scales":      {`"axis": 0`, []Tensor{number("a", I8, 2, 3)}, "missing"},
		"too few":        {`"axis": 1`, []Tensor{number("a", I8, 2, 3), number("a_scale", F32, 2)}, "each output"},
		"in 16 bits":     {`"axis": 0`, []Tensor{number("a", I8, 2, 3), number("a_scale", BF16, 2)}, "each output"},
		"three axes":     {`"axis": 0`, []Tensor{number("a", I8, 2, 3, 4), number("a_scale", F32, 2)}, "each output"},
		"one axis":       {`"axis": 0`, []Tensor{number("a", I8, 2), number("a_scale", F32, 2)}, "each output"},
		"no axis":        {`"axis": 2`, []Tensor{number("a", I8, 2, 3), number("a_scale", F32, 2)}, "quantize the model anew"},
		"whole":          {`"axis": 0`, []Tensor{number("a", I8, 2, 3), number("a_scale", F32, 2)}, ""},
		"with nothing":   {`"axis": 0`, []Tensor{number("a", I8, 2, 0), number("a_scale", F32, 2)}, ""},
		"transposed, ok": {`"axis": 1`, []Tensor{number("a", I8, 2, 3), number("a_scale", F32, 3)}, ""},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "config.json"), `{"quantization_config": {"quant_method": "dsbatch", "bits": 8, `+c.facts+`}}`)
		if err := SaveSafetensors(filepath.Join(dir, "model.safetensors"), c.tensors); err != nil {
			t.Fatal(err)
		}
		got, err := Open(dir, Options{})
		switch {
		case c.says == "" && err == nil:
			x, _ := got.Tensor("a")
			if b, err := x.Bytes(); err != nil || int64(len(b)) != x.Size() {
				t.Errorf("%s: %d bytes (%v)", name, len(b), err)
			}
			_ = got.Close()
		case err == nil || !strings.Contains(err.Error(), c.says) || c.says == "":
			t.Errorf("%s: %v does not say %q", name, err, c.says)
		}
	}
}
