package policies

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/model"
)

// BERT: arXiv 1810.04805; bare, with the head of its masked language model, or with one of labels. The second half of its
// pre-training, whether a text follows another, is nothing that is computed here. Golden: bert-embed, bert-mlm,
// bert-classify.
func bert() model.Policy {
	const layer = "bert.encoder.layer.{layer}."
	return model.Policy{
		Architectures: []string{"BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"},
		Configure:     configureBERT,
		Prefix:        "bert.",
		Ignored:       []string{"embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias", "cls.predictions.decoder.bias"},
		Tensors: model.Names{
			"embed": "bert.embeddings.word_embeddings.weight", "positions": "bert.embeddings.position_embeddings.weight",
			"types": "bert.embeddings.token_type_embeddings.weight", "embed.norm": "bert.embeddings.LayerNorm.weight",
			"attn.q":    layer + "attention.self.query.weight",
			"attn.k":    layer + "attention.self.key.weight",
			"attn.v":    layer + "attention.self.value.weight",
			"attn.out":  layer + "attention.output.dense.weight",
			"attn.norm": layer + "attention.output.LayerNorm.weight",
			"mlp.up":    layer + "intermediate.dense.weight",
			"mlp.down":  layer + "output.dense.weight",
			"mlp.norm":  layer + "output.LayerNorm.weight",
			"pool":      "bert.pooler.dense.weight", "classifier": "classifier.weight",
			"head.dense": "cls.predictions.transform.dense.weight", "head.norm": "cls.predictions.transform.LayerNorm.weight",
			"head": "cls.predictions.decoder.weight", "head.bias": "cls.predictions.bias",
		},
	}
}

func configureBERT(f model.Facts) (model.Config, error) {
	act, err := activation(f, "hidden_act")
	if err != nil {
		return model.Config{}, err
	}
	c := encoder(f, "bert", encoderKeys{"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"})
	c.Act, c.Eps, c.Types = act, float32(f.FloatOr("layer_norm_eps", 1e-12)), f.Int("type_vocab_size")
	switch architecture(f) {
	case "BertForMaskedLM", "BertForPreTraining":
		c.Head = model.HeadMasks
	case "BertForSequenceClassification":
		c.Head = model.HeadLabels
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	if f.BoolOr("is_decoder", false) {
		return c, fmt.Errorf("%w: %s: is_decoder is true; BERT reads a text in both directions here, and generates none", model.ErrConfig, f.Source)
	}
	if kind := f.StringOr("position_embedding_type", "absolute"); kind != "absolute" {
		return c, fmt.Errorf("%w: %s: position_embedding_type %q is not supported; absolute is", model.ErrConfig, f.Source, kind)
	}
	return finishEncoder(f, c, "num_attention_heads", "hidden_size")
}

// encoderKeys are what a family's config calls the sizes that all encoders have.
type encoderKeys struct{ layers, hidden, heads, ffn string }

// encoder is what BERT and the families after it share: learned positions, both directions, norms after the additions,
// biases everywhere.
func encoder(f model.Facts, family string, keys encoderKeys) model.Config {
	hidden, heads := f.Int(keys.hidden), f.Int(keys.heads)
	return model.Config{
		Family: family, Layers: f.Int(keys.layers), Hidden: hidden, Heads: heads, KVHeads: heads, HeadDim: hidden / max(heads, 1),
		FFN: f.Int(keys.ffn), Vocab: f.Int("vocab_size"), Tokens: f.Int("vocab_size"), Window: f.Int("max_position_embeddings"),
		Norm: kernels.LayerNorm, Learned: true, Bias: model.Bias{QKV: true, Out: true, MLP: true}, BOS: -1, Mask: int32(f.IntOr("mask_token_id", -1)),
		Bidirectional: true, Order: model.PostNorm, EmbedNorm: true, Head: model.HeadNone,
		TiedHead: f.BoolOr("tie_word_embeddings", true),
	}
}

// finishEncoder makes the layers and labels of a config whose numbers are right.
func finishEncoder(f model.Facts, c model.Config, heads, hidden string) (model.Config, error) {
	if err := divides(f, heads, c.Heads, hidden, c.Hidden); err != nil {
		return c, err
	}
	c.MoE = dense(c.Layers)
	if c.Classifies() {
		var err error
		if c.Labels, err = labels(f); err != nil {
			return c, err
		}
	}
	return c, f.Err()
}

// architecture is the first one that a config names.
func architecture(f model.Facts) string {
	return append(f.Strings("architectures"), f.StringOr("architecture", ""))[0]
}

// mostLabels bounds what is made before a tensor is looked for.
const mostLabels = 1 << 20

// labels are a config's id2label; without it as many as num_labels says, or two, called as transformers calls them.
func labels(f model.Facts) ([]string, error) {
	n := f.IntOr("num_labels", 2)
	names := f.Under("id2label").Values
	if len(names) > 0 {
		n = len(names)
	}
	if n < 1 || n > mostLabels {
		return nil, fmt.Errorf("%w: %s: %d labels; 1 to %d can be", model.ErrConfig, f.Source, n, mostLabels)
	}
	all := make([]string, n)
	for i := range all {
		all[i] = "LABEL_" + strconv.Itoa(i)
		if len(names) == 0 {
			continue
		}
		name, ok := names[strconv.Itoa(i)].(string)
		if !ok {
			return nil, fmt.Errorf("%w: %s: id2label has %d labels, but no text for %d", model.ErrConfig, f.Source, n, i)
		}
		all[i] = name
	}
	if empty := slices.IndexFunc(all, func(name string) bool { return name == "" }); empty >= 0 {
		return nil, fmt.Errorf("%w: %s: label %d of id2label is empty; give it a name", model.ErrConfig, f.Source, empty)
	}
	return all, nil
}
