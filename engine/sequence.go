package engine

// sampling is how one row's tokens are drawn. The zero Temperature is greedy.
type sampling struct {
	temperature, topP, minP, penalty float32
	topK                             int32
	seed                             uint64
	ignoreEOS                        bool
	least                            int // drawn tokens none of which is an end token or completes a stop string
	stop                             []string
	logprobs                         int // most probable tokens to report with each drawn one; -1: none asked for, not even the drawn one's own
}

// readout is what is read of a sequence that is computed once, neither continued nor scored.
type readout uint8

const (
	noReadout readout = iota
	readMasks         // the likeliest tokens in the place of each mask
	readFirst         // a vector that is made of its first token's hidden state
	readLast          // of its last one's
	readSums          // the sums of its hidden states, by blocks of tokens
)

// sequence is a row in flight: a prompt and, when generating, the tokens drawn so far; when scoring, the positions
// whose next token is scored; else what is read of it.
type sequence struct {
	row    *rowState
	sample int32

	tokens   []int32 // prompt, then what was drawn
	places   []int32 // of the tokens of a pair of texts in the table of positions, which knows their types; nil: their positions
	prompt   int     // tokens of the prompt
	limit    int     // most tokens, drawn ones included
	sampling sampling

	scoreFrom int // scoring: the first target's place in tokens; 0: not scoring
	scores    []float32
	greedy    bool
	logits    []float32 // [prompt tokens, vocab], where the job asks for them; len 0 otherwise
	dump      bool      // it does

	read   readout
	whole  bool      // all of it is in one step: its tokens see later ones
	mask   int32     // readMasks: the token that is one
	masks  []int32   // their places
	vector []float32 // what was read
	sums   []float64 // readSums: so far

	lane   int     // of the scheduler
	stored int     // tokens whose keys and values are in the cache
	blocks []int32 // of the cache
	keys   []blockKey

	cumulative float64
	logprobs   []float32
	top        [][]topToken
	text       *stopText
	finished   string // finish reason, "" while in flight
	cut        int    // bytes of output before a stop string, -1: none
}

// topToken is one of the most probable tokens at a position.
type topToken struct {
	id      int32
	logprob float32
}

// scoring tells whether the sequence is scored rather than continued.
func (q *sequence) scoring() bool { return q.scoreFrom > 0 }

// once tells whether the sequence is done when its tokens are: nothing is drawn that continues it.
func (q *sequence) once() bool { return q.scoring() || q.read != noReadout }

// share is how many of its tokens the sequence gives to a step with room for so many. One that is whole gives all or none,
// one whose sums are read whole blocks, so that what is added up does not depend on the step.
func (q *sequence) share(room int) int {
	n := min(q.want(), room)
	switch {
	case n == q.want():
	case q.whole:
		return 0
	case q.read == readSums:
		n -= n % blockTokens
	}
	return n
}

// want is the number of known tokens that the cache does not hold yet: the prompt's rest, or the token drawn last.
// A scored text's last token is a target only.
func (q *sequence) want() int {
	if q.scoring() && !q.dump {
		return len(q.tokens) - 1 - q.stored
	}
	return len(q.tokens) - q.stored
}

// most is the most tokens that the cache will ever hold of it: the last drawn token is never fed, nor is the last target.
func (q *sequence) most() int {
	if q.once() {
		return q.stored + q.want()
	}
	return max(q.limit-1, q.prompt)
}

// shareable is how many leading tokens may come from another sequence's blocks: all before the first position whose
// logits are needed.
func (q *sequence) shareable() int {
	if q.dump || q.read != noReadout {
		return 0
	}
	if q.scoring() {
		return q.scoreFrom - 1
	}
	return q.prompt - 1
}

// prefixKeys are the keys of the whole blocks that may be shared, computed once.
func (q *sequence) prefixKeys() []blockKey {
	if q.keys == nil {
		q.keys = make([]blockKey, 0, q.shareable()/blockTokens)
		var k blockKey
		for at := 0; at+blockTokens <= q.shareable(); at += blockTokens {
			k = k.next(q.tokens[at : at+blockTokens])
			q.keys = append(q.keys, k)
		}
	}
	return q.keys
}
