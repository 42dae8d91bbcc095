package engine

import (
	"fmt"
	"math"
	"slices"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
)

// How tokens become one embedding, as --pooling says.
const (
	poolingMean   = "mean"
	poolingCLS    = "cls"    // the first token's last hidden state
	poolingLast   = "last"   // the last token's
	poolingPooler = "pooler" // the first token's, through the model's pooler
)

// candidates is how many tokens are reported for a mask where --top-k does not say.
const candidates = 5

// readRow makes the one sequence of a row that is embedded, classified or whose masks are filled.
func (e *Engine) readRow(row *rowState, in *dataset.Row) error {
	tokens, places, err := e.texts(in)
	if err != nil {
		return err
	}
	if len(tokens) > e.window {
		return fmt.Errorf("the text has %d tokens, the window holds %d; shorten it, as --truncate does with texts, or set it aside beforehand", len(tokens), e.window)
	}
	q := &sequence{row: row, tokens: tokens, places: places, prompt: len(tokens), limit: len(tokens), cut: -1, read: e.reading().of,
		whole: e.shape.Bidirectional, dump: e.job.OutputLogits && e.job.Task != config.Classify}
	if q.read == readMasks {
		q.mask, q.sampling = e.mask, sampling{topP: 1, penalty: 1, logprobs: e.candidates()}
		if !slices.Contains(tokens, e.mask) {
			return fmt.Errorf("the text has no mask; write %s in the place of a token", e.maskName())
		}
	}
	row.seqs = append(row.seqs, q)
	return nil
}

// texts are the tokens of a row's text, or of its pair of texts as the tokenizer joins them, and of a pair, where the model
// tells the two apart by types of tokens, their places in its table of positions.
func (e *Engine) texts(in *dataset.Row) (tokens, places []int32, err error) {
	var types []int32
	switch {
	case e.job.Truncate && in.HasPair:
		tokens, types, err = e.tokenizer.EncodeWithin(e.window, in.Prompt, in.Pair)
	case e.job.Truncate:
		tokens, types, err = e.tokenizer.EncodeWithin(e.window, in.Prompt)
	case in.HasPair:
		tokens, types, err = e.tokenizer.EncodePair(in.Prompt, in.Pair)
	default:
		tokens, err = e.prompt(in)
		return tokens, nil, err
	}
	if err == nil {
		err = e.known(tokens)
	}
	if err != nil || e.shape.Types == 0 || !in.HasPair {
		return tokens, nil, err
	}
	for at, kind := range types {
		if int(kind) >= e.shape.Types {
			return nil, nil, fmt.Errorf("token %d is of type %d, and the model has types up to %d; it tells no pairs apart", at, kind, e.shape.Types-1)
		}
		places = append(places, e.shape.Place(at, kind))
	}
	return tokens, places, nil
}

// candidates is how many tokens are reported for a mask.
func (e *Engine) candidates() int {
	if e.job.TopK > 0 {
		return e.job.TopK
	}
	return min(candidates, e.shape.Tokens)
}

// maskText is what a tokenizer of the families that fill masks calls the mask.
const maskText = "[MASK]"

// findMask settles which token is a mask: the config's mask_token_id, else the tokenizer's.
func (e *Engine) findMask() error {
	if e.job.Task != config.FillMask {
		return nil
	}
	e.mask = e.shape.Mask
	if e.mask < 0 && e.tokenizer != nil {
		if id, ok := e.tokenizer.ID(maskText); ok {
			e.mask = id
		}
	}
	switch {
	case e.mask < 0 && e.tokenizer == nil:
		return fmt.Errorf("%w: which token is a mask is not known, as %s has no tokenizer; put its tokenizer there, or name the id with mask_token_id under inference: config", ErrRefused, e.checkpoint.Path)
	case e.mask < 0:
		return fmt.Errorf("%w: which token is a mask is not known, as the tokenizer in %s has no %s; name the id with mask_token_id under inference: config", ErrRefused, e.checkpoint.Path, maskText)
	case int(e.mask) >= e.shape.Tokens:
		return fmt.Errorf("%w: mask_token_id is %d, and the model's vocabulary ends at %d", ErrRefused, e.mask, e.shape.Tokens-1)
	case e.job.TopK > e.shape.Tokens:
		return fmt.Errorf("%w: --top-k %d, and the model's vocabulary has %d tokens; ask for fewer", ErrRefused, e.job.TopK, e.shape.Tokens)
	}
	return nil
}

// maskName is the mask as a row's author writes it.
func (e *Engine) maskName() string {
	if e.tokenizer != nil && e.job.IDsColumn == "" {
		if name, ok := e.tokenizer.Token(e.mask); ok {
			return name
		}
	}
	return fmt.Sprintf("id %d", e.mask)
}

// headFits refuses what the job wants of a head that the model lacks; which poolers there are, its tensors tell.
func (e *Engine) headFits() error {
	j, c := e.job, &e.shape
	if j.OutputLogits && !c.Vocabulary() && j.Task != config.Classify {
		return fmt.Errorf("%w: --output-logits: %s makes no logits of tokens; leave it out", ErrRefused, e.checkpoint.Path)
	}
	if j.Task == config.Embed && j.Pooling == poolingPooler && e.place.last() && !e.model.HasPooler() {
		return fmt.Errorf("%w: --pooling pooler: %s has no pooler; use mean, cls or last", ErrRefused, e.checkpoint.Path)
	}
	return nil
}

// wasRead is the record of a row whose sequence is done.
func (e *Engine) wasRead(row *rowState) results.Record {
	q := row.seqs[0]
	r := results.Record{Row: row.number, ID: row.id, PromptTokens: int32(len(q.tokens)), Logits: q.logits}
	switch e.job.Task {
	case config.Embed:
		if r.Embedding = q.vector; q.read == readSums {
			r.Embedding = q.mean()
		}
	case config.Classify:
		r.Label, r.Logits = e.shape.Labels[argmax(q.vector)], q.vector
	case config.FillMask:
		r.Predictions = e.predictions(q)
	}
	return r
}

// predictions are the likeliest tokens for each mask, in the order of the text.
func (e *Engine) predictions(q *sequence) (list []results.Prediction) {
	for i, at := range q.masks {
		for _, t := range q.top[i] {
			p := results.Prediction{Position: at, TokenID: t.id, Probability: float32(math.Exp(float64(t.logprob)))}
			if e.tokenizer != nil {
				text := e.tokenizer.Decode([]int32{t.id}, false)
				p.Token = &text
			}
			list = append(list, p)
		}
	}
	return list
}
