package operands

import (
	"math"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/kernels"
)

type memory int64

func (m memory) Size() int64 { return int64(m) }
func (memory) Free()         {}

type elsewhere struct{ memory }

var ours = Rules{Extent: func(m kernels.Memory) (int64, bool) {
	size, ok := m.(memory)
	return int64(size), ok
}}

// harm is what is wrong with an operand.
type harm struct {
	name  string
	do    func(*kernels.Tensor)
	blame bool // the error names the operand, not another one that it does not fit any more
}

var harms = []harm{
	{"missing", func(t *kernels.Tensor) { *t = kernels.Tensor{} }, true},
	{"of another type", func(t *kernels.Tensor) { t.DType = kernels.I8 }, true},
	{"of another device", func(t *kernels.Tensor) { t.Mem = elsewhere{1 << 20} }, true},
	{"beyond its memory", func(t *kernels.Tensor) { t.Offset += 4 }, true},
	{"before its memory", func(t *kernels.Tensor) { t.Offset -= 4 }, true},
	{"not aligned", func(t *kernels.Tensor) { t.Offset, t.Mem = 2, memory(1<<20) }, true},
	{"narrower", func(t *kernels.Tensor) { t.Cols-- }, false},
}

// hand gives out operands that fill their memory exactly, and harms the one that is asked for.
type hand struct {
	names []string
	wrong string
	harm  harm
}

func (h *hand) tensor(name string, d kernels.DType, rows, cols int) kernels.Tensor {
	h.names = append(h.names, name)
	t := kernels.Tensor{Mem: memory(rows * cols * d.Size()), DType: d, Rows: rows, Cols: cols, Stride: cols}
	if name == h.wrong {
		h.harm.do(&t)
	}
	return t
}

func (h *hand) floats(name string, rows, cols int) kernels.Tensor {
	return h.tensor(name, kernels.F32, rows, cols)
}

func (h *hand) ints(name string, rows, cols int) kernels.Tensor {
	return h.tensor(name, kernels.I32, rows, cols)
}

func (h *hand) routing() kernels.Routing {
	return kernels.Routing{K: 2, Experts: 4, Expert: h.ints("expert", 3, 2)}
}

// Steps of 3 tokens with 8 columns; the cache has 2 heads of 4.
var ops = map[string]func(*hand) error{
	"copy": func(h *hand) error { return ours.Copy(h.floats("dst", 3, 8), h.floats("src", 3, 8)) },
	"add":  func(h *hand) error { return ours.Add(h.floats("y", 3, 8), h.floats("x", 3, 8)) },
	"select": func(h *hand) error {
		return ours.Select(h.floats("dst", 3, 8), h.floats("src", 5, 8), h.ints("index", 1, 3), 2)
	},
	"embed": func(h *hand) error {
		return ours.Embed(h.floats("y", 3, 8), h.ints("ids", 1, 3), h.floats("table", 9, 8), h.ints("pos", 1, 3), h.floats("positions", 6, 8))
	},
	"norm": func(h *hand) error {
		return ours.Norm(h.floats("y", 3, 8), h.floats("x", 3, 8), h.floats("delta", 3, 8),
			kernels.Norm{Kind: kernels.RMSNorm, Groups: 2, Weight: h.floats("weight", 1, 4), Bias: h.floats("bias", 1, 4)})
	},
	"store": func(h *hand) error {
		b := kernels.Batch{Tokens: 3, Slot: h.ints("slot", 1, 3), Position: h.ints("position", 1, 3)}
		rope := kernels.Rope{Dim: 4, Cos: h.floats("rope cos", 6, 2), Sin: h.floats("rope sin", 6, 2)}
		return ours.Store(cacheSpec, h.floats("q", 3, 16), h.floats("k", 3, 8), h.floats("v", 3, 8), b, kernels.StoreSpec{Rope: &rope,
			QNorm: &kernels.Norm{Groups: 4, Weight: h.floats("q norm weight", 1, 4), Bias: h.floats("q norm bias", 1, 4)},
			KNorm: &kernels.Norm{Weight: h.floats("k norm weight", 1, 8), Bias: h.floats("k norm bias", 1, 8)}})
	},
	"attention": func(h *hand) error {
		b := kernels.Batch{Tokens: 3, Seqs: 2, Position: h.ints("position", 1, 3), Start: h.ints("start", 1, 3), Blocks: h.ints("blocks", 2, 5)}
		spec := kernels.AttentionSpec{Heads: 4, KVHeads: 2, HeadDim: 4, Context: h.ints("context", 1, 2)}
		return ours.Attention(cacheSpec, h.floats("out", 3, 16), h.floats("q", 3, 16), b, spec)
	},
	"attention, causal": func(h *hand) error {
		b := kernels.Batch{Tokens: 3, Seqs: 2, Position: h.ints("position", 1, 3), Start: h.ints("start", 1, 3), Blocks: h.ints("blocks", 2, 5)}
		spec := kernels.AttentionSpec{Heads: 4, KVHeads: 2, HeadDim: 4, Causal: true, Slopes: h.floats("slopes", 1, 4), Sinks: h.floats("sinks", 1, 4)}
		return ours.Attention(cacheSpec, h.floats("out", 3, 16), h.floats("q", 3, 16), b, spec)
	},
	"gate": func(h *hand) error {
		r := h.routing()
		r.Weight = h.floats("weight", 3, 2)
		return ours.Gate(r, h.floats("logits", 3, 4), kernels.Gate{Experts: 4, K: 2, Score: kernels.Sigmoid})
	},
	"gate, biased": func(h *hand) error {
		r := h.routing()
		r.Weight = h.floats("weight", 3, 2)
		return ours.Gate(r, h.floats("logits", 3, 4), kernels.Gate{Experts: 4, K: 2, Score: kernels.Sigmoid, Bias: h.floats("bias", 1, 4), Groups: 2, TopGroups: 1, GroupBest: 2})
	},
	"drop": func(h *hand) error {
		r := h.routing()
		r.Weight = h.floats("weight", 3, 2)
		return ours.Drop(r, kernels.Capacity{C: 1, Policy: kernels.DropByProbs})
	},
	"table": func(h *hand) error {
		r := h.routing()
		r.Offsets, r.Choices, r.Place = h.ints("offsets", 1, 5), h.ints("choices", 1, 6), h.ints("place", 1, 6)
		return ours.Table(r)
	},
	"combine": func(h *hand) error {
		r := kernels.Routing{K: 2, Weight: h.floats("weight", 3, 2), Place: h.ints("place", 1, 6)}
		return ours.Combine(h.floats("y", 3, 8), h.floats("out", 7, 8), r)
	},
	"mix": func(h *hand) error {
		return ours.Mix(h.floats("y", 3, 8), h.floats("moe", 3, 8), h.floats("mlp", 3, 8), h.floats("coef", 3, 2))
	},
	"reduce": func(h *hand) error { return ours.Reduce(h.floats("y", 3, 8), h.floats("parts", 6, 8), 2) },
	"score": func(h *hand) error {
		return ours.Score(h.floats("logprob", 3, 1), h.ints("greedy", 3, 1), h.floats("logits", 3, 8), h.ints("target", 3, 1), 8)
	},
	"sample": func(h *hand) error {
		return ours.Sample(h.floats("logits", 3, 8), kernels.Sampling{Vocab: 8, Top: 2,
			Temperature: h.floats("temperature", 3, 1), TopK: h.ints("top-k", 3, 1), TopP: h.floats("top-p", 3, 1), MinP: h.floats("min-p", 3, 1),
			Penalty: h.floats("penalty", 3, 1), U: h.floats("u", 3, 1), Token: h.ints("token", 3, 1), Logprob: h.floats("logprob", 3, 1),
			TopID: h.ints("top id", 3, 2), TopLogprob: h.floats("top logprob", 3, 2)})
	},
}

var cacheSpec = kernels.CacheSpec{DType: kernels.F32, Layers: 2, Blocks: 3, BlockTokens: 16, KVHeads: 2, HeadDim: 4}

// TestEveryOperandIsChecked harms each operand of each op in every way: the op is refused, and the error says whose fault it is.
func TestEveryOperandIsChecked(t *testing.T) {
	optional := map[string]bool{"norm delta": true, "norm bias": true, "store q norm bias": true, "store k norm bias": true, "embed positions": true, "attention slopes": true,
		"attention sinks": true, "gate bias": true}
	anyWidth := map[string]bool{"attention blocks": true, "mix coef": true}
	anyType := map[string]bool{"copy src": true, "copy dst": true, "select src": true} // then what goes with it is wrong
	for of, call := range ops {
		op, _, _ := strings.Cut(of, ",")
		var good hand
		if err := call(&good); err != nil {
			t.Fatalf("%s of good operands: %v", op, err)
		}
		for _, name := range good.names {
			for _, harm := range harms {
				whole := op + " " + name
				if harm.name == "missing" && optional[whole] || harm.name == "narrower" && anyWidth[whole] {
					continue
				}
				err := call(&hand{wrong: name, harm: harm})
				want := op + ": "
				if harm.blame && !(harm.name == "of another type" && anyType[whole]) {
					want += name + " "
				}
				if err == nil || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%s, %s %s: %v", op, name, harm.name, err)
				}
			}
		}
	}
}

// TestActivationTypes: a back end with one type of activations refuses the others, another takes any, but one at a time.
func TestActivationTypes(t *testing.T) {
	anyFloat := Rules{AnyFloat: true, Extent: ours.Extent}
	var h hand
	wide, half := h.floats("wide", 3, 8), h.tensor("half", kernels.BF16, 3, 8)
	for _, c := range []struct {
		rules *Rules
		y, x  kernels.Tensor
		want  string
	}{
		{&ours, wide, wide, ""},
		{&ours, half, half, "add: x is bf16 [3, 8], want fp32 [any, any]"},
		{&anyFloat, wide, wide, ""},
		{&anyFloat, half, half, ""},
		{&anyFloat, wide, half, "add: y is fp32 [3, 8], want bf16 [3, 8]"},
		{&anyFloat, h.ints("y", 3, 8), h.ints("x", 3, 8), "add: x is int32 [3, 8], want a float type"},
	} {
		got := ""
		if err := c.rules.Add(c.y, c.x); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v += %v: %q, want %q", c.y, c.x, got, c.want)
		}
	}
}

// TestNothingIsAllocated: ops are checked at every step.
func TestNothingIsAllocated(t *testing.T) {
	var h hand
	y, x := h.floats("y", 3, 8), h.floats("x", 3, 8)
	if n := testing.AllocsPerRun(100, func() {
		if ours.Add(y, x) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations a check", n)
	}
}

// TestEpilogue: what no back end may be asked for after a product.
func TestEpilogue(t *testing.T) {
	clamped := kernels.Epilogue{Act: kernels.ClampedSwiGLU, Limit: 7}
	for _, good := range []error{ours.Epilogue("linear", kernels.Epilogue{Act: kernels.ReLU}, false), ours.Epilogue("linear", clamped, true)} {
		if good != nil {
			t.Error(good)
		}
	}
	for says, err := range map[string]error{
		"linear: activation 9 is unknown":               ours.Epilogue("linear", kernels.Epilogue{Act: 9}, true),
		"not gated":                                     ours.Epilogue("linear", clamped, false),
		"linear: a clamped SwiGLU with the limit 0":     ours.Epilogue("linear", kernels.Epilogue{Act: kernels.ClampedSwiGLU}, true),
		"grouped: a clamped SwiGLU with the limit -1":   ours.Epilogue("grouped", kernels.Epilogue{Act: kernels.ClampedSwiGLU, Limit: -1}, true),
		"grouped: a clamped SwiGLU with the limit NaN;": ours.Epilogue("grouped", kernels.Epilogue{Act: kernels.ClampedSwiGLU, Limit: float32(math.NaN())}, true),
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}
