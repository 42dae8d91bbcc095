package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// unknown is the config of a model of no family in All: what its common keys say, each under all of its names. A key
// that is not known could change what a layer computes, and is refused.
type unknown struct {
	model.Facts
	assumed []string // see Injected
}

// sizes is what the config says before the tensors are looked at; 0 and "": the tensors tell.
type sizes struct {
	layers, hidden, heads, kv, dim int
	qkv                            string            // qkv_layout
	block                          map[string]string // canonical name → module, as the user says
}

// order is how q, k and v lie.
func (z sizes) order(r *roles) model.QKVOrder {
	switch {
	case r.qkv == "":
		return model.QKVApart
	case z.qkv == "by_head":
		return model.QKVByHead
	}
	return model.QKVStacked
}

// The names of a fact in configs.
var (
	layerKeys      = []string{"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
	hiddenKeys     = []string{"hidden_size", "n_embd", "d_model"}
	headKeys       = []string{"num_attention_heads", "n_head", "n_heads", "num_heads"}
	kvKeys         = []string{"num_key_value_heads", "num_kv_heads", "n_kv_heads"}
	ffnKeys        = []string{"intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff"}
	windowKeys     = []string{"max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"}
	activationKeys = []string{"hidden_act", "activation_function", "hidden_activation", "activation"}
	rmsKeys        = []string{"rms_norm_eps", "rms_norm_epsilon"}
	layerNormKeys  = []string{"layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon"}
	anyNormKeys    = []string{"norm_eps", "norm_epsilon"}
	expertKeys     = []string{"num_experts", "num_local_experts", "n_routed_experts"}
	choiceKeys     = []string{"num_experts_per_tok", "num_experts_per_token", "moe_topk"}
	rotaryKeys     = []string{"rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "rope_interleaved"}
	otherKeys      = []string{"model_type", "architectures", "vocab_size", "head_dim", "moe_intermediate_size", "norm_topk_prob", "tie_word_embeddings",
		"sliding_window", "use_sliding_window", "layer_types", "bos_token_id", "eos_token_id", "block", "qkv_layout"}
)

// idleKeys change nothing that a layer computes, or say what the tensors say themselves. So do keys of dropout.
var idleKeys = strings.Fields(`_name_or_path auto_map transformers_version torch_dtype dtype use_cache initializer_range init_std
	pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id is_decoder pretraining_tp attn_pdrop embd_pdrop resid_pdrop layerdrop
	output_router_logits router_aux_loss_coef router_z_loss_coef router_jitter_noise gradient_checkpointing task_specific_params id2label label2id
	problem_type return_dict output_attentions output_hidden_states tokenizer_class torchscript chunk_size_feed_forward tie_encoder_decoder
	reorder_and_upcast_attn attn_implementation _attn_implementation use_flash_attn max_window_layers n_ctx
	summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj keys_to_ignore_at_inference
	attention_bias attention_out_bias mlp_bias use_bias bias enable_bias add_bias_linear qkv_bias use_qkv_bias
	mlp_only_layers decoder_sparse_step first_k_dense_replace multi_query`)

// settled are keys with the one value that the canonical block has.
var settled = map[string]any{
	"use_parallel_residual": false, "parallel_residual": false, "parallel_attn": false, "alibi": false, "use_alibi": false,
	"do_layer_norm_before": true, "normalize_before": true, "apply_residual_connection_post_layernorm": false,
	"scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false, "scale_embedding": false,
	"is_encoder_decoder": false, "add_cross_attention": false, "use_mrope": false, "scoring_func": "softmax",
	"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0, "logit_scale": 1.0, "routed_scaling_factor": 1.0,
	"n_shared_experts": 0.0, "n_group": 1.0, "topk_group": 1.0,
}

// strays are model types whose files look like the canonical block's, with what they compute otherwise.
var strays = map[string]string{
	"gemma":            "adds 1 to the weights of its norms and scales its embeddings",
	"hunyuan_v1_dense": "normalises queries and keys after they are rotated",
	"ernie4_5":         "rotates neighbouring values of a head",
}

func (k *unknown) refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", model.ErrConfig, k.Source, fmt.Sprintf(format, args...))
}

// one is the name under which a fact stands, the first one where it stands nowhere.
func (k *unknown) one(names []string) string {
	if i := slices.IndexFunc(names, k.Has); i >= 0 {
		return names[i]
	}
	return names[0]
}

// sizes reads what is needed to tell the tensors apart.
func (k *unknown) sizes() (z sizes, err error) {
	z = sizes{layers: k.Int(k.one(layerKeys)), hidden: k.Int(k.one(hiddenKeys)), heads: k.Int(k.one(headKeys)),
		kv: k.IntOr(k.one(kvKeys), 0), dim: k.IntOr("head_dim", 0), qkv: k.StringOr("qkv_layout", ""), block: map[string]string{}}
	stated := k.Under("block")
	for _, canonical := range slices.Sorted(maps.Keys(stated.Values)) {
		if !slices.Contains([]string{"attn.q", "attn.k", "attn.v", "attn.qkv", "attn.norm", "mlp.norm", "mlp.gate"}, canonical) {
			return z, k.refuse("block: %s is nothing that can be told; attn.q, attn.k, attn.v, attn.qkv, attn.norm, mlp.norm and mlp.gate are", canonical)
		}
		z.block[canonical] = stated.StringOr(canonical, "")
	}
	if err := k.Err(); err != nil {
		return z, err
	}
	if z.hidden < 1 || z.heads < 1 || z.kv < 0 || z.dim < 0 || z.dim == 0 && z.hidden%z.heads != 0 {
		return z, k.refuse("%d heads of a hidden size %d, %d key-value heads of %d values cannot be", z.heads, z.hidden, z.kv, z.dim)
	}
	if !slices.Contains([]string{"", "stacked", "by_head"}, z.qkv) {
		return z, k.refuse("qkv_layout is %q, want stacked or by_head", z.qkv)
	}
	return z, nil
}

// config makes the model's config of the facts and of what the tensors were found to be.
func (k *unknown) config(z sizes, s kinds, o outer, causal bool) (model.Config, error) {
	r := s.any()
	c := model.Config{
		Family: k.StringOr("model_type", "a model"), Layers: z.layers, Hidden: z.hidden, Heads: z.heads, KVHeads: r.kv, HeadDim: r.dim,
		Vocab: o.vocab, Tokens: o.vocab, Window: o.window, Gated: r.gate != "", Learned: o.positions != "",
		Bias: model.Bias{QKV: r.qkvBias, Out: r.outBias, MLP: r.mlpBias}, EOS: k.IDs("eos_token_id"), BOS: first(k.IDs("bos_token_id")),
	}
	k.assume("attention scores are divided by the square root of the head size")
	if r.qNorm != "" {
		c.QKNorm = model.QKNormFull
		if r.qkNormOfHead {
			c.QKNorm = model.QKNormHead
		}
		k.assume("queries and keys are normalised before they are rotated")
	}
	for _, step := range []func(*model.Config) error{
		func(*model.Config) error { return k.understood(causal) },
		func(c *model.Config) error { return k.experts(c, s) },
		func(c *model.Config) error { return k.norm(c, r) },
		func(c *model.Config) error { return k.positions(c, o) },
		func(c *model.Config) error { return k.sliding(c) },
		func(c *model.Config) error { return k.head(c, o) },
		func(c *model.Config) (err error) { c.Act, err = activation(k.Facts, k.one(activationKeys)); return err },
		func(*model.Config) error { return k.Err() },
	} {
		if err := step(&c); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (k *unknown) assume(what string) { k.assumed = append(k.assumed, what) }

// understood refuses what the config says of a block that is not the canonical one, or may say.
func (k *unknown) understood(causal bool) error {
	kind := k.StringOr("model_type", "")
	if what := strays[kind]; what != "" && (kind != "ernie4_5" || !k.Has("rope_interleaved")) {
		return k.refuse("a %s model %s, which no file tells; it cannot be run by injection_policy", kind, what)
	}
	if !causal && !slices.ContainsFunc(k.Strings("architectures"), func(a string) bool { return strings.Contains(a, "CausalLM") || strings.Contains(a, "LMHead") }) {
		return k.refuse("architectures %s does not tell whether a token sees later ones, too; where it does not, say so with triangular_masking: true", orNothing(k.Strings("architectures")))
	}
	known := slices.Concat(rotaryKeys, otherKeys, idleKeys)
	for _, names := range [][]string{layerKeys, hiddenKeys, headKeys, kvKeys, ffnKeys, windowKeys, activationKeys, rmsKeys, layerNormKeys, anyNormKeys, expertKeys, choiceKeys} {
		known = append(known, names...)
		key := k.one(names)
		for _, other := range names {
			if k.Has(other) && fmt.Sprint(k.Values[other]) != fmt.Sprint(k.Values[key]) {
				return k.refuse("%s is %v, and %s is %v; which one counts cannot be told", key, k.Values[key], other, k.Values[other])
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(k.Values)) {
		value := k.Values[key]
		if i, ok := value.(int); ok {
			value = float64(i)
		}
		want, is := settled[key]
		switch {
		case value == nil || slices.Contains(known, key) || strings.Contains(key, "dropout"):
		case is && value == want:
		case is:
			return k.refuse("%s is %v; injection_policy runs blocks in which it is %v", key, value, want)
		default:
			return k.refuse("what %s (%v) does to a layer is not known; where it does nothing, say so with config: {%s: null}", key, value, key)
		}
	}
	return nil
}

// experts settles the MLPs.
func (k *unknown) experts(c *model.Config, s kinds) error {
	c.MoE = make([]model.MoE, c.Layers)
	ffn := k.IntOr(k.one(ffnKeys), 0)
	if s.dense != nil {
		if c.FFN = s.dense.ffn; ffn != 0 && ffn != c.FFN {
			return k.refuse("%s is %d, but %s takes %d", k.one(ffnKeys), ffn, s.dense.down, c.FFN)
		}
	}
	if s.experts == nil {
		return nil
	}
	if s.dense != nil {
		ffn = 0 // of the dense layers
	}
	if ffn = k.IntOr("moe_intermediate_size", ffn); ffn != 0 && ffn != s.experts.ffn {
		return k.refuse("the experts are of %d, but %s takes %d", ffn, s.experts.down, s.experts.ffn)
	}
	if n := k.IntOr(k.one(expertKeys), s.experts.experts); n != s.experts.experts {
		return k.refuse("%s is %d, but there are tensors of %d experts", k.one(expertKeys), n, s.experts.experts)
	}
	if !k.Has("norm_topk_prob") {
		return k.refuse("whether the weights of a token's experts are divided by their sum cannot be told; say so with config: {norm_topk_prob: true} or {norm_topk_prob: false}")
	}
	gate := kernels.Gate{Experts: s.experts.experts, K: k.Int(k.one(choiceKeys)), Renormalise: k.BoolOr("norm_topk_prob", false)}
	for i, r := range s.of {
		if r.experts > 0 {
			c.MoE[i] = model.MoE{FFN: r.ffn, Gate: gate, OutputBias: r.mlpBias}
		}
	}
	k.assume("an expert's weight is the softmax over all experts")
	return nil
}

// norm tells the kind of the norms by their biases, and holds it against the name of the config's epsilon.
func (k *unknown) norm(c *model.Config, r *roles) error {
	kind, names, others := kernels.RMSNorm, rmsKeys, layerNormKeys
	if r.normBias {
		kind, names, others = kernels.LayerNorm, layerNormKeys, rmsKeys
	}
	key := k.one(slices.Concat(names, anyNormKeys))
	switch other := k.one(others); {
	case !k.Has(key) && k.Has(other):
		return k.refuse("%s is there, but %s has a weight %s a bias; whether it subtracts the mean cannot be told", other, r.attnNorm, map[bool]string{true: "and", false: "without"}[r.normBias])
	case !k.Has(key):
		return k.refuse("the epsilon of the norms is not there; say it with config: {%s: …}", names[0])
	}
	c.Norm, c.Eps = kind, float32(k.FloatOr(key, 0))
	return nil
}

// positions settles how a token knows where it stands.
func (k *unknown) positions(c *model.Config, o outer) error {
	window := k.one(windowKeys)
	rotary := k.Has("rope_theta") || k.Under("rope_parameters").Has("rope_theta")
	switch {
	case c.Learned && rotary:
		return k.refuse("there are the table %s and rotary positions (rope_theta); which of them count cannot be told", o.positions)
	case c.Learned:
		if n := k.Int(window); n != o.window && k.Err() == nil {
			return k.refuse("%s is %d, but the table %s has %d rows; which one is position 0 cannot be told", window, n, o.positions, o.window)
		}
		return k.Err()
	case !rotary:
		return k.refuse("there is neither a table of positions nor rope_theta; how a token knows its position cannot be told: where rotary, say so with config: {rope_theta: 10000}")
	}
	c.Window, c.Rope = k.Int(window), rope(k.Facts, c.HeadDim)
	if c.Rope.Interleaved = k.BoolOr("rope_interleaved", false); !k.Has("rope_interleaved") {
		k.assume("positions rotate the first half of a head's values with the second (rope_interleaved: false)")
	}
	return k.Err()
}

// sliding settles how far back a token sees, which is alike in all layers.
func (k *unknown) sliding(c *model.Config) error {
	kinds := k.Strings("layer_types")
	slides := k.BoolOr("use_sliding_window", true)
	if len(kinds) > 0 {
		if i := slices.IndexFunc(kinds, func(kind string) bool { return kind != kinds[0] }); i >= 0 {
			return k.refuse("layer_types has %s and %s; one block can be understood, for all layers", kinds[0], kinds[i])
		}
		switch kinds[0] {
		case "full_attention":
			slides = false
		case "sliding_attention":
		default:
			return k.refuse("layer_types has %s; full_attention and sliding_attention can be understood", kinds[0])
		}
	}
	if slides {
		c.Sliding = k.IntOr("sliding_window", 0)
	}
	if c.Sliding > 0 && k.BoolOr("use_sliding_window", false) && k.IntOr("max_window_layers", 0) > 0 && len(kinds) == 0 {
		return k.refuse("sliding windows begin with layer %d (max_window_layers); one block can be understood, for all layers", k.Int("max_window_layers"))
	}
	return nil
}

// head settles whether the output embedding is the input's.
func (k *unknown) head(c *model.Config, o outer) error {
	if n := k.IntOr("vocab_size", o.vocab); n != o.vocab {
		return k.refuse("vocab_size is %d, but %s has %d rows", n, o.embed, o.vocab)
	}
	c.TiedHead = k.BoolOr("tie_word_embeddings", o.head == "")
	if !c.TiedHead && o.head == "" {
		return k.refuse("tie_word_embeddings is false, but there is no second table beside %s to be the head", o.embed)
	}
	return nil
}
