package comm

import (
	"context"
	"fmt"

	"github.com/dsbatch/dsbatch/mpi"
)

// AllToAll carries rows of tokens to the ranks that hold their experts, and the results back. A layer calls Count,
// Dispatch and Combine in this order, on all ranks of the ep group, ranks without a token too. Exact counts travel: no
// row is padded, none is dropped, and the bytes that arrive don't depend on the algorithm.
//
// Rows lie in the memory of the back end that made the AllToAll: host memory for one made by NewFlat. Its slices are
// views of that memory, which are read and written from the call to its return. One goroutine at a time.
type AllToAll interface {
	// Count tells each rank how many rows it will get. sendRows[e] is the number of rows that this rank has for expert e
	// of the layer [experts]; the ranks of the group hold equal, contiguous runs of experts. The result is
	// rows[source][local expert], valid until the next Count.
	Count(ctx context.Context, sendRows []int) (rows [][]int, err error)
	// Dispatch sends rows of rowBytes bytes, which lie in send in the order of experts. recv gets them by source, then by
	// local expert, each source's in the order in which they were sent: as many as Count has told.
	Dispatch(ctx context.Context, recv, send []byte, rowBytes int) error
	// Combine is the reverse of Dispatch: send holds a row for each that Dispatch has received, in that order, and recv
	// gets one for each that it has sent, in that order. rowBytes may differ.
	Combine(ctx context.Context, recv, send []byte, rowBytes int) error
	// Traffic returns what this rank has sent since the AllToAll was made.
	Traffic() Traffic
}

// Traffic is what a rank has sent to other ranks.
type Traffic struct {
	Rows     int64 // dispatched or combined
	Bytes    int64 // of these rows
	Sent     int64 // bytes put on the wire: Bytes, counts, and what an algorithm forwards for others
	Messages int64
}

// counts of one exchange, as every algorithm needs them.
type rowCounts struct {
	group    mpi.World
	local    int     // experts of each rank
	rows     [][]int // [source][local]
	flat     []int   // rows' elements
	to, from []int   // rows for and from each rank
	sum      [2]int  // of to and from
	out, in  []byte  // the counts on their way
	counted  bool
}

func (c *rowCounts) total(sent bool) int {
	if sent {
		return c.sum[0]
	}
	return c.sum[1]
}

// take checks sendRows and sums it up by rank.
func (c *rowCounts) take(sendRows []int) error {
	p := c.group.Size()
	if len(sendRows)%p != 0 || len(sendRows) == 0 {
		return fmt.Errorf("%s cannot be spread evenly over %s", count(len(sendRows), "expert"), count(p, "rank"))
	}
	if local := len(sendRows) / p; c.local != local {
		c.local = local
		c.flat, c.rows = make([]int, len(sendRows)), make([][]int, p)
		for s := range c.rows {
			c.rows[s] = c.flat[s*local : (s+1)*local]
		}
		c.to, c.from = make([]int, p), make([]int, p)
		c.out, c.in = make([]byte, 4*len(sendRows)), make([]byte, 4*len(sendRows))
	}
	for e, n := range sendRows {
		if n < 0 || n > 1<<31-1 {
			return fmt.Errorf("expert %d: %d rows", e, n)
		}
	}
	return nil
}

// check tells whether send and recv have the room that the counts say.
func (c *rowCounts) check(recv, send []byte, rowBytes int, dispatch bool) error {
	if !c.counted {
		return fmt.Errorf("rows are moved before they are counted")
	}
	if rowBytes < 1 {
		return fmt.Errorf("rows of %d bytes", rowBytes)
	}
	if n := c.total(dispatch) * rowBytes; len(send) != n {
		return fmt.Errorf("%d bytes to send, the counts say %d", len(send), n)
	}
	if n := c.total(!dispatch) * rowBytes; len(recv) != n {
		return fmt.Errorf("%d bytes to receive, the counts say %d", len(recv), n)
	}
	return nil
}
