package model_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/model"
)

// TestNamesOfOldFiles: tensors are found by the names that the hub's files have beside those of today, to the same bits.
func TestNamesOfOldFiles(t *testing.T) {
	texts := [][]int32{{1, 5, 9, 2, 7, 33}, {12}}
	for name, c := range map[string]struct {
		golden string
		rename func(string) string
		add    func(c map[string]any, x tensors)
	}{
		"gamma and beta": {"bert-classify", func(s string) string {
			return strings.NewReplacer("LayerNorm.weight", "LayerNorm.gamma", "LayerNorm.bias", "LayerNorm.beta").Replace(s)
		}, nil},
		"a bare model with the prefix of one with a head": {"bert-embed", func(s string) string { return "bert." + s }, nil},
		"both": {"bert-embed", func(s string) string {
			return "bert." + strings.NewReplacer("LayerNorm.weight", "LayerNorm.gamma", "LayerNorm.bias", "LayerNorm.beta").Replace(s)
		}, nil},
		"buffers, and the tied matrix twice": {"distilbert-mlm", func(s string) string { return s }, func(_ map[string]any, x tensors) {
			x["vocab_projector.weight"] = x["distilbert.embeddings.word_embeddings.weight"]
			x["distilbert.embeddings.position_ids"] = x["vocab_projector.bias"]
		}},
		"the head of the next sentence, as pre-training leaves it": {"bert-embed", func(s string) string { return s }, func(_ map[string]any, x tensors) {
			x["cls.seq_relationship.weight"], x["cls.seq_relationship.bias"] = x["pooler.dense.weight"], x["pooler.dense.bias"]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := edited(t, c.golden, "config.json", func(facts map[string]any, x tensors) {
				renamed := tensors{}
				for old, value := range x {
					renamed[c.rename(old)] = value
				}
				clear(x)
				maps.Copy(x, renamed)
				if c.add != nil {
					c.add(facts, x)
				}
			})
			want := newRunner(t, golden(t, c.golden), 64, model.LoadOptions{}).forward(texts...)
			got := newRunner(t, dir, 64, model.LoadOptions{}).forward(texts...)
			if !sameBits(got.logits, want.logits) || !sameBits(got.pooled, want.pooled) || len(got.logits)+len(got.pooled) == 0 {
				t.Error("other bits than by today's names")
			}
		})
	}
}

// TestPoolerOfAModelWithAnotherHead: a masked language model's file that has the pooler has its results too.
func TestPoolerOfAModelWithAnotherHead(t *testing.T) {
	text := []int32{1, 5, 9, 2, 7, 33}
	want := newRunner(t, golden(t, "bert-embed"), 64, model.LoadOptions{}).forward(text)
	dir := edited(t, "bert-embed", "config.json", func(c map[string]any, x tensors) {
		c["architectures"] = []any{"BertForMaskedLM"}
		square, row := x["pooler.dense.weight"], x["pooler.dense.bias"]
		x["cls.predictions.transform.dense.weight"], x["cls.predictions.transform.dense.bias"] = square, row
		x["cls.predictions.transform.LayerNorm.weight"], x["cls.predictions.transform.LayerNorm.bias"] = row, row
		bias := x["embeddings.word_embeddings.weight"] // its first column's worth
		x["cls.predictions.bias"] = tensor{DType: "F32", Shape: []int64{160}, data: bias.data[:4*160]}
	})
	got := newRunner(t, dir, 64, model.LoadOptions{}).forward(text)
	if !sameBits(got.pooled, want.pooled) || len(got.logits) != len(text)*160 {
		t.Error("the pooler gives other bits, or there are no logits beside it")
	}
	if without := newRunner(t, golden(t, "distilbert-mlm"), 64, model.LoadOptions{}); without.model.HasPooler() {
		t.Error("DistilBERT has a pooler")
	}
}

// TestDistilBERTClassifies: what stands before the classifier is relu(dense(first hidden state)).
func TestDistilBERTClassifies(t *testing.T) {
	text := []int32{1, 5, 9, 2, 7, 33}
	var square, row, weight, bias []float32
	dir := edited(t, "distilbert-mlm", "config.json", func(c map[string]any, x tensors) {
		c["architectures"], c["num_labels"] = []any{"DistilBertForSequenceClassification"}, 3.0
		x["pre_classifier.weight"], x["pre_classifier.bias"] = x["vocab_transform.weight"], x["vocab_transform.bias"]
		table := x["distilbert.embeddings.word_embeddings.weight"]
		x["classifier.weight"] = tensor{DType: "F32", Shape: []int64{3, 48}, data: table.data[:4*3*48]}
		x["classifier.bias"] = tensor{DType: "F32", Shape: []int64{3}, data: table.data[4*1000 : 4*1003]}
		for name := range x {
			if strings.HasPrefix(name, "vocab_") {
				delete(x, name)
			}
		}
	})
	r := newRunner(t, dir, 64, model.LoadOptions{})
	for name, to := range map[string]*[]float32{"pre_classifier.weight": &square, "pre_classifier.bias": &row, "classifier.weight": &weight, "classifier.bias": &bias} {
		x, ok := r.checkpoint.Tensor(name)
		if !ok {
			t.Fatal(name)
		}
		values, err := x.Floats()
		check(t, err)
		*to = values
	}
	y := r.forward(text)
	first, want := y.hidden[len(y.hidden)-1][:48], make([]float32, 3)
	for label := range want {
		want[label] = bias[label]
		for j := range 48 {
			inner := row[j]
			for i, x := range first {
				inner += square[j*48+i] * x
			}
			want[label] += weight[label*48+j] * max(inner, 0)
		}
	}
	near(t, "logits", y.logits, want, 3)
	if labels := []string{"LABEL_0", "LABEL_1", "LABEL_2"}; !slices.Equal(r.model.Config.Labels, labels) {
		t.Errorf("labels %v, want %v", r.model.Config.Labels, labels)
	}
}

// TestEncodersThatAreRefused: configs whose models would read a text in another way, and tensors that are not there.
func TestEncodersThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		golden string
		edit   func(c map[string]any, x tensors)
		kind   error
		say    string
	}{
		"a decoder":              {"bert-embed", func(c map[string]any, _ tensors) { c["is_decoder"] = true }, model.ErrConfig, "is_decoder is true"},
		"relative positions":     {"bert-embed", func(c map[string]any, _ tensors) { c["position_embedding_type"] = "relative_key" }, model.ErrConfig, `position_embedding_type "relative_key"`},
		"an unknown activation":  {"distilbert-mlm", func(c map[string]any, _ tensors) { c["activation"] = "mish" }, model.ErrConfig, "mish"},
		"uneven heads":           {"distilbert-mlm", func(c map[string]any, _ tensors) { c["n_heads"] = 5.0 }, model.ErrConfig, "n_heads 5"},
		"a label without a name": {"bert-classify", func(c map[string]any, _ tensors) { c["id2label"] = map[string]any{"0": "no", "2": "yes"} }, model.ErrConfig, "no text for 1"},
		"more labels than rows":  {"bert-classify", func(c map[string]any, _ tensors) { delete(c, "id2label"); c["num_labels"] = 4.0 }, model.ErrTensor, "classifier.weight is [3 32]"},
		"labels without number":  {"bert-classify", func(c map[string]any, _ tensors) { delete(c, "id2label"); c["num_labels"] = 1e9 }, model.ErrConfig, "labels"},
		"no pooler to classify":  {"bert-classify", func(_ map[string]any, x tensors) { delete(x, "bert.pooler.dense.weight") }, model.ErrTensor, "pooler.dense.weight is missing"},
		"no head":                {"distilbert-mlm", func(_ map[string]any, x tensors) { delete(x, "vocab_transform.weight") }, model.ErrTensor, "vocab_transform.weight is missing"},
		"no types":               {"bert-embed", func(_ map[string]any, x tensors) { delete(x, "embeddings.token_type_embeddings.weight") }, model.ErrTensor, "token_type_embeddings.weight is missing"},
		"a tensor too many":      {"bert-embed", func(_ map[string]any, x tensors) { x["encoder.more.weight"] = x["pooler.dense.weight"] }, model.ErrTensor, "encoder.more.weight"},
	} {
		t.Run(name, func(t *testing.T) {
			device, err := openDevice()
			check(t, err)
			defer func() { check(t, device.Close()) }()
			m, file, err := open(edited(t, c.golden, "config.json", c.edit), device, model.LoadOptions{})
			if m != nil {
				m.Close()
			}
			check(t, file.Close())
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v; want it to say %q", err, c.say)
			}
		})
	}
}
