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

// byBits is an FP8 number of 4 bits of exponent and 3 of fraction, from its bits.
func byBits(b byte) float64 {
	sign, exponent, fraction := 1.0, int(b>>3&15), float64(b&7)
	if b >= 128 {
		sign = -1
	}
	switch {
	case exponent == 15 && fraction == 7:
		return math.NaN()
	case exponent == 0:
		return sign * fraction * 0x1p-9
	}
	return sign * (8 + fraction) * math.Pow(2, float64(exponent)-10)
}

// TestFP8 reads numbers of all 256 kinds in blocks, whole and in parts that begin and end anywhere, against the definition.
func TestFP8(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct{ rows, cols, down, across int64 }{{1, 1, 128, 128}, {256, 256, 128, 128}, {300, 129, 128, 128}, {7, 33, 3, 5}, {5, 1, 2, 1}, {0, 3, 2, 2}} {
		numbers := make([]byte, c.rows*c.cols)
		for i := range numbers {
			numbers[i] = byte(i + i/256)
		}
		high, wide := (c.rows+c.down-1)/c.down, (c.cols+c.across-1)/c.across
		scales := make([]float32, high*wide)
		var data []byte
		for i := range scales {
			scales[i] = float32(r.NormFloat64())
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(scales[i]))
		}
		values, err := NewTensor("a.weight", F8E4M3, []int64{c.rows, c.cols}, numbers)
		if err != nil {
			t.Fatal(err)
		}
		beside, err := NewTensor("a.weight_scale_inv", F32, []int64{high, wide}, data)
		if err != nil {
			t.Fatal(err)
		}
		norm := zeros(t, "norm.weight", BF16, 2)
		dir := t.TempDir()
		write(t, filepath.Join(dir, "config.json"), fmt.Sprintf(`{"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [%d, %d]}}`, c.down, c.across))
		if err := SaveSafetensors(filepath.Join(dir, "model.safetensors"), []Tensor{values, beside, norm}); err != nil {
			t.Fatal(err)
		}
		x := open(t, dir)
		if fmt.Sprint(x.Names()) != "[a.weight norm.weight]" {
			t.Fatalf("%v", x.Names())
		}
		all, _ := x.Tensor("a.weight")
		if !all.Quantized() || all.DType != F32 || all.Size() != 4*c.rows*c.cols {
			t.Fatalf("%v %v, %d bytes", all.DType, all.Shape, all.Size())
		}
		for range 40 {
			part, at := all, [2]int64{}
			for range r.IntN(3) { // parts of parts
				for axis := range at {
					from := r.Int64N(part.Shape[axis] + 1)
					to := from + r.Int64N(part.Shape[axis]-from+1)
					if part, err = part.Slice(axis, from, to); err != nil {
						t.Fatal(err)
					}
					at[axis] += from
				}
			}
			got, err := part.Floats()
			if err != nil || int64(len(got)) != part.Elements() {
				t.Fatalf("%v at %v: %d numbers (%v)", part.Shape, at, len(got), err)
			}
			for i, v := range got {
				row, col := at[0]+int64(i)/part.Shape[1], at[1]+int64(i)%part.Shape[1]
				want := float32(byBits(numbers[row*c.cols+col]) * float64(scales[row/c.down*wide+col/c.across]))
				if v != want && !(math.IsNaN(float64(v)) && math.IsNaN(float64(want))) {
					t.Fatalf("%+v, row %d, column %d: %g, want %g", c, row, col, v, want)
				}
			}
		}
	}
}

// TestDamagedFP8: numbers without scales or with others than blocks have, facts of another kind.
func TestDamagedFP8(t *testing.T) {
	const blocks = `"fmt": "e4m3", "weight_block_size": [2, 2]`
	for name, c := range map[string]struct {
		facts  string
		scales []Tensor
		says   string
	}{
		"no scales":      {blocks, nil, "missing"},
		"too few":        {blocks, []Tensor{zeros(t, "a_scale_inv", F32, 1, 2)}, "each block"},
		"too many":       {blocks, []Tensor{zeros(t, "a_scale_inv", F32, 2, 3)}, "each block"},
		"in 16 bits":     {blocks, []Tensor{zeros(t, "a_scale_inv", BF16, 2, 2)}, "each block"},
		"another format": {`"fmt": "e5m2", "weight_block_size": [2, 2]`, []Tensor{zeros(t, "a_scale_inv", F32, 2, 2)}, "e5m2"},
		"no block size":  {`"fmt": "e4m3"`, []Tensor{zeros(t, "a_scale_inv", F32, 2, 2)}, "weight_block_size"},
		"blocks of rows": {`"weight_block_size": [2]`, []Tensor{zeros(t, "a_scale_inv", F32, 2, 2)}, "weight_block_size"},
		"blocks of none": {`"weight_block_size": [2, 0]`, []Tensor{zeros(t, "a_scale_inv", F32, 2, 2)}, "weight_block_size"},
		"whole":          {blocks, []Tensor{zeros(t, "a_scale_inv", F32, 2, 2)}, ""},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "config.json"), `{"quantization_config": {"quant_method": "fp8", `+c.facts+`}}`)
		if err := SaveSafetensors(filepath.Join(dir, "model.safetensors"), append(c.scales, zeros(t, "a", F8E4M3, 3, 4))); err != nil {
			t.Fatal(err)
		}
		got, err := Open(dir, Options{})
		switch {
		case c.says == "" && err == nil:
			_ = got.Close()
		case err == nil || c.says == "" || !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %v does not say %q", name, err, c.says)
		}
	}
}
