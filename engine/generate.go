package engine

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/io/results"
)

// Finish reasons of a generated row.
const (
	finishStop   = "stop"   // an end token or a stop string
	finishLength = "length" // max_new_tokens, or the window is full
	finishError  = "error"
)

// generation makes a row's sequences, one a sample.
func (e *Engine) generation(row *rowState, prompt []int32, s sampling, newTokens, samples int) error {
	window := e.window
	if len(prompt)+e.minOut > window {
		return fmt.Errorf("the prompt has %d tokens, and the window of %d leaves no room for %d more; shorten it, or set it aside beforehand", len(prompt), window, e.minOut)
	}
	for sample := range samples {
		// Room for what is drawn is made as it is drawn; samples share nothing that is written to.
		row.seqs = append(row.seqs, &sequence{
			row: row, sample: int32(sample), tokens: slices.Clone(prompt), prompt: len(prompt),
			limit: len(prompt) + min(newTokens, window-len(prompt)), sampling: s, text: watch(e.tokenizer, s.stop),
			cut: -1, dump: e.job.OutputLogits,
		})
	}
	return nil
}

// settle decides whether a sequence ends with the token just drawn.
func (e *Engine) settle(q *sequence) {
	id := q.tokens[len(q.tokens)-1]
	if !q.sampling.ignoreEOS && slices.Contains(e.eos, id) {
		q.finished = finishStop
		return
	}
	switch {
	case q.stops():
		q.finished = finishStop
	case len(q.tokens) >= q.limit:
		q.finished = finishLength
	}
}

// stops adds the token just drawn to the text that is watched, and tells whether a stop string ends the sequence with it.
func (q *sequence) stops() bool {
	id := q.tokens[len(q.tokens)-1]
	switch {
	case q.text == nil:
		return false
	case len(q.tokens)-q.prompt <= q.sampling.least: // nor has an end token come, they were banned
		q.text.pass(id)
		return false
	}
	q.cut = q.text.push(id)
	return q.cut >= 0
}

// generated is the record of a finished sample.
func (e *Engine) generated(q *sequence) results.Record {
	ids := q.tokens[q.prompt:]
	r := results.Record{
		Row: q.row.number, ID: q.row.id, Sample: q.sample, OutputIDs: ids, FinishReason: q.finished,
		PromptTokens: int32(q.prompt), OutputTokens: int32(len(ids)), CumulativeLogprob: q.cumulative, Logits: q.logits,
	}
	if e.tokenizer != nil {
		text := ""
		switch {
		case q.cut >= 0:
			text = q.text.text.String()[:q.cut]
		case q.finished == finishStop:
			text = e.tokenizer.Decode(ids[:len(ids)-1], true)
		default:
			text = e.tokenizer.Decode(ids, true)
		}
		r.Output = &text
	}
	if q.sampling.logprobs >= 0 {
		r.TokenLogprobs = q.logprobs
		for _, top := range q.top {
			var list []results.TokenLogprob
			for _, t := range top {
				list = append(list, results.TokenLogprob{TokenID: t.id, Logprob: t.logprob})
			}
			r.TopLogprobs = append(r.TopLogprobs, list)
		}
	}
	return r
}
