package engine

import (
	"slices"
	"testing"
)

// TestShortRowsAreNotOvertakenForEver: while chunk after chunk arrives, the short rows of each are admitted before the
// long ones of the chunks that come a step later, so that chunks get whole as the job goes on; in a window the longest
// rows come first.
func TestShortRowsAreNotOvertakenForEver(t *testing.T) {
	const seqs, rows, chunks = 16, 4, 100
	s := newScheduler(1000, 256, seqs, 1)
	left := make([]int, chunks) // rows of each chunk that are not finished
	for next, turns := 0, 0; next < chunks || !s.idle(); turns++ {
		if turns > 10_000 {
			t.Fatalf("not done after %d turns: %v", turns, left)
		}
		if next < chunks && s.backlog() < seqs { // as a rank asks for chunks
			s.turn()
			for i, length := range []int{100, 90, 80, 2} {
				q := &sequence{row: &rowState{number: int64(next)}, tokens: make([]int32, length), prompt: length, limit: length + 1}
				for j := range q.tokens {
					q.tokens[j] = int32(1000*next + 100*i + j)
				}
				if err := s.add(q); err != nil {
					t.Fatal(err)
				}
			}
			left[next] = rows
			next++
		}
		for _, p := range s.next(0) {
			if s.stored(p); p.seq.stored == p.seq.prompt {
				p.seq.finished = finishLength
				left[p.seq.row.number]--
			}
		}
		s.finish()
		open := 0
		for _, n := range left {
			if n > 0 {
				open++
			}
		}
		if most := 3 * seqs / rows; open > most { // of those in flight, and of two windows
			t.Fatalf("%d chunks are open after %d have come, %d at most should be: %v", open, next, most, left)
		}
	}
	if i := slices.IndexFunc(left, func(n int) bool { return n != 0 }); i >= 0 {
		t.Errorf("chunk %d has %d rows left", i, left[i])
	}
}

// TestABudgetCutsWhatCanBeCut: a rank with a smaller share of a step's tokens has as many fewer of prompts and scored texts, and
// a text that is read whole, or by blocks, comes through all the same.
func TestABudgetCutsWhatCanBeCut(t *testing.T) {
	for name, c := range map[string]struct {
		q    sequence
		want int // tokens of the first step
	}{
		"prompt":      {sequence{prompt: 60, limit: 61}, 10},
		"scored text": {sequence{prompt: 1, scoreFrom: 1, limit: 60}, 10},
		"blocks":      {sequence{prompt: 60, limit: 60, read: readSums}, 16},
		"whole text":  {sequence{prompt: 16, limit: 16, read: readFirst, whole: true}, 16},
	} {
		s := newScheduler(100, 16, 4, 1)
		s.budget = 10
		q := c.q
		q.row, q.tokens = &rowState{}, make([]int32, max(q.prompt, q.limit-1))
		if err := s.add(&q); err != nil {
			t.Fatal(err)
		}
		p := s.next(0)
		if len(p) != 1 || p[0].to-p[0].from != c.want {
			t.Errorf("%s: pieces %v, want one of %d tokens", name, p, c.want)
		}
	}
}
