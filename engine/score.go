package engine

import (
	"fmt"
	"math"
	"strings"
	"unicode"

	"github.com/dsbatch/dsbatch/io/results"
)

// joint encodes prompt and continuation together and tells where the continuation's tokens begin: where the prompt's
// own encoding ends (before the special tokens that some tokenizers put behind a text), white space at the prompt's end
// counted to the continuation (as lm-eval does, so that scores can be compared with its).
func (e *Engine) joint(prompt, continuation string, special bool) (tokens []int32, begin int, err error) {
	head := strings.TrimRightFunc(prompt, isSpace)
	own, err := e.tokenizer.Encode(head, special)
	if err != nil {
		return nil, 0, err
	}
	begin = len(own)
	if special {
		begin -= e.tokenizer.Behind()
	}
	tokens, err = e.tokenizer.Encode(head+prompt[len(head):]+continuation, special)
	return tokens, min(begin, len(tokens)), err
}

// isSpace is white space as Python's str.rstrip has it: Unicode's, and the four separators of ASCII.
func isSpace(r rune) bool { return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f }

// scoring makes the sequences that score tokens [begin, len(tokens)) of a row, each given those before it: one where
// the window holds them all, else windows that advance by stride, each scoring what the one before it did not.
func (e *Engine) scoring(row *rowState, tokens []int32, begin, stride int) error {
	if e.job.OutputLogits {
		return e.scoringWithLogits(row, tokens, begin)
	}
	begin = max(begin, 1) // the first token of a text has nothing before it
	if begin >= len(tokens) {
		return nil // nothing to score, and nothing wrong with it
	}
	// The last target is never fed, so a window of w positions scores a text of w+1 tokens.
	window := e.window + 1
	if len(tokens) > window && stride == 0 {
		return fmt.Errorf("the text has %d tokens, the window holds %d; score it in windows with --stride, or set it aside beforehand", len(tokens), window)
	}
	if len(tokens) <= window {
		row.seqs = append(row.seqs, &sequence{row: row, tokens: tokens, prompt: begin, limit: len(tokens),
			scoreFrom: begin, greedy: true, cut: -1})
		return nil
	}
	stride = min(stride, e.window)
	for from, done := 0, begin; done < len(tokens); from += stride {
		to := min(from+window, len(tokens))
		if to <= done {
			continue
		}
		row.seqs = append(row.seqs, &sequence{row: row, sample: int32(len(row.seqs)), tokens: tokens[from:to], prompt: done - from,
			limit: to - from, scoreFrom: done - from, greedy: true, cut: -1})
		done = to
	}
	return nil
}

// scoringWithLogits is scoring in one window, of which the logits of every token are kept: the last token is fed too.
func (e *Engine) scoringWithLogits(row *rowState, tokens []int32, begin int) error {
	if len(tokens) > e.window {
		return fmt.Errorf("the text has %d tokens, the window holds %d; logits are written of whole texts only: shorten it", len(tokens), e.window)
	}
	row.seqs = append(row.seqs, &sequence{row: row, tokens: tokens, prompt: len(tokens), limit: len(tokens),
		scoreFrom: max(begin, 1), greedy: true, cut: -1, dump: true})
	return nil
}

// scored is the record of a row whose sequences are all done.
func (e *Engine) scored(row *rowState) results.Record {
	r := results.Record{Row: row.number, ID: row.id, Greedy: true, TokenLogprobs: []float32{}}
	for _, q := range row.seqs {
		r.TokenLogprobs = append(r.TokenLogprobs, q.scores...)
		r.Greedy = r.Greedy && q.greedy
		r.Logits = q.logits
	}
	for _, lp := range r.TokenLogprobs { // one order of sums, whatever the windows and steps were
		r.Logprob += float64(lp)
	}
	r.Tokens = int32(len(r.TokenLogprobs))
	r.Perplexity = math.Exp(-r.Logprob / float64(max(r.Tokens, 1)))
	return r
}
