package cuda

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// twoQueues are lanes whose queues run in any interleaving, as a GPU's do: only events order them.
type twoQueues struct {
	computing, copying []func() bool // false: it has to wait
	content            []int         // of the buffers: a group; -1: junk, since one is being copied
	free, there        []*bool       // the last events of each buffer
	readers            []int         // of each buffer, ops that are reading it
	brought            int
	fault              string
}

func newTwoQueues(buffers int) *twoQueues {
	q := &twoQueues{content: make([]int, buffers), free: make([]*bool, buffers), there: make([]*bool, buffers), readers: make([]int, buffers)}
	for b := range q.content {
		q.content[b] = -1
	}
	return q
}

func waits(event *bool) func() bool { return func() bool { return event == nil || *event } }

func (q *twoQueues) bring(group, buffer int) error {
	q.brought++
	done := new(bool)
	q.copying = append(q.copying, waits(q.free[buffer]),
		func() bool {
			if q.readers[buffer] > 0 {
				q.fault = fmt.Sprintf("group %d is copied over what is read in buffer %d", group, buffer)
			}
			q.content[buffer] = -1
			return true
		},
		func() bool { q.content[buffer], *done = group, true; return true })
	q.there[buffer] = done
	return nil
}

func (q *twoQueues) await(buffer int) error {
	q.computing = append(q.computing, waits(q.there[buffer]))
	return nil
}

func (q *twoQueues) leave(buffer int) error {
	done := new(bool)
	q.computing = append(q.computing, func() bool { *done = true; return true })
	q.free[buffer] = done
	return nil
}

// reads enqueues ops of a group: they begin, and some time later they end.
func (q *twoQueues) reads(group int) {
	b := group % len(q.content)
	look := func() {
		if q.content[b] != group {
			q.fault = fmt.Sprintf("ops of group %d read group %d in buffer %d", group, q.content[b], b)
		}
	}
	q.computing = append(q.computing, func() bool { look(); q.readers[b]++; return true }, func() bool { look(); q.readers[b]--; return true })
}

// run runs both queues to their ends, in turns that draw says.
func (q *twoQueues) run(copyFirst func() bool) {
	for len(q.computing)+len(q.copying) > 0 {
		moved := false
		for turn := range 2 {
			queue := &q.computing
			if (turn == 0) == copyFirst() {
				queue = &q.copying
			}
			if len(*queue) > 0 && (*queue)[0]() {
				*queue, moved = (*queue)[1:], true
				break
			}
		}
		if !moved && !step(&q.computing) && !step(&q.copying) {
			q.fault = "the queues wait for each other"
			return
		}
	}
}

func step(queue *[]func() bool) bool {
	if len(*queue) == 0 || !(*queue)[0]() {
		return false
	}
	*queue = (*queue)[1:]
	return true
}

// TestOrder: whatever the queues do first, ops read their own group, no group is copied over one that is read, and nothing waits
// for ever; also after rounds that were given up half-way. Where all groups have a buffer each is brought once.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups, buffers := rapid.IntRange(1, 7).Draw(t, "groups"), rapid.IntRange(2, 5).Draw(t, "buffers")
		q := newTwoQueues(buffers)
		o := newOrder(q, groups, buffers)
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		check(o.fill())
		rounds := rapid.IntRange(1, 4).Draw(t, "rounds")
		whole := 0
		for range rounds {
			until := groups
			if rapid.IntRange(0, 3).Draw(t, "given up") == 0 {
				until = rapid.IntRange(0, groups).Draw(t, "until")
			}
			for g := range until {
				check(o.enter(g))
				q.reads(g)
				if g < until-1 || until == groups {
					check(o.leave())
				}
			}
			if until == groups {
				whole++
			}
			if rapid.Bool().Draw(t, "waited for") {
				q.run(func() bool { return rapid.Bool().Draw(t, "copy first") })
			}
		}
		q.run(func() bool { return rapid.Bool().Draw(t, "copy first") })
		if q.fault != "" {
			t.Fatal(q.fault)
		}
		if groups <= buffers && q.brought != groups {
			t.Fatalf("%d groups in %d buffers: %d copies", groups, buffers, q.brought)
		}
		if most := groups*whole + buffers; whole == rounds && groups > buffers && q.brought > most {
			t.Fatalf("%d groups, %d buffers, %d rounds: %d copies", groups, buffers, rounds, q.brought)
		}
	})
}

// TestOrderIsAhead: while a group is read, the next ones are on their way, in the order of their turns and over the end of a
// round.
func TestOrderIsAhead(t *testing.T) {
	for _, c := range []struct{ groups, buffers int }{{4, 2}, {5, 2}, {6, 3}, {7, 3}, {2, 2}, {9, 4}} {
		q := newTwoQueues(c.buffers)
		o := newOrder(q, c.groups, c.buffers)
		if err := o.fill(); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			for g := range c.groups {
				if err := o.enter(g); err != nil {
					t.Fatal(err)
				}
				for ahead := range c.buffers - 1 {
					n := (g + 1 + ahead) % c.groups
					shared := n < g && (n%c.buffers == g%c.buffers || isNeeded(n, g, c.groups, c.buffers))
					if held := o.holds[n%c.buffers] == n; !held && !shared {
						t.Errorf("%+v, round %d: group %d is not on its way while %d is read", c, round, n, g)
					}
				}
				if err := o.leave(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// isNeeded tells whether, at the end of a round, the buffer of group n of the next one is still needed by a group of this
// one that comes after g.
func isNeeded(n, g, groups, buffers int) bool {
	for later := g + 1; later < groups; later++ {
		if later%buffers == n%buffers {
			return true
		}
	}
	return false
}
