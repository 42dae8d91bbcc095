package ckpt

import (
	"regexp"
	"strconv"
	"strings"
)

// layersPrefix begins the names of a layer's tensors, before its number.
const layersPrefix = "language_model.encoder.layers."

// renames are the beginnings of names that older and newer versions of Megatron wrote, and what stands for them here;
// the first that fits is applied. Source: Megatron-DeepSpeed's language_model.py and checkpointing.py through the years.
var renames = []struct{ old, new string }{
	{"encoderlayers.", layersPrefix}, // experts that its moe branch hoists to the top, the dot lost
	{"language_model.transformer.", "language_model.encoder."},
	{"transformer.", "language_model.encoder."},
	{"encoder.", "language_model.encoder."},
	{"word_embeddings.", "language_model.embedding.word_embeddings."},
	{"position_embeddings.", "language_model.embedding.position_embeddings."},
	{"tokentype_embeddings.", "language_model.embedding.tokentype_embeddings."},
}

// canonical is the name under which a Megatron tensor is known here; keep is false for the copy of the word embeddings
// that the last pipeline stage carries for its head.
func canonical(raw string) (name string, keep bool) {
	name = raw
	for strings.HasPrefix(name, "module.") { // of a wrapper that was saved too
		name = name[len("module."):]
	}
	if strings.HasPrefix(name, "word_embeddings_for_head.") {
		return "", false
	}
	for _, r := range renames {
		if rest, ok := strings.CutPrefix(name, r.old); ok {
			name = r.new + rest
			break
		}
	}
	if _, rest, ok := layerOf(name); ok && strings.HasPrefix(rest, "self_attention.") {
		name = strings.Replace(name, ".self_attention.", ".attention.", 1)
	}
	return name, true
}

// layerOf splits a canonical name into its layer's number and what follows it.
func layerOf(name string) (layer int, rest string, ok bool) {
	after, ok := strings.CutPrefix(name, layersPrefix)
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(after, ".")
	layer, err := strconv.Atoi(number)
	return layer, rest, ok && err == nil && layer >= 0 && number == strconv.Itoa(layer)
}

// inLayer is the name of a layer's tensor.
func inLayer(layer int, rest string) string { return layersPrefix + strconv.Itoa(layer) + "." + rest }

// expertName finds an expert's number in a canonical name.
var expertName = regexp.MustCompile(`^language_model\.encoder\.layers\.(\d+)\.mlp\.deepspeed_moe\.experts\.deepspeed_experts\.(\d+)\.`)

// gateName is what every layer of experts has, of shape [experts, hidden].
const gateName = "mlp.deepspeed_moe.gate.wg.weight"

// cut tells how tensor parallelism cuts a tensor.
type cut int

const (
	whole   cut = iota // the same on every rank
	rows               // along axis 0
	columns            // along axis 1
	qkv                // along axis 0, in an order of rows that the version tells
)

// cutOf tells how a tensor of a canonical name is cut. mlp is true for the linears of experts and residual MLPs, which
// the ranks hold whole unless expert-slicing was on: there the sizes decide.
func cutOf(name string) (c cut, mlp bool) {
	mlp = strings.Contains(name, ".deepspeed_experts.") || strings.Contains(name, ".mlp.mlp.")
	switch {
	case strings.Contains(name, ".attention.query_key_value."):
		return qkv, false
	case strings.HasSuffix(name, ".attention.dense.weight"):
		return columns, false
	case strings.Contains(name, ".dense_h_to_4h."):
		return rows, mlp
	case strings.HasSuffix(name, ".dense_4h_to_h.weight"):
		return columns, mlp
	case strings.HasSuffix(name, "word_embeddings.weight"), strings.HasSuffix(name, "output_layer.weight"),
		strings.HasSuffix(name, "lm_head.weight"), strings.HasSuffix(name, "final_linear.weight"):
		return rows, false
	}
	return whole, false
}
