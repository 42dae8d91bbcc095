package model

import (
	"context"
	"errors"

	"github.com/dsbatch/dsbatch/kernels"
)

// Head is what a model makes of its last hidden states.
type Head uint8

// The heads. Names of their tensors, beside a bias for each weight: head.dense, head.norm and head.bias (the last one alone
// a bias) of HeadMasks; pool and classifier.
const (
	HeadNext         Head = iota // logits of the next token, by the output embedding
	HeadMasks                    // logits of the token itself: norm(act(dense(x))), then the output embedding and its bias
	HeadLabels                   // logits of labels, of the pooler's output
	HeadLabelsByReLU             // the same of relu(pool(first hidden state)), which is no pooler's
	HeadNone
)

// ofVocabulary tells whether there are logits of tokens.
func (h Head) ofVocabulary() bool { return h == HeadNext || h == HeadMasks }

// Vocabulary tells whether the model makes logits of tokens.
func (c *Config) Vocabulary() bool { return c.Head.ofVocabulary() }

// Classifies tells whether the model makes logits of labels.
func (c *Config) Classifies() bool { return c.Head == HeadLabels || c.Head == HeadLabelsByReLU }

// heads are the small products over hidden states, which every rank of a tp group holds whole.
type heads struct {
	dense      kernels.Weights // HeadMasks: [hidden, hidden]
	norm       kernels.Norm    // after it
	pool       kernels.Weights // [hidden, hidden], or none
	pooler     bool            // pool is followed by tanh, and is a result by itself
	classifier kernels.Weights // [labels, hidden] F32, as what decides alone stays in it
	scratch    kernels.Tensor  // [1, n]; grows with need
}

// encoderHeads loads what stands on the last stage beside the output embedding. A pooler is loaded wherever it is.
func (l *loader) encoderHeads() {
	c, y := l.config, &l.model.heads
	all := l.whole(c.Hidden, c.Hidden)
	square := func(canonical string) kernels.Weights {
		return l.pack(canonical, l.one(l.linear(canonical, 0, 0, all, true)))
	}
	if c.Head == HeadMasks {
		y.dense, y.norm = square("head.dense"), l.normAt("head.norm", 0, c.Hidden, 0)
	}
	_, there := l.lookUp(l.policy.Tensors.name("pool", 0, 0))
	if there || c.Classifies() {
		w := square("pool")
		if !l.elsewhere {
			y.pool, y.pooler = w, c.Head != HeadLabelsByReLU
		}
	}
	if c.Classifies() {
		labels := l.one(l.linear("classifier", 0, 0, l.whole(len(c.Labels), c.Hidden), true))
		labels.DType, labels.Group = kernels.F32, 0
		y.classifier = l.pack("classifier", labels)
	}
}

// HasPooler tells whether Pool has something to compute; a model that was surveyed knows it too.
func (m *Model) HasPooler() bool { return m.heads.pooler }

// Errors of a caller who asks for what the model or its stage lacks.
var (
	errNoHead   = errors.New("logits are made on the last pipeline stage only")
	errNoPooler = errors.New("the model has no pooler here")
	errNoLabels = errors.New("the model has no labels here")
)

// Pool computes the pooler's output y of the first hidden states x of texts, both [rows, hidden].
func (m *Model) Pool(s kernels.Stream, y, x kernels.Tensor) error {
	if m.heads.pool == nil || !m.heads.pooler {
		return errNoPooler
	}
	s.Linear(y, x, m.heads.pool, kernels.Epilogue{})
	s.Tanh(y)
	return nil
}

// Classify computes logits [rows, labels] F32 of the first hidden states x [rows, hidden] of texts.
func (m *Model) Classify(s kernels.Stream, logits, x kernels.Tensor) error {
	if m.heads.classifier == nil {
		return errNoLabels
	}
	pooled, err := m.scratch(s, x)
	if err != nil {
		return err
	}
	if m.Config.Head == HeadLabelsByReLU {
		s.Linear(pooled, x, m.heads.pool, kernels.Epilogue{Act: kernels.ReLU})
	} else if err := m.Pool(s, pooled, x); err != nil {
		return err
	}
	s.Linear(logits, pooled, m.heads.classifier, kernels.Epilogue{})
	return nil
}

// Logits computes logits [rows, vocab] F32 of tokens, of x [rows, hidden] as Forward gives it. The ranks of a tp group call
// it together, with the same rows, and all get all logits.
func (m *Model) Logits(ctx context.Context, s kernels.Stream, logits, x kernels.Tensor) error {
	if m.head == nil {
		return errNoHead
	}
	if m.Config.Head == HeadMasks {
		t, err := m.scratch(s, x)
		if err != nil {
			return err
		}
		s.Linear(t, x, m.heads.dense, kernels.Epilogue{Act: m.Config.Act})
		s.Norm(t, t, kernels.Tensor{}, m.heads.norm)
		x = t
	}
	return m.logits(ctx, s, logits, x)
}

// scratch is a tensor of the shape of x, good until the next call.
func (m *Model) scratch(s kernels.Stream, x kernels.Tensor) (kernels.Tensor, error) {
	h, n := &m.heads, x.Rows*x.Cols
	if h.scratch.None() || h.scratch.Cols < n {
		if err := s.Sync(); err != nil { // what uses the old one
			return kernels.Tensor{}, err
		}
		h.free()
		t, err := m.device.Alloc("inside of a head", x.DType, 1, n)
		if err != nil {
			return t, err
		}
		h.scratch = t
	}
	return h.scratch.Reshape(x.Rows, x.Cols), nil
}

func (h *heads) free() {
	if !h.scratch.None() {
		h.scratch.Mem.Free()
		h.scratch = kernels.Tensor{}
	}
}
