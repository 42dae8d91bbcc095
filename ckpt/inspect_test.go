package ckpt

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestParameters: what the configs of the goldens make by hand.
func TestParameters(t *testing.T) {
	for name, want := range map[string]struct {
		parameters, active int64
		experts            string
		layers             int
	}{
		// mixtral: 2·160·32 + 32 outside; a layer 64 + 8·32 (gate) + 2·32·32 + 2·16·32 (attention) and experts of 3·48·32, 2 of 8
		"mixtral": {2*160*32 + 32 + 2*(64+256+3072+8*4608), 2*160*32 + 32 + 2*(64+256+3072+2*4608), "8, 8", 2},
		// old DeepSpeed: (256+64)·32 + 64 outside; attention and norms 4·32·32+4·32 + 4·32; an MLP 2·64·32 + 64 + 32; gate 4·32
		"ds-moe-old-files": {320*32 + 64 + 4*(4224+128) + 2*4192 + 2*(128+4*4192), 320*32 + 64 + 4*(4224+128) + 2*4192 + 2*(128+2*4192), "4, 4", 4},
		"megatron-pp2":     {320*32 + 64 + 4*(4224+128+4192), 320*32 + 64 + 4*(4224+128+4192), "", 4},
	} {
		r, err := Inspect(open(t, filepath.Join(goldens, name)))
		if err != nil {
			t.Fatal(err)
		}
		if r.Parameters != want.parameters || r.Active != want.active || r.Experts() != want.experts || len(r.Layers) != want.layers {
			t.Errorf("%s: %d parameters, %d active, experts %q, %d layers; want %+v", name, r.Parameters, r.Active, r.Experts(), len(r.Layers), want)
		}
	}
}

// TestParametersOfStackedExperts: gpt-oss has one tensor of all experts of a layer, 4 of whose 8 a token takes.
func TestParametersOfStackedExperts(t *testing.T) {
	var tensors []Tensor
	for layer := range 2 {
		for name, shape := range map[string][]int64{
			"mlp.experts.gate_up_proj": {8, 32, 64}, "mlp.experts.gate_up_proj_bias": {8, 64},
			"mlp.experts.down_proj": {8, 32, 32}, "mlp.experts.down_proj_bias": {8, 32},
			"mlp.router.weight": {8, 32}, "self_attn.sinks": {4},
		} {
			n, _ := elements(shape)
			x, err := NewTensor(fmt.Sprintf("model.layers.%d.%s", layer, name), F32, shape, make([]byte, 4*n))
			if err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, x)
		}
	}
	facts := map[string]any{"model_type": "gpt_oss", "num_hidden_layers": 2.0, "num_local_experts": 8.0, "num_experts_per_tok": 4.0}
	r, err := Inspect(InMemory("gpt-oss", facts, tensors))
	const expert, others = 32*64 + 64 + 32*32 + 32, 8*32 + 4
	if err != nil || r.Parameters != 2*(8*expert+others) || r.Active != 2*(4*expert+others) || r.Experts() != "8, 8" {
		t.Errorf("%d parameters, %d active, experts %q (%v)", r.Parameters, r.Active, r.Experts(), err)
	}
}

// TestParametersOfTrainedModels: in bfloat16, as their README states them.
func TestParametersOfTrainedModels(t *testing.T) {
	for name, want := range map[string]int64{
		"austen-prmoe": 7_899_270, "austen-mos": 4_048_516, "austen-moe8": 1_782_784, "austen-moe8-top2": 1_782_784,
		"austen-dense": 857_856, "austen-moe8-mp2": 1_782_784, "austen-dense-megatron-mp2": 857_856,
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Inspect(open(t, trained(t, name)))
			if err != nil || r.Parameters != want || r.Bytes != 2*want || r.DTypes[0].DType != BF16 {
				t.Errorf("%d parameters in %d bytes (%v), want %d of 2", r.Parameters, r.Bytes, err, want)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	digest := func(path string) [32]byte {
		t.Helper()
		d, err := open(t, path).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, golden := range []string{"llama", "ds-moe-hoisted", "megatron-v1-mp2"} {
		dir := copyTree(t, filepath.Join(goldens, golden))
		was := digest(dir)
		if was != digest(filepath.Join(goldens, golden)) {
			t.Errorf("%s: a copy has another digest", golden)
		}
		var files []string
		c := open(t, dir)
		for _, f := range c.Files() {
			files = append(files, filepath.Join(dir, f.Name))
		}
		for _, path := range files { // one bit of a weight
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := len(b) - 1
			if filepath.Ext(path) == ".pt" {
				at = len(b) / 3 // in a record, before the directory
			}
			b[at] ^= 1
			write(t, path, string(b))
			d, err := c.Digest()
			if err != nil || d == was {
				t.Errorf("%s: a bit of %s flipped, the digest stayed (%v)", golden, path, err)
			}
			b[at] ^= 1
			write(t, path, string(b))
		}
	}
	dir := copyTree(t, filepath.Join(goldens, "llama"))
	was := digest(dir)
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), string(b)[:len(b)-2]+`,"rope_theta":1}`)
	if was == digest(dir) {
		t.Error("another config, the same digest")
	}
}
