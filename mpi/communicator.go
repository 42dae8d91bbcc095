package mpi

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// A transport moves the bytes of one communicator. Its arguments have been checked: ranks and tags are in range, lengths
// and counts are not negative and fit their buffers, as far as one rank can tell.
type transport interface {
	barrier(ctx context.Context) error
	bcast(ctx context.Context, root int, b []byte) error
	allGather(ctx context.Context, send, recv []byte) error
	allGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error
	allReduce(ctx context.Context, op Op, v []int64) error
	allToAll(ctx context.Context, send, recv []byte) error
	// beginAllToAllV begins an exchange and returns what waits for its end.
	beginAllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) (end func(context.Context) error, err error)
	testAllToAllV() bool // of the exchange under way
	send(ctx context.Context, to, tag int, b []byte) error
	recv(ctx context.Context, from, tag int, b []byte) error
	split(ctx context.Context, color, key int) (child transport, rank, size int, err error) // nil where color < 0
	node(ctx context.Context) (child transport, rank, size int, err error)
	abort(code int, err *Error)
	close(status int) error
}

// communicator is the World of every kind: it checks arguments and names rank and host in errors.
type communicator struct {
	transport  transport
	rank, size int
	first      int // this rank in the first world
	host       string
	closed     bool
	end        func(context.Context) error // of the all-to-all under way; nil: none is
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

func (c *communicator) Rank() int    { return c.rank }
func (c *communicator) Size() int    { return c.size }
func (c *communicator) Host() string { return c.host }

// fault wraps what a call returned; it leaves nil nil.
func (c *communicator) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	peer := -1
	var by *ended
	if errors.As(err, &by) && by.rank != c.first {
		peer = by.rank
	}
	return &Error{Op: op, Rank: c.first, Host: c.host, Peer: peer, Err: err}
}

// ready tells whether a call may begin.
func (c *communicator) ready(ctx context.Context) error {
	if c.closed {
		return errors.New("this world has been closed")
	}
	return ctx.Err()
}

// free is ready for a collective call.
func (c *communicator) free(ctx context.Context) error {
	if c.end != nil {
		return errors.New("an all-to-all of this world has begun and not ended")
	}
	return c.ready(ctx)
}

func (c *communicator) Barrier(ctx context.Context) error {
	const op = "barrier"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	return c.fault(op, c.transport.barrier(ctx))
}

func (c *communicator) Bcast(ctx context.Context, root int, b []byte) error {
	const op = "broadcast"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	if err := c.isRank(root); err != nil {
		return c.fault(op, err)
	}
	return c.fault(op, c.transport.bcast(ctx, root, b))
}

func (c *communicator) AllGather(ctx context.Context, send, recv []byte) error {
	const op = "all-gather"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	if len(recv) != len(send)*c.size {
		return c.fault(op, fmt.Errorf("%d bytes to receive %d from each of %d ranks", len(recv), len(send), c.size))
	}
	return c.fault(op, c.transport.allGather(ctx, send, recv))
}

func (c *communicator) AllGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	const op = "all-gather"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	if err := c.fits("receive", recv, recvCounts); err != nil {
		return c.fault(op, err)
	}
	if recvCounts[c.rank] != int64(len(send)) {
		return c.fault(op, fmt.Errorf("sends %d bytes, and expects %d of itself", len(send), recvCounts[c.rank]))
	}
	return c.fault(op, c.transport.allGatherV(ctx, send, recv, recvCounts))
}

func (c *communicator) AllReduceInt64(ctx context.Context, op Op, v []int64) error {
	name := "all-reduce (" + op.String() + ")"
	if err := c.free(ctx); err != nil {
		return c.fault(name, err)
	}
	if op < Sum || op > Min {
		return c.fault(name, fmt.Errorf("operation %d is none of Sum, Max, Min", int(op)))
	}
	return c.fault(name, c.transport.allReduce(ctx, op, v))
}

func (c *communicator) AllToAll(ctx context.Context, send, recv []byte) error {
	const op = "all-to-all"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	if len(send)%c.size != 0 || len(recv) != len(send) {
		return c.fault(op, fmt.Errorf("%d bytes to send and %d to receive, among %d ranks", len(send), len(recv), c.size))
	}
	return c.fault(op, c.transport.allToAll(ctx, send, recv))
}

func (c *communicator) AllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
	if err := c.BeginAllToAllV(ctx, send, sendCounts, recv, recvCounts); err != nil {
		return err
	}
	return c.EndAllToAllV(ctx)
}

func (c *communicator) BeginAllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) (err error) {
	const op = "all-to-all"
	if err := c.free(ctx); err != nil {
		return c.fault(op, err)
	}
	if err := c.fits("send", send, sendCounts); err != nil {
		return c.fault(op, err)
	}
	if err := c.fits("receive", recv, recvCounts); err != nil {
		return c.fault(op, err)
	}
	if sendCounts[c.rank] != recvCounts[c.rank] {
		return c.fault(op, fmt.Errorf("sends itself %d bytes, and expects %d", sendCounts[c.rank], recvCounts[c.rank]))
	}
	c.end, err = c.transport.beginAllToAllV(ctx, send, sendCounts, recv, recvCounts)
	return c.fault(op, err)
}

func (c *communicator) TestAllToAllV() bool { return c.end == nil || c.transport.testAllToAllV() }

func (c *communicator) EndAllToAllV(ctx context.Context) error {
	const op = "all-to-all"
	end := c.end
	if end == nil {
		return c.fault(op, errors.New("none of this world has begun"))
	}
	c.end = nil
	return c.fault(op, end(ctx))
}

func (c *communicator) Send(ctx context.Context, to, tag int, b []byte) error {
	const op = "send"
	if err := c.ready(ctx); err != nil {
		return c.fault(op, err)
	}
	if err := c.isPeer(to, tag); err != nil || len(b) == 0 {
		return c.fault(op, err)
	}
	return c.fault(op, c.transport.send(ctx, to, tag, b))
}

func (c *communicator) Recv(ctx context.Context, from, tag int, b []byte) error {
	const op = "receive"
	if err := c.ready(ctx); err != nil {
		return c.fault(op, err)
	}
	if err := c.isPeer(from, tag); err != nil || len(b) == 0 {
		return c.fault(op, err)
	}
	return c.fault(op, c.transport.recv(ctx, from, tag, b))
}

func (c *communicator) Split(ctx context.Context, color, key int) (World, error) {
	const op = "split"
	if err := c.free(ctx); err != nil {
		return nil, c.fault(op, err)
	}
	child, rank, size, err := c.transport.split(ctx, color, key)
	return c.child(op, child, rank, size, err)
}

func (c *communicator) Node(ctx context.Context) (World, error) {
	const op = "split by node"
	if err := c.free(ctx); err != nil {
		return nil, c.fault(op, err)
	}
	child, rank, size, err := c.transport.node(ctx)
	return c.child(op, child, rank, size, err)
}

func (c *communicator) child(op string, child transport, rank, size int, err error) (World, error) {
	if err != nil || child == nil {
		return nil, c.fault(op, err)
	}
	return &communicator{transport: child, rank: rank, size: size, first: c.first, host: c.host}, nil
}

func (c *communicator) Abort(code int, reason string) {
	if code&0xff == 0 { // a process's status has 8 bits
		code = 1
	}
	c.transport.abort(code, &Error{Op: "abort", Rank: c.first, Host: c.host, Peer: -1, Err: errors.New(reason)})
}

func (c *communicator) Close() error { return c.End(0) }

func (c *communicator) End(status int) error {
	if c.closed {
		return nil
	}
	c.closed = true
	if c.end != nil && status == 0 {
		return c.fault("close", errors.New("an all-to-all of this world has begun and not ended"))
	}
	return c.fault("close", c.transport.close(status))
}

func (c *communicator) isRank(r int) error {
	if r < 0 || r >= c.size {
		return fmt.Errorf("rank %d of a world of %d ranks", r, c.size)
	}
	return nil
}

func (c *communicator) isPeer(r, tag int) error {
	if err := c.isRank(r); err != nil {
		return err
	}
	if r == c.rank {
		return fmt.Errorf("rank %d can't exchange messages with itself", r)
	}
	if tag < 0 || tag > MaxTag {
		return fmt.Errorf("tag %d is not in 0 to %d", tag, MaxTag)
	}
	return nil
}

// fits tells whether counts has an entry a rank, none negative, and they sum up to len(b).
func (c *communicator) fits(what string, b []byte, counts []int64) error {
	if len(counts) != c.size {
		return fmt.Errorf("%d counts to %s for %d ranks", len(counts), what, c.size)
	}
	var sum int64
	for r, n := range counts {
		if n < 0 {
			return fmt.Errorf("%d bytes to %s for rank %d", n, what, r)
		}
		sum += n
	}
	if sum != int64(len(b)) {
		return fmt.Errorf("the counts to %s sum up to %d, the buffer has %d bytes", what, sum, len(b))
	}
	return nil
}
