package engine

import (
	"slices"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/shard"
)

// What each rank tells the others before a step, by place.
const (
	votePlan     = iota // the length of its plan for the step, 0: it has none
	voteTokens          // tokens of that plan
	voteWants           // it wants another chunk
	voteBacklog         // sequences that wait or run
	voteBlocks          // blocks of its cache that have ever been in use, this step's among them
	votePending         // chunks that it is reading
	voteMeasure         // the job is long enough to measure the machine
	voteStop            // it was asked to stop
	voteFailed          // it cannot go on
	voteLeads           // it leads its replica
	voteLeft            // tokens that its rows still have, drawn ones at most
	voteSpare           // of these, of sequences that have not begun
	voteDone            // borrowed rows that it has finished and not handed back
	voteBorrowed        // and those that it has not finished
	voteDense           // millions of floating-point operations for its tokens so far, beside experts
	voteExperts         // and by its experts
	voteRows            // rows finished so far
	voteBad             // of those, set aside
	votePrompt          // prompt tokens so far
	voteOutput          // generated tokens so far
	votes
)

// queue is the chunks that no rank has taken yet. Every rank holds the same queue and takes from it by the same rule,
// so nobody has to be asked who does what.
type queue struct {
	chunks []shard.Chunk
	next   int
}

// assign gives a chunk to each rank that wants one, to those with the least work first, and returns this rank's.
func (q *queue) assign(v comm.Votes, ranks, mine int) []shard.Chunk {
	var wanting []int
	for r := range ranks {
		if v.Of(r, voteWants) != 0 {
			wanting = append(wanting, r)
		}
	}
	slices.SortStableFunc(wanting, func(a, b int) int { return int(v.Of(a, voteBacklog) - v.Of(b, voteBacklog)) })
	var got []shard.Chunk
	for _, r := range wanting {
		if q.next == len(q.chunks) {
			break
		}
		if r == mine {
			got = append(got, q.chunks[q.next])
		}
		q.next++
	}
	return got
}

// empty tells whether every chunk has been taken.
func (q *queue) empty() bool { return q.next == len(q.chunks) }
