package model_test

import (
	"encoding/binary"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/model"
)

// goldenInMXFP4 is gpt-oss's golden with each weight of its experts the nearest that 4 bits and the scale of its 32 inputs give.
func goldenInMXFP4(c map[string]any, x tensors) {
	c["quantization_config"] = map[string]any{"quant_method": "mxfp4"}
	for name, y := range x {
		if !strings.HasSuffix(name, "gate_up_proj") && !strings.HasSuffix(name, "down_proj") {
			continue
		}
		experts, in, out := int(y.Shape[0]), int(y.Shape[1]), int(y.Shape[2])
		blocks, scales := make([]byte, experts*out*in/2), make([]byte, experts*out*in/32)
		weight := func(e, o, i int) float64 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(y.data[4*((e*in+i)*out+o):])))
		}
		for e := range experts {
			for o := range out {
				for i := range in {
					most := 0.0
					for j := range 32 {
						most = max(most, math.Abs(weight(e, o, i/32*32+j)))
					}
					exponent := math.Ceil(math.Log2(max(most, 1e-9) / 6))
					at, best := (e*out+o)*in+i, 0
					for code := range 16 {
						if off := func(c int) float64 { return math.Abs(fp4Numbers[c]*math.Pow(2, exponent) - weight(e, o, i)) }; off(code) < off(best) {
							best = code
						}
					}
					blocks[at/2] |= byte(best) << (at % 2 * 4)
					scales[at/32] = byte(127 + int(exponent))
				}
			}
		}
		delete(x, name)
		n, groups := int64(experts), int64(in/32)
		x[name+"_blocks"] = tensor{DType: "U8", Shape: []int64{n, int64(out), groups, 16}, data: blocks}
		x[name+"_scales"] = tensor{DType: "U8", Shape: []int64{n, int64(out), groups}, data: scales}
	}
}

var fp4Numbers = [16]float64{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// TestMXFP4AsStored: on every instruction set, and on a GPU where there is one, gpt-oss's golden computed with experts as they are
// stored gives the bits that it gives with experts widened to bfloat16, which take three times as much. A scale that cannot be
// computed with has its experts widened, and is told of.
func TestMXFP4AsStored(t *testing.T) {
	devices := map[string]func() (kernels.Device, error){}
	for _, l := range cpu.Levels() {
		devices[l.String()] = func() (kernels.Device, error) { return cpu.New(cpu.Options{Level: l.String()}) }
	}
	if os.Getenv("DSBATCH_TEST_DEVICE") != "" {
		devices = map[string]func() (kernels.Device, error){"gpu": openDevice}
	}
	stored := edited(t, "gpt_oss", "config.json", goldenInMXFP4)
	odd := edited(t, "gpt_oss", "config.json", func(c map[string]any, x tensors) {
		goldenInMXFP4(c, x)
		y := x["model.layers.0.mlp.experts.down_proj_scales"]
		for i := range 8 {
			y.data[9*i] = 129
		}
	})
	for name, device := range devices {
		t.Run(name, func(t *testing.T) {
			for form, dir := range map[string]string{"all": stored, "an odd scale": odd} {
				var bits [2]result
				var bytes [2]int64
				told := 0
				for i, path := range []string{dir, converted(t, dir, 0)} {
					d, err := device()
					check(t, err)
					r, err := openRunner(t, d, path, 64, model.LoadOptions{DType: kernels.BF16, Widened: func(what, why string) {
						if told++; !strings.Contains(what, "layer 0") || !strings.Contains(why, "129") {
							t.Errorf("%s: told of %s because %s", form, what, why)
						}
					}})
					check(t, err)
					bits[i], bytes[i] = r.forward(texts...), r.model.Bytes()
				}
				if !sameBits(bits[0].logits, bits[1].logits) || len(bits[0].logits) == 0 {
					t.Errorf("%s: other bits as they are stored than widened", form)
				}
				if want := map[string]int{"an odd scale": 1}[form]; told != want {
					t.Errorf("%s: told %d times of widened weights, want %d", form, told, want)
				}
				if form == "all" && bytes[0] >= bytes[1] {
					t.Errorf("%d bytes as they are stored, %d widened", bytes[0], bytes[1])
				}
			}
		})
	}
}
