package policies

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/ckpt"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// unknownBlock is a model of 2 layers, hidden size 8, 2 heads of 4, 16 inside, 32 tokens, by names: each word of a line is
// a module of one shape, with a bias after a +.
type unknownBlock map[string]string

// shapes are by what a line begins with.
var shapes = map[string][]int64{
	"square": {8, 8}, "up": {16, 8}, "down": {8, 16}, "norm": {8}, "qkv": {24, 8}, "both": {32, 8}, "kv": {4, 8}, "head norm": {4}, "router": {2, 8}, "multi-query": {16, 8},
	"table": {32, 8}, "positions": {64, 8}, "stack": {2, 16, 8},
}

// checkpoint makes it: names with a number in front of no dot are of both layers.
func (u unknownBlock) checkpoint(t *testing.T) *ckpt.Checkpoint {
	t.Helper()
	var tensors []ckpt.Tensor
	add := func(name string, shape []int64) {
		n := int64(4)
		for _, d := range shape {
			n *= d
		}
		x, err := ckpt.NewTensor(name, ckpt.F32, shape, make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, x)
	}
	for kind, names := range u {
		for _, name := range strings.Fields(names) {
			module, biased := strings.CutSuffix(name, "+")
			for _, layer := range []string{".0.", ".1."} {
				if layer == ".1." && !strings.Contains(module, "#") {
					continue
				}
				m := strings.Replace(module, ".#.", layer, 1)
				add(m+".weight", shapes[kind])
				if biased {
					add(m+".bias", shapes[kind][:1])
				}
			}
		}
	}
	return ckpt.InMemory("memory", nil, tensors)
}

// but is the block with lines replaced.
func (u unknownBlock) but(lines unknownBlock) unknownBlock {
	u = maps.Clone(u)
	maps.Copy(u, lines)
	return u
}

var (
	nested  = unknownBlock{"table": "tok lm_head", "norm": "l.#.ln1 l.#.ln2 ln_f", "square": "l.#.attn.query l.#.attn.key l.#.attn.value l.#.attn.out", "up": "l.#.mlp.up", "down": "l.#.mlp.down"}
	squares = nested.but(unknownBlock{"square": nested["square"] + " l.#.mlp.w1 l.#.mlp.w2", "up": "", "down": ""})
	facts   = map[string]any{"num_hidden_layers": 2.0, "hidden_size": 8.0, "num_attention_heads": 2.0, "rope_theta": 1e4, "max_position_embeddings": 64.0,
		"norm_eps": 1e-5, "hidden_act": "relu", "vocab_size": 32.0, "architectures": []any{"NewForCausalLM"}}
)

// TestInject finds the parts of blocks that are built in different ways.
func TestInject(t *testing.T) {
	for _, c := range []struct {
		name    string
		block   unknownBlock
		facts   map[string]any
		linears string
		want    string // of canonical names, those that tell the most
	}{
		{"nested", nested, nil, "attn.out mlp.down", "attn.q=l.{layer}.attn.query attn.v=l.{layer}.attn.value mlp.up=l.{layer}.mlp.up embed=tok head=lm_head mlp.norm=l.{layer}.ln2"},
		{"side by side", nested.but(unknownBlock{"square": "l.#.attn.q_proj l.#.attn.k_proj l.#.attn.v_proj l.#.attn.out", "up": "l.#.fc1", "down": "l.#.fc2"}), nil, "out fc2",
			"attn.out=l.{layer}.attn.out mlp.up=l.{layer}.fc1 mlp.down=l.{layer}.fc2"},
		{"flat", nested.but(unknownBlock{"square": "l.#.wq l.#.wk l.#.wv l.#.wo", "up": "l.#.fc1", "down": "l.#.fc2"}), nil, "wo fc2", "attn.q=l.{layer}.wq attn.out=l.{layer}.wo mlp.down=l.{layer}.fc2"},
		{"as in BERT", nested.but(unknownBlock{"square": "l.#.attention.self.query l.#.attention.self.key l.#.attention.self.value l.#.attention.output.dense"}), nil, "attention.output.dense mlp.down",
			"attn.k=l.{layer}.attention.self.key attn.out=l.{layer}.attention.output.dense"},
		{"a sequence", nested.but(unknownBlock{"up": "l.#.mlp.0", "down": "l.#.mlp.2"}), nil, "attn.out mlp.2", "mlp.up=l.{layer}.mlp.0 mlp.down=l.{layer}.mlp.2"},
		{"as in T5", nested.but(unknownBlock{"up": "l.#.mlp.wi_0 l.#.mlp.wi_1", "down": "l.#.mlp.wo"}), nil, "attn.out wo", "mlp.gate=l.{layer}.mlp.wi_0 mlp.up=l.{layer}.mlp.wi_1"},
		{"a gate that is told", nested.but(unknownBlock{"up": "l.#.mlp.a l.#.mlp.b"}), map[string]any{"block": map[string]any{"mlp.gate": "b"}}, "attn.out down", "mlp.gate=l.{layer}.mlp.b mlp.up=l.{layer}.mlp.a"},
		{"projections that are told", nested.but(unknownBlock{"square": "l.#.attn.x l.#.attn.y l.#.attn.z l.#.attn.out"}),
			map[string]any{"block": map[string]any{"attn.q": "z", "attn.k": "y", "attn.v": "x"}}, "attn.out down", "attn.q=l.{layer}.attn.z attn.v=l.{layer}.attn.x"},
		{"by head", nested.but(unknownBlock{"square": "l.#.attn.out+", "qkv": "l.#.attn.all+"}), map[string]any{"qkv_layout": "by_head"}, "attn.out mlp.down", "attn.qkv=l.{layer}.attn.all"},
		{"one key-value head", nested.but(unknownBlock{"square": "l.#.attn.q_proj l.#.attn.out", "kv": "l.#.attn.k_proj l.#.attn.v_proj", "head norm": "l.#.attn.q_norm l.#.attn.k_norm"}),
			nil, "attn.out mlp.down", "attn.qnorm=l.{layer}.attn.q_norm"},
		{"one key-value head, together", nested.but(unknownBlock{"square": "l.#.attn.out", "multi-query": "l.#.attn.c_attn"}), map[string]any{"num_key_value_heads": 1.0},
			"attn.out mlp.down", "attn.qkv=l.{layer}.attn.c_attn"},
		{"neighbours rotate", nested, map[string]any{"rope_interleaved": true}, "attn.out mlp.down", ""},
		{"experts", nested.but(unknownBlock{"up": "l.#.moe.experts.0.up l.#.moe.experts.1.up", "down": "l.#.moe.experts.0.down l.#.moe.experts.1.down", "router": "l.#.moe.gate"}),
			map[string]any{"norm_topk_prob": true, "num_experts_per_tok": 1.0}, "attn.out down", "moe.gate=l.{layer}.moe.gate expert.down=l.{layer}.moe.experts.{expert}.down"},
		{"a square MLP", squares, nil, "attn.out w2", "mlp.up=l.{layer}.mlp.w1 mlp.down=l.{layer}.mlp.w2"},
		{"learned positions", nested.but(unknownBlock{"table": "wte", "positions": "wpe", "norm": "l.#.ln1+ l.#.ln2+ ln_f+"}), map[string]any{"rope_theta": nil}, "attn.out down", "embed=wte positions=wpe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y, err := inject(t, c.block, c.facts, c.linears)
			if err != nil {
				t.Fatal(err)
			}
			for _, pair := range strings.Fields(c.want) {
				canonical, want, _ := strings.Cut(pair, "=")
				if got := y.Tensors[canonical]; got != want+".weight" {
					t.Errorf("%s is %s, want %s.weight", canonical, got, want)
				}
			}
			shape, err := y.Configure(model.Facts{})
			if err != nil || shape.Hidden != 8 || shape.Heads != 2 || shape.HeadDim != 4 || (shape.Norm == kernels.LayerNorm) != shape.Learned || shape.Learned == (shape.Rope != nil) {
				t.Errorf("%+v, %v", shape, err)
			}
			if shape.Rope != nil && shape.Rope.Interleaved != (c.name == "neighbours rotate") || slices.ContainsFunc(y.Assumed, func(a string) bool { return strings.Contains(a, "first half") }) != (shape.Rope != nil && !shape.Rope.Interleaved) {
				t.Errorf("positions %+v, assumed %q", shape.Rope, y.Assumed)
			}
			if (y.QKV == model.QKVByHead) != (c.name == "by head") || shape.KVHeads != map[bool]int{true: 1, false: 2}[strings.HasPrefix(c.name, "one key-value head")] {
				t.Errorf("order %v, %d key-value heads", y.QKV, shape.KVHeads)
			}
		})
	}
}

// TestInjectOfNoCausalModel: that a token sees earlier ones only has to be told.
func TestInjectOfNoCausalModel(t *testing.T) {
	f := maps.Clone(facts)
	delete(f, "architectures")
	for _, causal := range []bool{false, true} {
		if _, err := Inject(model.NewFacts("config.json", f), nested.checkpoint(t), []string{"attn.out", "down"}, causal); (err == nil) != causal {
			t.Errorf("causal %v: %v", causal, err)
		}
	}
}

// TestInjectRefuses what the tensors of a block do not tell.
func TestInjectRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		block   unknownBlock
		linears string
		say     string
	}{
		{"a square MLP, the wrong one", squares, "attn.out w1", "which they are cannot be told"},
		{"gate and input together", nested.but(unknownBlock{"up": "", "both": "l.#.mlp.gate_up"}), "attn.out down", "gate and input in one tensor"},
		{"a gate of no name", nested.but(unknownBlock{"up": "l.#.mlp.a l.#.mlp.b"}), "attn.out down", "mlp.gate"},
		{"a shared expert", nested.but(unknownBlock{"up": "l.#.moe.experts.0.up l.#.moe.shared.up", "down": "l.#.moe.experts.0.down l.#.moe.shared.down", "router": "l.#.moe.gate"}), "attn.out down", "moe.shared.up"},
		{"experts in one tensor", nested.but(unknownBlock{"stack": "l.#.mlp.experts.up"}), "attn.out down", "mlp.experts.up.weight"},
		{"a norm of the embedding", nested.but(unknownBlock{"norm": "l.#.ln1 l.#.ln2 ln_f ln_0"}), "attn.out down", "ln_0, ln_f"},
		{"no last norm", nested.but(unknownBlock{"norm": "l.#.ln1 l.#.ln2"}), "attn.out down", "the norms none"},
		{"four norms", nested.but(unknownBlock{"norm": "l.#.ln1 l.#.ln2 l.#.ln3 l.#.ln4 ln_f"}), "attn.out down", "ln1, ln2, ln3, ln4"},
		{"norms of two kinds", nested.but(unknownBlock{"norm": "l.#.ln1+ l.#.ln2 ln_f"}), "attn.out down", "two kinds"},
		{"another last norm", nested.but(unknownBlock{"norm": "l.#.ln1 l.#.ln2 ln_f+"}), "attn.out down", "ln_f"},
		{"a bias of some", nested.but(unknownBlock{"square": "l.#.attn.query+ l.#.attn.key l.#.attn.value+ l.#.attn.out"}), "attn.out down", "attn.key"},
		{"a bias of the head", nested.but(unknownBlock{"table": "tok lm_head+"}), "attn.out down", "lm_head.bias"},
		{"three tables", nested.but(unknownBlock{"table": "tok seg lm_head"}), "attn.out down", "lm_head, seg, tok"},
		{"two tables of no name", nested.but(unknownBlock{"table": "a b"}), "attn.out down", "which one is the embedding"},
		{"two attentions", nested.but(unknownBlock{"square": nested["square"] + " l.#.cross.query l.#.cross.key l.#.cross.value l.#.cross.out"}), "attn.out down", "several attentions"},
		{"more than the attention", nested.but(unknownBlock{"square": nested["square"] + " l.#.attn.more"}), "attn.out down", "attn.more"},
		{"no attention", nested.but(unknownBlock{"square": "l.#.mix.in l.#.mix.out"}), "mix.out down", "attn.q: …"},
		{"two stacks", nested.but(unknownBlock{"square": nested["square"] + " encoder.#.x"}), "attn.out down", "encoder., l."},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := inject(t, c.block, nil, c.linears)
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v, want %q", err, c.say)
			}
		})
	}
}

func inject(t *testing.T, u unknownBlock, more map[string]any, linears string) (*Injected, error) {
	t.Helper()
	f := maps.Clone(facts)
	maps.Copy(f, more)
	return Inject(model.NewFacts("config.json", f), u.checkpoint(t), slices.Clip(strings.Fields(linears)), false)
}
