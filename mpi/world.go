// Package mpi is a world of ranks that exchange bytes: MPI processes, goroutines of one process, or one rank alone.
//
// A world is a communicator: Size ranks, numbered from 0, of which this is Rank. The same program runs on every kind of
// world and gets the same bytes; mpitest.Conform is the suite that each kind must pass. The package knows bytes and
// 64-bit integers; no tensor, no group layout (package comm) and no model.
//
//	Alone()        one rank
//	InProcess(n)   n ranks for n goroutines; Run starts them and turns a panic into an error
//	MPI()          this process's rank among those that mpirun or srun started (build tag mpi, through github.com/emer/empi)
package mpi

import "context"

// World is one communicator as one of its ranks sees it.
//
// All calls but Rank, Size, Host, Send, Recv and Abort are collective: every rank of the world makes them, in the same
// order, with the sizes that the call demands. Collective calls come from one goroutine at a time per World; Send and
// Recv may run beside them, each from one goroutine at a time. Buffers belong to the call until it returns; send and
// recv must not overlap. Lengths may be zero, and exceed 32 bits.
//
// Every error is an *Error. After an error of a collective call the world can't be used any more: a rank ends the job by
// Abort, or in-process by returning the error to Run. A context is looked at when a call begins. In-process ranks also leave a call in which they wait, which fails
// it for the whole world; a blocked collective call of the MPI library can't be left, only ended by Abort from another
// goroutine (package comm's Watch does so).
type World interface {
	Rank() int    // 0 to Size-1
	Size() int    // at least 1
	Host() string // the machine's name, for messages

	// Barrier returns when every rank has called it.
	Barrier(ctx context.Context) error
	// Bcast copies root's b into every rank's b; all have the same length.
	Bcast(ctx context.Context, root int, b []byte) error
	// AllGather puts rank r's send at recv[r*len(send):] of every rank; all have the same length.
	AllGather(ctx context.Context, send, recv []byte) error
	// AllGatherV is AllGather of unequal lengths: recvCounts[r] is len(send) of rank r, and recv holds their sum.
	AllGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error
	// AllReduceInt64 replaces v, of the same length on all ranks, by its sum, maximum or minimum over them.
	AllReduceInt64(ctx context.Context, op Op, v []int64) error
	// AllToAll sends the d-th of Size equal pieces of send to rank d, which gets them in the order of ranks.
	AllToAll(ctx context.Context, send, recv []byte) error
	// AllToAllV is AllToAll of unequal pieces: sendCounts[d] bytes go to rank d, recvCounts[s] come from rank s, both
	// laid out without gaps. What one rank sends must be what the other expects.
	AllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error
	// BeginAllToAllV is AllToAllV that waits for no other rank: bytes, and counts, are its own until EndAllToAllV, which
	// waits, has returned. Between the two this World makes no other collective call; others may.
	BeginAllToAllV(ctx context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error
	// TestAllToAllV tells, without waiting, whether all that EndAllToAllV waits for has come, or none is under way. It helps
	// bytes along that a library moves in its calls only. What went wrong is EndAllToAllV's to tell.
	TestAllToAllV() bool
	// EndAllToAllV waits for what BeginAllToAllV has begun.
	EndAllToAllV(ctx context.Context) error

	// Send hands b to a Recv of the same length and tag, 0 to MaxTag, on rank to, another than this one. It may wait
	// for that Recv. An empty b is no message: both calls return at once.
	Send(ctx context.Context, to, tag int, b []byte) error
	// Recv fills b with what rank from sends under that tag. It honours ctx while it waits, on every kind of world, and
	// the world stays usable.
	Recv(ctx context.Context, from, tag int, b []byte) error

	// Split makes one world of all ranks that give the same color, ordered by key, then by rank. With a color below 0
	// this rank takes no part and gets nil.
	Split(ctx context.Context, color, key int) (World, error)
	// Node makes a world of the ranks that share this rank's memory, ordered by rank.
	Node(ctx context.Context) (World, error)

	// Abort ends the whole job, not only this communicator. Under MPI it tells why on standard error and doesn't return;
	// the launcher exits with code, or 1 where code is 0. Elsewhere all calls, on all ranks, fail from now on with an
	// error that names this rank and the reason. It may be called from any goroutine, at any time.
	Abort(code int, reason string)
	// Close leaves the world. It is collective for MPI's worlds; a rank that calls another rank's closed in-process
	// world gets an error that says so. A second call does nothing.
	Close() error
	// End is Close of MPI() with the status of the job, on which all ranks agree. Under mpirun rank 0 does not return from
	// it: mpirun, which writes a page about a process that exits with a status, is told to end the job with that one.
	End(status int) error
}

// MaxTag is the largest tag of Send and Recv.
const MaxTag = 1<<14 - 1

// Op is how AllReduceInt64 combines the ranks' values.
type Op int

// The operations of AllReduceInt64.
const (
	Sum Op = iota
	Max
	Min
)

func (op Op) String() string {
	switch op {
	case Sum:
		return "sum"
	case Max:
		return "max"
	case Min:
		return "min"
	}
	return "unknown operation"
}
