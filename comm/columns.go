package comm

import (
	"context"

	"github.com/dsbatch/dsbatch/kernels"
)

// Columns puts a tensor together of which each rank of a group holds some columns: as an op of the stream where the ranks' devices are
// a team, else through the hosts.
type Columns struct {
	group      *Group
	from, to   []int // columns of each rank; those of two may overlap, and are then the same
	parts      []kernels.Tensor
	counts     []int64
	send, recv []byte
	traffic    Traffic
}

// NewColumns is for tensors of which rank r holds the columns from[r] to to[r].
func NewColumns(group *Group, from, to []int) *Columns {
	return &Columns{group: group, from: from, to: to, counts: make([]int64, group.Size()), parts: make([]kernels.Tensor, group.Size())}
}

// Gather fills whole [rows, columns] from each rank's part [rows, to-from]. All ranks call it, with as many rows.
func (c *Columns) Gather(ctx context.Context, s kernels.Stream, whole, part kernels.Tensor) error {
	if part.Rows == 0 {
		return nil
	}
	c.traffic.Gathered(len(c.counts), part.Bytes())
	if c.group.Team != nil {
		for r := range c.parts {
			c.parts[r] = whole.ColRange(c.from[r], c.to[r])
		}
		c.group.Team.Gather(s, c.parts, part)
		return nil
	}
	column := int64(part.Rows) * int64(part.DType.Size())
	total := int64(0)
	for r := range c.counts {
		c.counts[r] = int64(c.to[r]-c.from[r]) * column
		total += c.counts[r]
	}
	c.send, c.recv = sized(c.send, int(part.Bytes())), sized(c.recv, int(total))
	s.Read(c.send, part)
	if err := s.Sync(); err != nil {
		return err
	}
	if err := c.group.AllGatherV(ctx, c.send, c.recv, c.counts); err != nil {
		return err
	}
	at := int64(0)
	for r, n := range c.counts {
		s.Write(whole.ColRange(c.from[r], c.to[r]), c.recv[at:at+n])
		at += n
	}
	return nil
}

// Traffic returns the columns that this rank has sent.
func (c *Columns) Traffic() Traffic { return c.traffic }
