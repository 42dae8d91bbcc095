package model_test

import (
	"testing"

	"github.com/dsbatch/dsbatch/model"
)

// TestOlderFiles: configs of transformers 4 and before, and files without the base model's prefix, give the golden's bits.
func TestOlderFiles(t *testing.T) {
	short := func(prefix string) func(map[string]any, tensors) {
		return func(_ map[string]any, x tensors) {
			for name, y := range x {
				if len(name) > len(prefix) && name[:len(prefix)] == prefix {
					delete(x, name)
					x[name[len(prefix):]] = y
				}
			}
		}
	}
	for _, c := range []struct {
		golden, what string
		edit         func(c map[string]any, x tensors)
	}{
		{"gpt_neox", "rotary_pct", func(c map[string]any, x tensors) {
			delete(c, "rope_parameters")
			delete(c, "attention_bias")
			c["rotary_pct"], c["rotary_emb_base"], c["torch_dtype"] = 0.25, 10000, "float32"
			x["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = x["gpt_neox.final_layer_norm.bias"]
			x["gpt_neox.layers.0.attention.masked_bias"] = x["gpt_neox.final_layer_norm.bias"]
		}},
		{"gptj", "masks", func(c map[string]any, x tensors) {
			delete(c, "tie_word_embeddings")
			x["transformer.h.0.attn.bias"], x["transformer.h.0.attn.masked_bias"] = x["transformer.ln_f.bias"], x["transformer.ln_f.bias"]
		}},
		{"opt", "the decoder alone, the head twice", func(c map[string]any, x tensors) {
			for _, key := range []string{"enable_bias", "layer_norm_elementwise_affine", "tie_word_embeddings", "dtype"} {
				delete(c, key)
			}
			x["lm_head.weight"] = x["model.decoder.embed_tokens.weight"]
			short("model.")(c, x)
		}},
		{"gpt_neo", "attention_types", func(c map[string]any, x tensors) {
			delete(c, "attention_layers")
			x["transformer.h.1.attn.attention.bias"] = x["transformer.ln_f.bias"]
		}},
		{"bloom", "n_embed, no prefix", func(c map[string]any, x tensors) {
			c["n_embed"], c["num_attention_heads"], c["num_hidden_layers"], c["seq_length"] = c["hidden_size"], c["n_head"], c["n_layer"], 2048
			for _, key := range []string{"hidden_size", "n_head", "n_layer", "tie_word_embeddings"} {
				delete(c, key)
			}
			short("transformer.")(c, x)
		}},
	} {
		t.Run(c.golden+": "+c.what, func(t *testing.T) {
			whole := newRunner(t, golden(t, c.golden), 64, model.LoadOptions{})
			older := newRunner(t, edited(t, c.golden, "config.json", c.edit), 64, model.LoadOptions{})
			if !sameBits(older.forward(texts[0]).logits, whole.forward(texts[0]).logits) {
				t.Error("other bits")
			}
		})
	}
}
