package kernels

import "time"

// WindowDevice is a Device whose kernels can write rows into memory of other ranks' devices, without the hosts: then nothing
// waits inside a step, and a step can be one graph.
type WindowDevice interface {
	Device
	// Hardware names the piece of hardware, so that ranks that share one are known.
	Hardware() string
	// NewWindow takes the memory into which others will write, and prepares what its ops need.
	NewWindow(s WindowSpec) (Window, error)
}

// WindowSpec describes the windows of a group of ranks, alike on all of them but for Rank.
type WindowSpec struct {
	Rank, Ranks int
	Names       []string // of the ranks, for messages
	Experts     int      // most that a rank holds of a layer
	Rows        int      // most that a rank sends in an exchange, tokens times choices
	Cols        int
	DType       DType
	Patience    time.Duration // how long an exchange waits for a rank before it is given up
}

const (
	windowHeader = 256 // bytes of a source's numbers
	windowAlign  = 128
)

// Pitch is the bytes from one row to the next.
func (s WindowSpec) Pitch() int { return roundUp(s.Cols*s.DType.Size(), 16) }

// HeaderBytes is the bytes of a source's numbers and offsets.
func (s WindowSpec) HeaderBytes() int { return roundUp(windowHeader+4*(s.Experts+1), windowAlign) }

// Bytes is the memory that a window takes: each source could send all its rows here, and all of this rank's come back.
func (s WindowSpec) Bytes() int64 {
	return int64(s.Ranks)*int64(s.HeaderBytes()) + int64(s.Ranks+1)*int64(s.Rows)*int64(s.Pitch())
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// Window is a rank's memory into which the kernels of all ranks of a group write rows, and what it knows of the others'.
// Its methods but Ticket, Join and Close are ops of a stream, always the same one. An exchange is Send, Arrive, Return and
// Collect, on all ranks of the group alike, those without rows too; it reads its counts on the device alone. A rank that does not
// come within Patience is named by Sync, and later exchanges are empty and wait for nobody.
type Window interface {
	// Ticket is what the other ranks need to reach this window; all are equally long.
	Ticket() []byte
	// Join is given the tickets of all ranks, in order. It comes before the first exchange of any of them.
	Join(tickets [][]byte) error
	// Send sends the row of each slot to the rank that holds its expert: rank i the i-th equal run of r.Experts. x [tokens, Cols].
	Send(s Stream, x Tensor, r Routing)
	// Arrive waits until the rows of all ranks are here and returns them: x of a Grouped with these offsets [1, experts here + 1]
	// and index [1, rows]. By expert, then by source, each source's in order of its slots. rows bounds how many can come.
	Arrive(s Stream, offsets, index Tensor, rows int) Tensor
	// Return sends y [rows, Cols], the results of the rows that index lists, back to where they came from.
	Return(s Stream, y, offsets, index Tensor)
	// Collect waits until the results of this rank's rows are here and returns them: row i is slot i's, good until the next
	// Send.
	Collect(s Stream) Tensor
	// Close gives the memory back, with no work left.
	Close() error
}
