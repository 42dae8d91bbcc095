package engine

import (
	"math/rand/v2"
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

// TestBlocksAreForeseen: before rows are admitted it is known which blocks they will be in at most, and of a few rows with a
// lot of room no more is foreseen than they need.
func TestBlocksAreForeseen(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		s := newScheduler(20+random.IntN(200), 64, 1+random.IntN(20), 1)
		for row := int64(0); row < 60; {
			need := 0
			for range random.IntN(8) {
				q := &sequence{row: &rowState{number: row}, tokens: make([]int32, 1+random.IntN(60))}
				for i := range q.tokens {
					q.tokens[i] = int32(row/3)*100 + int32(i) // beginnings that rows share
				}
				q.prompt, q.limit = len(q.tokens), len(q.tokens)+1+random.IntN(20)
				if err := s.add(q); err != nil {
					t.Fatal(err)
				}
				row, need = row+1, need+blocksFor(q.most())
			}
			before, foreseen := s.pool.opened, s.foreseen()
			if len(s.waiting) <= s.seqs && foreseen > before+s.need {
				t.Fatalf("%d blocks are foreseen, after %d, for rows of %d", foreseen, before, s.need)
			}
			for _, p := range s.next(0) {
				if s.stored(p); p.to >= p.seq.prompt && random.IntN(3) == 0 {
					p.seq.finished = finishLength
				}
			}
			for _, q := range s.running {
				if last := int(slices.Max(q.blocks)); last >= foreseen {
					t.Fatalf("block %d is used, and %d were foreseen of %d", last, foreseen, len(s.pool.uses))
				}
			}
			s.finish()
		}
		if s.waiting = nil; s.need < 0 {
			t.Fatalf("rows that wait need %d blocks", s.need)
		}
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
