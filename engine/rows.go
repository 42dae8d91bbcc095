package engine

import (
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/dataset"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/shard"
)

// rowState is a row in flight.
type rowState struct {
	chunk  *chunkState
	number int64
	id     any
	seqs   []*sequence
	left   int // sequences not yet finished
	bad    string

	borrowed bool // of another rank, the lender, which has its chunk
	lender   int
}

// chunkState is a chunk in flight on this rank: its rows finish in any order and are committed in input order.
type chunkState struct {
	chunk shard.Chunk
	rows  []*rowState        // nil: finished by an earlier start
	saved [][]results.Record // what that has left of each row
	left  int                // rows not yet finished
}

// newRow makes the sequences of an input row. What is wrong with the row becomes its reason to be set aside.
func (e *Engine) newRow(in *dataset.Row) *rowState {
	row := &rowState{number: in.Number, id: in.ID}
	var err error
	switch {
	case in.Err != nil:
		err = in.Err.Err
	case e.job.Task == config.Score:
		err = e.scoreRow(row, in)
	case e.reading().of != noReadout:
		err = e.readRow(row, in)
	default:
		err = e.generateRow(row, in)
	}
	if err != nil {
		row.bad, row.seqs = err.Error(), nil
	}
	row.left = len(row.seqs)
	return row
}

func (e *Engine) generateRow(row *rowState, in *dataset.Row) error {
	prompt, err := e.prompt(in)
	if err != nil {
		return err
	}
	s, newTokens, err := e.sampling(in.Overrides)
	if err != nil {
		return err
	}
	return e.generation(row, prompt, s, newTokens, max(e.job.N, 1))
}

func (e *Engine) scoreRow(row *rowState, in *dataset.Row) error {
	if in.HasContinuation {
		prompt, special, err := e.promptText(in)
		if err != nil {
			return err
		}
		tokens, begin, err := e.joint(prompt, in.Continuation, special)
		if err == nil && begin == 0 {
			err = fmt.Errorf("the prompt gives no token, so nothing precedes the continuation; give it a text")
		}
		if err != nil {
			return err
		}
		return e.scoring(row, tokens, begin, e.job.Stride)
	}
	tokens, err := e.prompt(in)
	if err != nil {
		return err
	}
	return e.scoring(row, tokens, 1, e.job.Stride)
}

// prompt is a row's tokens: its ids as they are, or its text encoded with the special tokens that the tokenizer adds.
func (e *Engine) prompt(in *dataset.Row) ([]int32, error) {
	ids := in.IDs
	if e.job.IDsColumn == "" {
		text, special, err := e.promptText(in)
		if err != nil {
			return nil, err
		}
		if ids, err = e.tokenizer.Encode(text, special); err != nil {
			return nil, err
		}
	}
	return ids, e.known(ids)
}

// known refuses ids that are none, or beyond the model's vocabulary.
func (e *Engine) known(ids []int32) error {
	if len(ids) == 0 {
		return fmt.Errorf("the prompt gives no token; give it a text")
	}
	for i, id := range ids {
		if id < 0 || int(id) >= e.model.Config.Tokens {
			return fmt.Errorf("token %d is id %d, and the model's vocabulary ends at %d", i, id, e.model.Config.Tokens-1)
		}
	}
	return nil
}

// promptText is a row's text, and whether the tokenizer is to add special tokens to it: a chat template writes its own.
func (e *Engine) promptText(in *dataset.Row) (text string, special bool, err error) {
	if e.job.MessagesColumn == "" {
		return in.Prompt, true, nil
	}
	text, err = e.chats.render(e.job.MessagesColumn, in)
	return text, false, err
}

// sampling is the job's sampling with a row's own settings over it.
func (e *Engine) sampling(o dataset.Overrides) (s sampling, newTokens int, err error) {
	j := e.job
	s = sampling{
		temperature: float32(j.Temperature), topP: float32(j.TopP), minP: float32(j.MinP), penalty: float32(j.RepetitionPenalty),
		topK: int32(j.TopK), seed: j.Seed, ignoreEOS: j.IgnoreEOS, stop: j.Stop, logprobs: -1,
	}
	if j.Logprobs > 0 {
		s.logprobs = j.Logprobs
	}
	newTokens, s.least = j.MaxNewTokens, j.MinNewTokens
	if o.MaxNewTokens != nil {
		newTokens = int(*o.MaxNewTokens)
	}
	if o.MinNewTokens != nil {
		s.least = int(*o.MinNewTokens)
	}
	if o.Temperature != nil {
		s.temperature = float32(*o.Temperature)
	}
	if o.TopK != nil {
		s.topK = *o.TopK
	}
	if o.TopP != nil {
		s.topP = float32(*o.TopP)
	}
	if o.Seed != nil {
		s.seed = uint64(*o.Seed)
	}
	if o.Stop != nil {
		s.stop = o.Stop
	}
	switch {
	case newTokens < 1:
		err = fmt.Errorf("max_new_tokens is %d; it must be at least 1", newTokens)
	case s.least < 0:
		err = fmt.Errorf("min_new_tokens is %d; it must be 0 (off) or above", s.least)
	case s.least > newTokens:
		err = fmt.Errorf("min_new_tokens is %d, more than the %d that max_new_tokens allows; lower the one or raise the other", s.least, newTokens)
	case !(s.temperature >= 0):
		err = fmt.Errorf("temperature is %v; it must be 0 (greedy) or above", s.temperature)
	case !(s.topP > 0 && s.topP <= 1):
		err = fmt.Errorf("top_p is %v; it must be above 0 and at most 1 (off)", s.topP)
	case s.topK < 0:
		err = fmt.Errorf("top_k is %d; it must be 0 (off) or above", s.topK)
	case slices.Contains(s.stop, ""):
		err = fmt.Errorf("stop has an empty text, which every output ends with at once; give null or an empty list where there is none")
	case len(s.stop) > 0 && e.tokenizer == nil:
		err = fmt.Errorf("stop is a text, and the model has no tokenizer that would turn tokens into texts; give null")
	}
	return s, newTokens, err
}

// records are what a finished row leaves in the output.
func (e *Engine) records(row *rowState) []results.Record {
	if row.bad != "" {
		records := make([]results.Record, e.samples())
		for i := range records {
			records[i] = results.Record{Row: row.number, ID: row.id, Sample: int32(i), FinishReason: finishError, Error: row.bad}
		}
		return records
	}
	if e.job.Task == config.Score {
		return []results.Record{e.scored(row)}
	}
	if e.reading().of != noReadout {
		return []results.Record{e.wasRead(row)}
	}
	records := make([]results.Record, len(row.seqs))
	for i, q := range row.seqs {
		records[i] = e.generated(q)
	}
	return records
}

// setAside puts an error record in the place of those of each bad row; both go by row, ascending. A row that was bad before
// keeps its reason; the others are returned.
func setAside(records []results.Record, bad []*dataset.RowError) (fresh []*dataset.RowError) {
	for i, r := range records {
		for len(bad) > 0 && bad[0].Row < r.Row {
			bad = bad[1:]
		}
		if r.Error != "" || len(bad) == 0 || bad[0].Row != r.Row {
			continue
		}
		records[i] = results.Record{Row: r.Row, ID: r.ID, Sample: r.Sample, FinishReason: finishError, Error: bad[0].Err.Error()}
		if r.Sample == 0 {
			fresh = append(fresh, bad[0])
		}
	}
	return fresh
}

// samples is the number of records of a row.
func (e *Engine) samples() int {
	if e.job.Task == config.Generate {
		return max(e.job.N, 1)
	}
	return 1
}

// finished is the records of a chunk's rows that are finished, in input order.
func (e *Engine) finished(c *chunkState) (records []results.Record) {
	for i, row := range c.rows {
		switch {
		case row == nil:
			records = append(records, c.saved[i]...)
		case row.left == 0:
			records = append(records, e.records(row)...)
		}
	}
	return records
}
