package model_test

import (
	"fmt"
)

// randomGPTNeo sees 4 positions in its middle layer.
func randomGPTNeo(c map[string]any, x tensors) {
	clear(c)
	clear(x)
	for key, value := range map[string]any{"architectures": []any{"GPTNeoForCausalLM"}, "model_type": "gpt_neo", "hidden_size": randomHidden, "num_heads": randomHeads,
		"num_layers": 3, "vocab_size": 160, "max_position_embeddings": 32, "window_size": 4, "activation_function": "gelu_new",
		"attention_types": []any{[]any{[]any{"global", "local"}, 1}, []any{[]any{"global"}, 1}}} {
		c[key] = value
	}
	x.random("transformer.wte.weight", 160, randomHidden)
	x.random("transformer.wpe.weight", 32, randomHidden)
	for layer := range 3 {
		at := fmt.Sprintf("transformer.h.%d.", layer)
		x.randomModule(at+"ln_1", randomHidden, 0, true)
		for _, one := range []string{"q_proj", "k_proj", "v_proj", "out_proj"} {
			x.randomModule(at+"attn.attention."+one, randomHidden, randomHidden, one == "out_proj")
		}
		x.randomModule(at+"ln_2", randomHidden, 0, true)
		x.randomModule(at+"mlp.c_fc", 4*randomHidden, randomHidden, true)
		x.randomModule(at+"mlp.c_proj", randomHidden, 4*randomHidden, true)
	}
	x.randomModule("transformer.ln_f", randomHidden, 0, true)
}

func (d definition) gptNeo(ids []int32) []float32 {
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = d.row("transformer.wte.weight", int(id))
		for i, v := range d.row("transformer.wpe.weight", t) {
			x[t][i] += v
		}
	}
	for layer := range 3 {
		at, how := fmt.Sprintf("transformer.h.%d.", layer), attention{scale: 1}
		if layer == 1 {
			how.window = 4
		}
		h := d.norm(x, at+"ln_1")
		q, k, v := d.linear(h, at+"attn.attention.q_proj"), d.linear(h, at+"attn.attention.k_proj"), d.linear(h, at+"attn.attention.v_proj")
		x = added(x, d.linear(how.of(q, k, v, randomHeads), at+"attn.attention.out_proj"))
		x = added(x, d.mlp(d.norm(x, at+"ln_2"), at+"mlp.c_fc", at+"mlp.c_proj", "gelu_new"))
	}
	return flat(d.linear(d.norm(x, "transformer.ln_f"), "transformer.wte"))
}
