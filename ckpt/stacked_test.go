package ckpt

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of the layer below.
const stackedExperts, stackedHidden, stackedFFN = 3, 96, 64

func random(n int, of *rand.Rand) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(of.Uint32())
	}
	return b
}

func newTensor(t *testing.T, name string, d DType, data []byte, shape ...int64) Tensor {
	t.Helper()
	x, err := NewTensor("model.layers.0.mlp.experts."+name, d, shape, data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// openStacked writes tensors and a config as a Hugging Face folder, and opens it.
func openStacked(t *testing.T, quantization string, tensors ...Tensor) *Checkpoint {
	t.Helper()
	dir := t.TempDir()
	if err := SaveSafetensors(filepath.Join(dir, "model.safetensors"), tensors); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), `{"model_type": "gpt_oss", "torch_dtype": "bfloat16"`+quantization+`}`)
	return open(t, dir)
}

// compare holds all of a tensor, and parts of it along either axis, against numbers [shape].
func compareNumbers(t *testing.T, c *Checkpoint, name string, shape []int64, want func(i, j int64) float32) {
	t.Helper()
	x, ok := c.Tensor("model.layers.0.mlp.experts." + name)
	if !ok || fmt.Sprint(x.Shape) != fmt.Sprint(shape) {
		t.Fatalf("%s: %v, %t; want %v", name, x.Shape, ok, shape)
	}
	for _, w := range [][4]int64{{0, shape[0], 0, shape[1]}, {5, 9, 0, shape[1]}, {0, shape[0], 31, 33}, {1, shape[0], 33, shape[1] - 1}, {7, 8, 32, 64}, {4, 4, 0, 1}} {
		part, err := x.Slice(1, w[2], w[3])
		if err == nil {
			part, err = part.Slice(0, w[0], w[1])
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := part.Floats()
		if err != nil || int64(len(got)) != (w[1]-w[0])*(w[3]-w[2]) {
			t.Fatalf("%s %v: %d numbers (%v)", name, w, len(got), err)
		}
		for k, v := range got {
			i, j := w[0]+int64(k)/(w[3]-w[2]), w[2]+int64(k)%(w[3]-w[2])
			if math.Float32bits(v) != math.Float32bits(want(i, j)) {
				t.Fatalf("%s %v: %g at %d, %d; want %g", name, w, v, i, j, want(i, j))
			}
		}
	}
}

// TestStackedExperts: each expert's parts of the tensors of a layer, gate's outputs being the even ones.
func TestStackedExperts(t *testing.T) {
	const e, hidden, ffn = stackedExperts, stackedHidden, stackedFFN
	of := rand.New(rand.NewPCG(1, 2))
	for _, d := range []DType{F32, BF16} {
		size := d.Size()
		finite := func(n int64) []byte { // NaNs have many forms
			b := random(int(n*size), of)
			for i := size - 1; i < int64(len(b)); i += size {
				b[i] &= 0xbf
			}
			return b
		}
		up, down, upBias, downBias := finite(e*hidden*2*ffn), finite(e*ffn*hidden), finite(e*2*ffn), finite(e*hidden)
		c := openStacked(t, "",
			newTensor(t, "gate_up_proj", d, up, e, hidden, 2*ffn), newTensor(t, "gate_up_proj_bias", d, upBias, e, 2*ffn),
			newTensor(t, "down_proj", d, down, e, ffn, hidden), newTensor(t, "down_proj_bias", d, downBias, e, hidden))
		if len(c.Names()) != 6*e {
			t.Fatalf("%v: %q", d, c.Names())
		}
		for x := range int64(e) {
			for odd, part := range []string{"gate", "up"} {
				compareNumbers(t, c, fmt.Sprintf("%d.%s_proj.weight", x, part), []int64{ffn, hidden}, func(i, j int64) float32 {
					return floats(d, up[((x*hidden+j)*2*ffn+2*i+int64(odd))*size:][:size])[0]
				})
				bias, _ := c.Tensor(fmt.Sprintf("model.layers.0.mlp.experts.%d.%s_proj.bias", x, part))
				got, err := bias.Floats()
				if err != nil || len(got) != ffn {
					t.Fatalf("%d biases of %s: %v", len(got), part, err)
				}
				for i, v := range got {
					if want := floats(d, upBias[(x*2*ffn+int64(2*i+odd))*size:][:size])[0]; v != want {
						t.Fatalf("bias %d of expert %d's %s: %g, want %g", i, x, part, v, want)
					}
				}
			}
			compareNumbers(t, c, fmt.Sprintf("%d.down_proj.weight", x), []int64{hidden, ffn}, func(i, j int64) float32 {
				return floats(d, down[((x*ffn+j)*hidden+i)*size:][:size])[0]
			})
		}
	}
}

// fp4 is a number of 4 bits by its fields, and e8m0 a scale.
func fp4(code byte) float64 {
	sign, exponent, fraction := float64(1), int(code>>1&3), float64(code&1)
	if code >= 8 {
		sign = -1
	}
	if exponent == 0 {
		return sign * fraction / 2
	}
	return sign * (1 + fraction/2) * float64(int(1)<<(exponent-1))
}

func e8m0(scale byte) float64 { return math.Pow(2, float64(scale)-127) }

// TestMXFP4: blocks and scales of all kinds, as the numbers that they stand for.
func TestMXFP4(t *testing.T) {
	const e, hidden, ffn = stackedExperts, stackedHidden, stackedFFN
	of := rand.New(rand.NewPCG(3, 4))
	up, down := random(e*2*ffn*hidden/2, of), random(e*hidden*ffn/2, of)
	upScales, downScales := random(e*2*ffn*hidden/32, of), random(e*hidden*ffn/32, of)
	for _, scales := range [][]byte{upScales, downScales} {
		for i := range scales {
			scales[i] %= 253 // beyond which numbers are infinite; below, those under 2⁻¹²⁶ are subnormal
		}
	}
	tensors := []Tensor{
		newTensor(t, "gate_up_proj_blocks", U8, up, e, 2*ffn, hidden/32, 16), newTensor(t, "gate_up_proj_scales", U8, upScales, e, 2*ffn, hidden/32),
		newTensor(t, "down_proj_blocks", U8, down, e, hidden, ffn/32, 16), newTensor(t, "down_proj_scales", U8, downScales, e, hidden, ffn/32),
	}
	c := openStacked(t, `, "quantization_config": {"quant_method": "mxfp4"}`, tensors...)
	number := func(blocks, scales []byte, row, col, cols int64) float32 {
		code := blocks[(row*cols+col)/2] >> (4 * (col % 2)) & 15
		return float32(fp4(code) * e8m0(scales[(row*cols+col)/32]))
	}
	check := func(c *Checkpoint) {
		t.Helper()
		for x := range int64(e) {
			for odd, part := range []string{"gate", "up"} {
				compareNumbers(t, c, fmt.Sprintf("%d.%s_proj.weight", x, part), []int64{ffn, hidden}, func(i, j int64) float32 {
					return number(up, upScales, x*2*ffn+2*i+int64(odd), j, hidden)
				})
			}
			compareNumbers(t, c, fmt.Sprintf("%d.down_proj.weight", x), []int64{hidden, ffn}, func(i, j int64) float32 {
				return number(down, downScales, x*hidden+i, j, ffn)
			})
		}
	}
	check(c)
	r, err := Inspect(c)
	if err != nil || len(r.DTypes) != 1 || r.DTypes[0].DType.String() != "MXFP4" || r.DTypes[0].Bytes != int64(len(up)+len(down)+len(upScales)+len(downScales)) ||
		r.Parameters != e*3*hidden*ffn || r.Experts() != "3" {
		t.Errorf("inspected: %+v (%v)", r, err)
	}
	to := filepath.Join(t.TempDir(), "out")
	if err := Convert(t.Context(), c, to, ConvertOptions{}); err != nil {
		t.Fatal(err)
	}
	converted := open(t, to)
	check(converted)
	if x, _ := converted.Tensor("model.layers.0.mlp.experts.1.up_proj.weight"); x.DType != BF16 || converted.Config().Values["quantization_config"] != nil {
		t.Errorf("converted: %v, %v", x.DType, converted.Config().Values)
	}
}

// TestStackedRefusals: tensors that are no stack of experts.
func TestStackedRefusals(t *testing.T) {
	u8 := func(name string, shape ...int64) Tensor {
		n, _ := elements(shape)
		return newTensor(t, name, U8, make([]byte, n), shape...)
	}
	for says, tensors := range map[string][]Tensor{
		"gate_up_proj_scales are missing": {u8("gate_up_proj_blocks", 2, 4, 1, 16)},
		"none for each 32":                {u8("gate_up_proj_blocks", 2, 4, 1, 16), u8("gate_up_proj_scales", 2, 3, 1)},
		"U8 [outputs, inputs/32, 16]":     {u8("down_proj_blocks", 2, 4, 1, 8), u8("down_proj_scales", 2, 4, 1)},
		"[2 4 5], which is not that of":   {u8("gate_up_proj", 2, 4, 5)},
		"[1048576 0 4], which is not":     {u8("gate_up_proj", 1<<20, 0, 4)},
		"[65537 1 2], which is not":       {u8("gate_up_proj", 1<<16+1, 1, 2)},
		"is there by itself":              {u8("down_proj", 2, 4, 4), u8("1.down_proj.weight", 4, 4)},
	} {
		dir := t.TempDir()
		if err := SaveSafetensors(filepath.Join(dir, "model.safetensors"), tensors); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type": "gpt_oss"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}
