package model_test

import (
	"fmt"
	"math"
)

func randomBLOOM(c map[string]any, x tensors) {
	clear(c)
	clear(x)
	for key, value := range map[string]any{"architectures": []any{"BloomForCausalLM"}, "model_type": "bloom", "hidden_size": randomHidden, "n_head": randomHeads,
		"n_layer": 3, "vocab_size": 160, "seq_length": 128} {
		c[key] = value
	}
	x.random("transformer.word_embeddings.weight", 160, randomHidden)
	x.randomModule("transformer.word_embeddings_layernorm", randomHidden, 0, true)
	for layer := range 3 {
		at := fmt.Sprintf("transformer.h.%d.", layer)
		x.randomModule(at+"input_layernorm", randomHidden, 0, true)
		x.randomModule(at+"self_attention.query_key_value", 3*randomHidden, randomHidden, true)
		x.randomModule(at+"self_attention.dense", randomHidden, randomHidden, true)
		x.randomModule(at+"post_attention_layernorm", randomHidden, 0, true)
		x.randomModule(at+"mlp.dense_h_to_4h", 4*randomHidden, randomHidden, true)
		x.randomModule(at+"mlp.dense_4h_to_h", randomHidden, 4*randomHidden, true)
	}
	x.randomModule("transformer.ln_f", randomHidden, 0, true)
}

func (d definition) bloom(ids []int32) []float32 {
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = d.row("transformer.word_embeddings.weight", int(id))
	}
	x = d.norm(x, "transformer.word_embeddings_layernorm")
	how := attention{scale: 1 / math.Sqrt(randomHidden/randomHeads), slopes: []float64{1. / 4, 1. / 16, 1. / 64, 1. / 256, 1. / 2, 1. / 8}}
	for layer := range 3 {
		at := fmt.Sprintf("transformer.h.%d.", layer)
		q, k, v := byHeads(d.linear(d.norm(x, at+"input_layernorm"), at+"self_attention.query_key_value"), randomHeads)
		x = added(x, d.linear(how.of(q, k, v, randomHeads), at+"self_attention.dense"))
		x = added(x, d.mlp(d.norm(x, at+"post_attention_layernorm"), at+"mlp.dense_h_to_4h", at+"mlp.dense_4h_to_h", "gelu_new"))
	}
	return flat(d.linear(d.norm(x, "transformer.ln_f"), "transformer.word_embeddings"))
}
