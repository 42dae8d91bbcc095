package engine

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
)

// scheduler decides which tokens are in the next step: every sequence that generates gives its last token, then
// prompts fill the token budget, in pieces where they are longer than what is left of it. Memory for a sequence's
// whole life is set aside when it is admitted, so none is ever thrown out half-way and computed again.
type scheduler struct {
	pool    *blockPool
	tokens  int // budget of a step
	budget  int // what of it prompts and scored texts fill
	seqs    int // most sequences in flight
	lanes   int // into which they are divided: a step has sequences of one
	waiting waitingQueue
	running []*sequence // in order of admission
	// computing counts the sequences in flight that will name a block: a later one with the same beginning waits for
	// it instead of computing it again.
	computing map[blockKey]int
	arrivals  int64
	window    int64 // that new arrivals belong to
	opened    int64 // arrivals before it
	pieces    []piece
}

// piece is a sequence's share of a step: its tokens [from, to).
type piece struct {
	seq      *sequence
	from, to int
}

func newScheduler(blocks, tokens, seqs, lanes int) *scheduler {
	return &scheduler{pool: newBlockPool(blocks), tokens: tokens, budget: tokens, seqs: seqs, lanes: lanes, computing: map[blockKey]int{}}
}

// add puts a sequence among those that wait. One that the whole cache could not hold is refused.
func (s *scheduler) add(q *sequence) error {
	if need, have := blocksFor(q.most()), len(s.pool.uses); need > have {
		return fmt.Errorf("it needs %d tokens of KV memory, and there is room for %d; raise --kv-memory or lower --max-new-tokens", need*blockTokens, have*blockTokens)
	}
	s.arrivals++
	heap.Push(&s.waiting, waitingSequence{q, s.arrivals, s.window})
	return nil
}

// turn is told that a chunk begins, and opens a window for it where the last one has filled a step. All of a window is
// admitted before the next: else short rows, which longer ones of later chunks overtake, would wait for the end of the
// job, and no chunk would be whole before it.
func (s *scheduler) turn() {
	if s.arrivals-s.opened >= int64(s.seqs) {
		s.window, s.opened = s.window+1, s.arrivals
	}
}

// idle tells whether nothing is left to do.
func (s *scheduler) idle() bool { return len(s.running) == 0 && len(s.waiting) == 0 }

// backlog is the number of sequences that wait.
func (s *scheduler) backlog() int { return len(s.waiting) }

// left is how many tokens all sequences will still put into the cache, at most, and how many of them those that could be lent.
func (s *scheduler) left() (all, spare int) {
	for _, w := range s.waiting {
		if all += w.most(); w.row.lendable() {
			spare += w.most()
		}
	}
	for _, q := range s.running {
		all += q.most() - q.stored
	}
	return all, spare
}

// lend takes rows of so many tokens out of those that wait, none of whose sequences has begun: the longest that fit.
func (s *scheduler) lend(tokens int) (rows []*rowState) {
	wait := map[*rowState]int{}
	for _, w := range s.waiting {
		if wait[w.row]++; wait[w.row] == len(w.row.seqs) && w.row.lendable() {
			rows = append(rows, w.row)
		}
	}
	size := func(row *rowState) (n int) {
		for _, q := range row.seqs {
			n += q.most()
		}
		return n
	}
	slices.SortFunc(rows, func(a, b *rowState) int { return cmp.Or(size(b)-size(a), cmp.Compare(a.number, b.number)) })
	taken := map[*rowState]bool{}
	rows = slices.DeleteFunc(rows, func(row *rowState) bool {
		n := size(row)
		if taken[row] = n <= tokens; taken[row] {
			tokens -= n
		}
		return !taken[row]
	})
	s.waiting = slices.DeleteFunc(s.waiting, func(w waitingSequence) bool { return taken[w.row] })
	heap.Init(&s.waiting)
	return rows
}

// next is the next step's pieces, of one lane's sequences in order of admission, good until the next call.
func (s *scheduler) next(lane int) []piece {
	s.admit(lane)
	left := s.tokens
	pieces := s.pieces[:0]
	for _, q := range s.running { // decode first: a sequence that generates never waits for a prompt
		if q.lane != lane {
			continue
		}
		if q.stored >= q.prompt && !q.once() && left > 0 {
			pieces = append(pieces, piece{q, q.stored, q.stored + 1})
			left--
		}
	}
	beyond := s.tokens - s.budget // for texts that cannot be cut anywhere
	for _, q := range s.running {
		if q.lane != lane || q.stored >= q.prompt && !q.once() {
			continue
		}
		room := left
		if q.read == noReadout {
			room -= beyond
		}
		if n := q.share(room); n > 0 {
			pieces = append(pieces, piece{q, q.stored, q.stored + n})
			left -= n
		}
	}
	s.pieces = pieces
	return pieces
}

// admit moves waiting sequences, the longest of a window first, into a lane while there is room and memory for them. A lane takes its
// share of what there is, so that no lane runs empty while another is full.
func (s *scheduler) admit(lane int) {
	var held []waitingSequence
	budget, room := s.tokens, ceil(min(s.seqs, len(s.running)+len(s.waiting)), s.lanes)
	for _, q := range s.running {
		if q.lane == lane {
			budget -= q.want()
			room--
		}
	}
	for ; len(s.waiting) > 0 && room > 0 && len(s.running) < s.seqs && budget > 0; room-- {
		w := s.waiting[0]
		ready, pending := s.shared(w.sequence)
		if pending {
			held = append(held, heap.Pop(&s.waiting).(waitingSequence))
			room++
			continue
		}
		if blocksFor(w.most())-ready > s.pool.available()-s.keptAmong(w.prefixKeys()[:ready]) {
			break
		}
		heap.Pop(&s.waiting)
		w.lane = lane
		s.start(w.sequence, ready)
		budget -= w.want()
	}
	for _, w := range held {
		heap.Push(&s.waiting, w)
	}
}

// shared is how many leading blocks of q are in the cache already, and whether the next one is being computed.
func (s *scheduler) shared(q *sequence) (ready int, pending bool) {
	keys := q.prefixKeys()
	for ready < len(keys) && s.pool.has(keys[ready]) {
		ready++
	}
	return ready, ready < len(keys) && s.computing[keys[ready]] > 0
}

// keptAmong counts the blocks of keys that no sequence uses: taking them up makes them unavailable to take.
func (s *scheduler) keptAmong(keys []blockKey) int {
	n := 0
	for _, k := range keys {
		if s.pool.uses[s.pool.named[k]] == 0 {
			n++
		}
	}
	return n
}

// start gives q its blocks, the first ready ones shared.
func (s *scheduler) start(q *sequence, ready int) {
	keys := q.prefixKeys()
	for _, k := range keys[:ready] {
		b, _ := s.pool.find(k)
		q.blocks = append(q.blocks, b)
	}
	for _, k := range keys[ready:] {
		s.computing[k]++
	}
	q.blocks = s.pool.take(blocksFor(q.most())-ready, q.blocks)
	q.stored = ready * blockTokens
	s.running = append(s.running, q)
}

// stored notes that a step has put a piece's keys and values into the cache.
func (s *scheduler) stored(p piece) {
	q := p.seq
	keys := q.prefixKeys()
	for b := q.stored / blockTokens; b < min(p.to/blockTokens, len(keys)); b++ {
		s.pool.name(q.blocks[b], keys[b])
		s.drop(keys[b])
	}
	q.stored = p.to
}

// finish takes finished sequences out and frees their blocks.
func (s *scheduler) finish() {
	kept := s.running[:0]
	for _, q := range s.running {
		if q.finished == "" {
			kept = append(kept, q)
			continue
		}
		keys := q.prefixKeys()
		for b := q.stored / blockTokens; b < len(keys); b++ {
			s.drop(keys[b])
		}
		s.pool.release(q.blocks)
		q.blocks = nil
	}
	clear(s.running[len(kept):])
	s.running = kept
}

func (s *scheduler) drop(k blockKey) {
	if s.computing[k]--; s.computing[k] <= 0 {
		delete(s.computing, k)
	}
}

// blocksFor is the number of blocks that hold so many tokens.
func blocksFor(tokens int) int { return ceil(tokens, blockTokens) }

func ceil(n, by int) int { return (n + by - 1) / by }

// waitingQueue is a heap: the earliest window first, in it the sequence with the most tokens ahead, so that memory is
// fullest early and the job ends with short ones; among equals the first come.
type waitingQueue []waitingSequence

type waitingSequence struct {
	*sequence
	arrival int64
	window  int64
}

func (w waitingQueue) Len() int      { return len(w) }
func (w waitingQueue) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *waitingQueue) Push(x any)   { *w = append(*w, x.(waitingSequence)) }
func (w *waitingQueue) Pop() any {
	old := *w
	last := old[len(old)-1]
	*w = old[:len(old)-1]
	return last
}
func (w waitingQueue) Less(i, j int) bool {
	if w[i].window != w[j].window {
		return w[i].window < w[j].window
	}
	if a, b := w[i].most(), w[j].most(); a != b {
		return a > b
	}
	return w[i].arrival < w[j].arrival
}
