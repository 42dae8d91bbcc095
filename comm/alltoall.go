package comm

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dsbatch/dsbatch/mpi"
)

// AllToAll carries rows of tokens to the ranks that hold their experts, and the results back. A layer calls Count,
// Counted, Dispatch, Finish, Combine and Finish in this order, on all ranks of the ep group, ranks without a token too. Exact
// counts travel: no row is padded, none is dropped, and the bytes that arrive don't depend on the algorithm.
//
// Count, Dispatch and Combine begin and wait for no other rank: a layer that has something to compute meanwhile does so
// before it calls Counted or Finish. Rows lie in the memory of the back end that made the AllToAll: host memory for one made by NewFlat. The
// slices are views of that memory, and the AllToAll's own until Finish has returned. One goroutine at a time.
type AllToAll interface {
	// Count begins to tell each rank how many rows it will get. sendRows[e] is the number of rows that this rank has for
	// expert e of the layer [experts]; the ranks of the group hold equal, contiguous runs of experts. (Where an expert has
	// copies, each counts as an expert of its own.) sendRows stays as it is until Counted has returned.
	Count(ctx context.Context, sendRows []int) error
	// Counted waits for the counts: rows[source][local expert], valid until the next Count.
	Counted(ctx context.Context) (rows [][]int, err error)
	// Dispatch begins to send rows of rowBytes bytes, which lie in send in the order of experts. recv gets them by source, then by
	// local expert, each source's in the order in which they were sent: as many as Count has told.
	Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error
	// Combine begins the reverse of Dispatch: send holds a row for each that Dispatch has received, in that order, and recv
	// gets one for each that it has sent, in that order. rowBytes may differ.
	Combine(ctx context.Context, recv, send []byte, rowBytes int) error
	// Ready tells, without waiting, whether Counted, or Finish, would go on at once: what this rank waits for first has come.
	Ready() bool
	// Finish waits until the rows of the Dispatch or Combine that was begun are there, and its own have left.
	Finish(ctx context.Context) error
	// Traffic returns what this rank has sent since the AllToAll was made.
	Traffic() Traffic
	// String names the algorithm and the ranks it works with.
	String() string
}

// Traffic is what a rank has sent to other ranks.
type Traffic struct {
	Rows     int64 // dispatched or combined
	Bytes    int64 // of these rows
	Sent     int64 // bytes put on the wire: Bytes, counts, and what an algorithm forwards or gathers
	Messages int64
}

// Plus is the sum of two.
func (t Traffic) Plus(o Traffic) Traffic {
	return Traffic{t.Rows + o.Rows, t.Bytes + o.Bytes, t.Sent + o.Sent, t.Messages + o.Messages}
}

// Gathered counts that each of so many ranks, this one among them, gets so many bytes of this one.
func (t *Traffic) Gathered(ranks int, bytes int64) {
	if bytes > 0 {
		t.Sent += int64(ranks-1) * bytes
		t.Messages += int64(ranks - 1)
	}
}

// tally is what every algorithm keeps: the counts of one exchange, and the traffic of all.
type tally struct {
	group        mpi.World
	local        int     // experts of each rank
	sendRows     []int   // as Count was given them
	ones         []int   // a row for each rank: its counts
	rows         [][]int // [source][local]
	flat         []int   // rows' elements
	to, from     []int   // rows for and from each rank
	sum          [2]int  // of to and from
	out, in      []byte  // the counts on their way
	counted      bool    // there are counts
	sends, recvs []int64 // bytes of one hop, a rank each
	traffic      Traffic
}

func newTally(group mpi.World) tally {
	p := group.Size()
	return tally{group: group, to: make([]int, p), from: make([]int, p), ones: slices.Repeat([]int{1}, p),
		sends: make([]int64, p), recvs: make([]int64, p)}
}

// Traffic returns what this rank has sent.
func (c *tally) Traffic() Traffic { return c.traffic }

// open takes the rows for each expert and makes of them the counts that travel.
func (c *tally) open(sendRows []int) error {
	c.counted, c.sendRows = false, sendRows
	p := c.group.Size()
	if len(sendRows)%p != 0 || len(sendRows) == 0 {
		return fmt.Errorf("all-to-all: %s cannot be spread evenly over %s", count(len(sendRows), "expert"), count(p, "rank"))
	}
	if local := len(sendRows) / p; c.local != local {
		c.local = local
		c.flat, c.rows = make([]int, len(sendRows)), make([][]int, p)
		for s := range c.rows {
			c.rows[s] = c.flat[s*local : (s+1)*local]
		}
		c.out, c.in = make([]byte, 4*len(sendRows)), make([]byte, 4*len(sendRows))
	}
	for e, n := range sendRows {
		if n < 0 || n > 1<<31-1 {
			return fmt.Errorf("all-to-all: expert %d: %d rows", e, n)
		}
		binary.LittleEndian.PutUint32(c.out[4*e:], uint32(n))
	}
	return nil
}

// settle reads the counts that have come.
func (c *tally) settle() {
	for i := range c.flat {
		c.flat[i] = int(binary.LittleEndian.Uint32(c.in[4*i:]))
	}
	for r := range c.to {
		c.to[r], c.from[r] = sum(c.sendRows[r*c.local:(r+1)*c.local]), sum(c.rows[r])
	}
	c.sum = [2]int{sum(c.to), sum(c.from)}
	c.counted = true
}

func (c *tally) total(sent bool) int {
	if sent {
		return c.sum[0]
	}
	return c.sum[1]
}

// check tells whether send and recv have the room that the counts say, and notes the rows that leave this rank.
func (c *tally) check(recv, send []byte, rowBytes int, dispatch bool) error {
	if rowBytes < 1 || len(recv)%rowBytes != 0 || len(send)%rowBytes != 0 {
		return fmt.Errorf("%s: %d bytes to send and %d to receive in rows of %d bytes", moveName(dispatch), len(send), len(recv), rowBytes)
	}
	return c.note(len(recv)/rowBytes, len(send)/rowBytes, rowBytes, dispatch)
}

func moveName(dispatch bool) string {
	if dispatch {
		return "dispatch"
	}
	return "combine"
}

// note is check by rows.
func (c *tally) note(recv, send, rowBytes int, dispatch bool) error {
	what, to := moveName(dispatch), c.from
	if dispatch {
		to = c.to
	}
	if !c.counted {
		return fmt.Errorf("%s: rows are moved before they are counted", what)
	}
	if n := c.total(dispatch); send != n {
		return fmt.Errorf("%s: %d rows to send, the counts say %d", what, send, n)
	}
	if n := c.total(!dispatch); recv != n {
		return fmt.Errorf("%s: %d rows to receive, the counts say %d", what, recv, n)
	}
	leave := int64(sum(to) - to[c.group.Rank()])
	c.traffic.Rows += leave
	c.traffic.Bytes += leave * int64(rowBytes)
	return nil
}

// hop begins to exchange rows, sends[r] to and recvs[r] from each rank r. Ranks for which there are none get no message.
func (c *tally) hop(ctx context.Context, recv []byte, recvs []int, send []byte, sends []int, rowBytes int) error {
	for r := range sends {
		c.sends[r], c.recvs[r] = int64(sends[r])*int64(rowBytes), int64(recvs[r])*int64(rowBytes)
		if sends[r] > 0 && r != c.group.Rank() {
			c.traffic.Sent += c.sends[r]
			c.traffic.Messages++
		}
	}
	return c.group.BeginAllToAllV(ctx, send, c.sends, recv, c.recvs)
}

// Ready tells whether the hop under way is through.
func (c *tally) Ready() bool { return c.group.TestAllToAllV() }

// Finish waits for the hop under way.
func (c *tally) Finish(ctx context.Context) error { return c.group.EndAllToAllV(ctx) }

func sum(n []int) (all int) {
	for _, x := range n {
		all += x
	}
	return all
}
