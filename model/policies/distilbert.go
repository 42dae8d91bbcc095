package policies

import "github.com/dsbatch/dsbatch/model"

// DistilBERT: arXiv 1910.01108; BERT without token types and pooler. What stands before its classifier is a layer of that
// alone. Golden: distilbert-mlm.
func distilBERT() model.Policy {
	const layer = "distilbert.transformer.layer.{layer}."
	return model.Policy{
		Architectures: []string{"DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"},
		Configure:     configureDistilBERT,
		Prefix:        "distilbert.",
		Ignored:       []string{"embeddings.position_ids"},
		Tensors: model.Names{
			"embed": "distilbert.embeddings.word_embeddings.weight", "positions": "distilbert.embeddings.position_embeddings.weight",
			"embed.norm": "distilbert.embeddings.LayerNorm.weight",
			"attn.q":     layer + "attention.q_lin.weight",
			"attn.k":     layer + "attention.k_lin.weight",
			"attn.v":     layer + "attention.v_lin.weight",
			"attn.out":   layer + "attention.out_lin.weight",
			"attn.norm":  layer + "sa_layer_norm.weight",
			"mlp.up":     layer + "ffn.lin1.weight",
			"mlp.down":   layer + "ffn.lin2.weight",
			"mlp.norm":   layer + "output_layer_norm.weight",
			"pool":       "pre_classifier.weight", "classifier": "classifier.weight",
			"head.dense": "vocab_transform.weight", "head.norm": "vocab_layer_norm.weight",
			"head": "vocab_projector.weight", "head.bias": "vocab_projector.bias",
		},
	}
}

func configureDistilBERT(f model.Facts) (model.Config, error) {
	act, err := activation(f, "activation")
	if err != nil {
		return model.Config{}, err
	}
	c := encoder(f, "distilbert", encoderKeys{"n_layers", "dim", "n_heads", "hidden_dim"})
	c.Act, c.Eps = act, 1e-12
	switch architecture(f) {
	case "DistilBertForMaskedLM":
		c.Head = model.HeadMasks
	case "DistilBertForSequenceClassification":
		c.Head = model.HeadLabelsByReLU
	}
	if err := f.Err(); err != nil {
		return c, err
	}
	return finishEncoder(f, c, "n_heads", "dim")
}
