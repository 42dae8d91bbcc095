package policies

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// Megatron-DeepSpeed GPT with dense, standard-MoE and residual (pyramid, MoS) layers: pre-LN GPT-2 with the three
// projections of a head together, facts under model.json's names (package ckpt makes them from Megatron's args where
// there is no model.json). Golden: ds-moe-*, megatron-*, and the trained models.
func megatron() model.Policy {
	return model.Policy{
		Architectures: []string{"megatron-deepspeed-gpt-moe", "megatron-gpt"},
		Configure:     configureMegatron,
		QKV:           model.QKVByHead,
		Tensors: model.Names{
			"embed":         "language_model.embedding.word_embeddings.weight",
			"positions":     "language_model.embedding.position_embeddings.weight",
			"norm":          "language_model.encoder.final_layernorm.weight",
			"attn.norm":     "language_model.encoder.layers.{layer}.input_layernorm.weight",
			"attn.qkv":      "language_model.encoder.layers.{layer}.attention.query_key_value.weight",
			"attn.out":      "language_model.encoder.layers.{layer}.attention.dense.weight",
			"mlp.norm":      "language_model.encoder.layers.{layer}.post_attention_layernorm.weight",
			"mlp.up":        "language_model.encoder.layers.{layer}.mlp.dense_h_to_4h.weight",
			"mlp.down":      "language_model.encoder.layers.{layer}.mlp.dense_4h_to_h.weight",
			"moe.gate":      "language_model.encoder.layers.{layer}.mlp.deepspeed_moe.gate.wg.weight",
			"expert.up":     "language_model.encoder.layers.{layer}.mlp.deepspeed_moe.experts.deepspeed_experts.{expert}.dense_h_to_4h.weight",
			"expert.down":   "language_model.encoder.layers.{layer}.mlp.deepspeed_moe.experts.deepspeed_experts.{expert}.dense_4h_to_h.weight",
			"residual.up":   "language_model.encoder.layers.{layer}.mlp.mlp.dense_h_to_4h.weight",
			"residual.down": "language_model.encoder.layers.{layer}.mlp.mlp.dense_4h_to_h.weight",
			"residual.mix":  "language_model.encoder.layers.{layer}.mlp.coefficient.weight",
		},
	}
}

func configureMegatron(f model.Facts) (model.Config, error) {
	hidden, heads := f.Int("hidden_size"), f.Int("num_attention_heads")
	ffn := f.IntOr("ffn_hidden_size", 4*hidden)
	act, err := activation(f, "activation")
	if err != nil {
		return model.Config{}, err
	}
	vocab := f.IntOr("padded_vocab_size", f.IntOr("vocab_size", 0))
	c := model.Config{
		Family: "megatron", Layers: f.Int("num_layers"), Hidden: hidden, Heads: heads, KVHeads: heads,
		HeadDim: hidden / max(heads, 1), FFN: ffn, Vocab: vocab, Tokens: f.IntOr("vocab_size", vocab),
		Window: f.Int("max_position_embeddings"), Norm: kernels.LayerNorm, Eps: float32(f.FloatOr("layernorm_epsilon", 1e-5)),
		Act: act, Learned: true, Bias: model.Bias{QKV: true, Out: true, MLP: true},
		TiedHead: f.BoolOr("tied_output_embedding", true), EOS: f.IDs("eos_token_id"), BOS: -1,
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	if err := divides(f, "num_attention_heads", heads, "hidden_size", hidden); err != nil {
		return c, err
	}
	c.MoE = dense(c.Layers)
	at, experts := f.Ints("moe_layers"), f.Ints("experts_per_moe_layer")
	if len(at) != len(experts) {
		return c, fmt.Errorf("%w: %s: moe_layers names %d layers, experts_per_moe_layer %d", model.ErrConfig, f.Source, len(at), len(experts))
	}
	residual, outputBias := f.StringOr("mlp_type", "standard"), f.StringOr("expert_output_bias", "drop")
	if !slices.Contains([]string{"standard", "residual"}, residual) {
		return c, fmt.Errorf("%w: %s: mlp_type is %q, want standard or residual", model.ErrConfig, f.Source, residual)
	}
	if !slices.Contains([]string{"add", "drop"}, outputBias) {
		return c, fmt.Errorf("%w: %s: expert_output_bias is %q, want add or drop", model.ErrConfig, f.Source, outputBias)
	}
	k := f.IntOr("topk", 1)
	for i, layer := range at {
		if layer < 0 || layer >= len(c.MoE) {
			return c, fmt.Errorf("%w: %s: moe_layers names layer %d of %d", model.ErrConfig, f.Source, layer, c.Layers)
		}
		c.MoE[layer] = model.MoE{
			FFN: ffn, Residual: residual == "residual", OutputBias: outputBias == "add",
			// DeepSpeed's top-1 weight is the probability itself; from top-2 on the weights are renormalised.
			Gate: kernels.Gate{Experts: experts[i], K: k, Renormalise: k > 1},
		}
	}
	return c, f.Err()
}
