package kernels

import "time"

// Team is the devices of ranks that hold slices of the same things, as one of them sees them. Its methods but Close are ops of a
// stream, always the same one; all ranks call them alike, in the same order. A rank that does not come is told by Sync.
type Team interface {
	// Gather gives all ranks what each has: parts[r], of the shape of rank r's own, gets that. Shapes are alike on all ranks, the type
	// is one. Where parts overlap they get the same. own may lie in its rank's part, just there.
	Gather(s Stream, parts []Tensor, own Tensor)
	// Scatter gives each rank what all have for it: send [Σ rows, cols] lies by destination, rows[r] for rank r from each rank; recv
	// [ranks·rows of this one, cols] gets what is for this one, by source. rows is alike on all ranks; both are contiguous, of one type.
	Scatter(s Stream, recv, send Tensor, rows []int)
	// Sum adds up what all ranks have: y = Σ own, or y +=, [rows, cols], own F32, in the order of Stream.Reduce over the ranks. room
	// [ranks·rows, cols] F32 may be written.
	Sum(s Stream, y, own, room Tensor, add bool)
	// Close comes before the device's, with no work left.
	Close() error
}

// BoardDevice is a Device whose kernels can write into memory of other ranks' devices what these add up and put together, without
// the hosts.
type BoardDevice interface {
	Device
	// Hardware names the piece of hardware, so that ranks that share one are known.
	Hardware() string
	// NewBoard takes the memory into which others will write, and prepares what its ops need.
	NewBoard(s BoardSpec) (Board, error)
}

// BoardSpec describes the boards of a group of ranks, alike on all of them but for Rank.
type BoardSpec struct {
	Rank, Ranks int
	Names       []string      // of the ranks, for messages
	Room        int           // bytes that a rank can write at a time; larger messages go in pieces
	DType       DType         // of the activations
	Patience    time.Duration // how long an op waits for a rank before it is given up
}

// BoardBlocks is how many parts of a message are told of one by one, at most.
const BoardBlocks = 128

// HeaderBytes is the bytes of all ranks' numbers.
func (s BoardSpec) HeaderBytes() int { return 8 * s.Ranks * BoardBlocks }

// Bytes is the memory that a board takes: of each rank two messages, one that is read and one that comes.
func (s BoardSpec) Bytes() int64 { return int64(s.HeaderBytes()) + 2*int64(s.Ranks)*int64(s.Room) }

// Board is a Team by memory into which the kernels of all its ranks write, and what this rank knows of the others'.
type Board interface {
	Team
	// Ticket is what the other ranks need to reach this board; all are equally long.
	Ticket() []byte
	// Join is given the tickets of all ranks, in order. It comes before the first op of any of them.
	Join(tickets [][]byte) error
}
