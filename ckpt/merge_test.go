package ckpt

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestJoinUndoesTheCut cuts a random layer as each version of Megatron did, element by element, and joins it.
func TestJoinUndoesTheCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tp := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "tp")
		heads := tp * rapid.IntRange(1, 3).Draw(t, "heads a rank")
		dim := rapid.IntRange(1, 4).Draw(t, "head_dim")
		hidden, ffn := heads*dim, tp*rapid.IntRange(1, 5).Draw(t, "ffn a rank")
		version := rapid.SampledFrom([]float64{0, 1, 2, 3}).Draw(t, "version")
		j := joiner{file: "x", version: version, heads: int64(heads), ffn: int64(ffn)}
		for rest, shape := range map[string][]int{
			"attention.query_key_value.weight": {3 * hidden, hidden},
			"attention.query_key_value.bias":   {3 * hidden},
			"attention.dense.weight":           {hidden, hidden},
			"attention.dense.bias":             {hidden},
			"mlp.dense_h_to_4h.weight":         {ffn, hidden},
			"mlp.dense_h_to_4h.bias":           {ffn},
			"mlp.dense_4h_to_h.weight":         {hidden, ffn},
			"mlp.dense_4h_to_h.bias":           {hidden},
			"input_layernorm.weight":           {hidden},
			"mlp.deepspeed_moe.gate.wg.weight": {5, hidden},
			"mlp.deepspeed_moe.experts.deepspeed_experts.3.dense_4h_to_h.weight": {hidden, ffn},
			"mlp.mlp.dense_h_to_4h.weight":                                       {ffn, hidden},
		} {
			n := 1
			for _, s := range shape {
				n *= s
			}
			whole := make([]byte, 2*n)
			for i := range n {
				whole[2*i], whole[2*i+1] = byte(i), byte(i>>8)
			}
			sliced := rest[:4] != "mlp." || rapid.Bool().Draw(t, "experts sliced") || rest[:8] == "mlp.dens"
			shards := make([]Tensor, tp)
			for r := range tp {
				data, s := whole, slices.Clone(shape)
				if sliced {
					data, s = cutNaively(rest, version, whole, shape, r, tp, heads, dim)
				}
				x, err := NewTensor(inLayer(7, rest), BF16, int64s(s), data)
				if err != nil {
					t.Fatal(err)
				}
				shards[r] = x
			}
			got, err := j.join(shards)
			if err != nil {
				t.Fatal(err)
			}
			b, err := got.Bytes()
			if err != nil || !slices.Equal(got.Shape, int64s(shape)) || !bytes.Equal(b, whole) {
				t.Fatalf("%s, version %v, tp %d: joined to %v, want %v (%v)", rest, version, tp, got.Shape, shape, err)
			}
		}
	})
}

func int64s(ns []int) (out []int64) {
	for _, n := range ns {
		out = append(out, int64(n))
	}
	return out
}

// cutNaively is rank r's shard of a tensor of 16-bit elements; query_key_value comes as [heads, 3, head_dim].
func cutNaively(rest string, version float64, whole []byte, shape []int, r, tp, heads, dim int) ([]byte, []int) {
	cols := 1
	if len(shape) == 2 {
		cols = shape[1]
	}
	row := func(i, from, to int) []byte { return whole[2*(i*cols+from) : 2*(i*cols+to)] }
	var out []byte
	switch rest {
	case "attention.query_key_value.weight", "attention.query_key_value.bias":
		mine := heads / tp
		at := func(h, part, d int) []byte { return row(((r*mine+h)*3+part)*dim+d, 0, cols) }
		for i := range 3 * mine * dim {
			switch {
			case version >= 2: // h, part, d
				out = append(out, at(i/(3*dim), i/dim%3, i%dim)...)
			case version >= 1: // h, d, part
				out = append(out, at(i/(3*dim), i%3, i/3%dim)...)
			default: // part, h, d
				out = append(out, at(i/dim%mine, i/(mine*dim), i%dim)...)
			}
		}
		return out, append([]int{shape[0] / tp}, shape[1:]...)
	case "attention.dense.weight", "mlp.dense_4h_to_h.weight", "mlp.deepspeed_moe.experts.deepspeed_experts.3.dense_4h_to_h.weight":
		for i := range shape[0] {
			out = append(out, row(i, r*cols/tp, (r+1)*cols/tp)...)
		}
		return out, []int{shape[0], cols / tp}
	case "mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias", "mlp.mlp.dense_h_to_4h.weight":
		n := shape[0] / tp
		return whole[2*r*n*cols : 2*(r+1)*n*cols], append([]int{n}, shape[1:]...)
	}
	return whole, shape
}

func TestJoinRefuses(t *testing.T) {
	shard := func(rest string, dtype DType, shape ...int64) Tensor {
		n, _ := elements(shape)
		x, err := NewTensor(inLayer(0, rest), dtype, shape, make([]byte, n*dtype.Size()))
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	const expert = "mlp.deepspeed_moe.experts.deepspeed_experts.0.dense_h_to_4h.weight"
	for name, c := range map[string]struct {
		j    joiner
		a, b Tensor
		says []string
	}{
		"other shape":      {joiner{}, shard("attention.dense.weight", F32, 4, 2), shard("attention.dense.weight", F32, 4, 3), []string{"[4 2]", "[4 3]", "mp_rank 1"}},
		"other type":       {joiner{}, shard("attention.dense.bias", F32, 4), shard("attention.dense.bias", F16, 4), []string{"F16"}},
		"no heads known":   {joiner{}, shard("attention.query_key_value.bias", F32, 6), shard("attention.query_key_value.bias", F32, 6), []string{"num_attention_heads", "model.json"}},
		"heads do not fit": {joiner{heads: 3}, shard("attention.query_key_value.bias", F32, 6), shard("attention.query_key_value.bias", F32, 6), []string{"3 heads over 2 ranks"}},
		"a vector cut":     {joiner{}, shard("attention.dense.weight", F32, 4), shard("attention.dense.weight", F32, 4), []string{"cannot be cut"}},
		"ffn not known":    {joiner{}, shard(expert, F32, 4, 2), shard(expert, F32, 4, 2), []string{"ffn_hidden_size", "model.json"}},
		"ffn does not fit": {joiner{ffn: 12}, shard(expert, F32, 4, 2), shard(expert, F32, 4, 2), []string{"1/2 of ffn_hidden_size 12"}},
	} {
		_, err := c.j.join([]Tensor{c.a, c.b})
		t.Run(name, func(t *testing.T) { wants(t, err, ErrMismatch, c.says...) })
	}
}

// TestCutModelsAreTheWholeOnes: the models that were cut in two join to the same bits.
func TestCutModelsAreTheWholeOnes(t *testing.T) {
	for _, c := range []struct{ cut, file, whole string }{
		{"austen-moe8-mp2", "", "austen-moe8"},
		{"austen-dense-megatron-mp2", "", "austen-dense"},
		{"austen-dense-megatron-mp2", "megatron.json", "austen-dense"},
	} {
		t.Run(filepath.Join(c.cut, c.file), func(t *testing.T) {
			a, b := open(t, filepath.Join(trained(t, c.cut), c.file)), open(t, trained(t, c.whole))
			if !slices.Equal(a.Names(), b.Names()) {
				t.Fatalf("names %q, want %q", a.Names(), b.Names())
			}
			for _, name := range a.Names() {
				x, _ := a.Tensor(name)
				y, _ := b.Tensor(name)
				if x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) || !bytes.Equal(content(t, x), content(t, y)) {
					t.Errorf("%s differs from the whole one", name)
				}
			}
		})
	}
}

// TestARankReadsItsPart: a rank's rows of a tensor that was cut in two cost their bytes and no more.
func TestARankReadsItsPart(t *testing.T) {
	c := open(t, goldens+"/megatron-v1-mp2")
	x, _ := c.Tensor(inLayer(2, "mlp.dense_4h_to_h.weight"))
	part, err := x.Slice(1, 16, 48)
	if err != nil {
		t.Fatal(err)
	}
	b, whole := content(t, part), content(t, x)
	if got := c.BytesRead(); got != part.Size()+x.Size() || len(b) != 32*32*2 {
		t.Errorf("%d bytes read for %d", got, part.Size()+x.Size())
	}
	for r := range 32 {
		if !bytes.Equal(b[r*64:r*64+64], whole[r*128+32:r*128+96]) {
			t.Errorf("row %d differs", r)
		}
	}
}
