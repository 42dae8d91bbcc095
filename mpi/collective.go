//go:build mpi

package mpi

/*
#include <mpi.h>
#include <stdint.h>

#cgo noescape dsb_alltoall
#cgo nocallback dsb_alltoall

static int dsb_alltoall(MPI_Comm comm, const void *send, void *recv, int each) {
    return MPI_Alltoall(send, each, MPI_BYTE, recv, each, MPI_BYTE, comm);
}

// dsb_probe looks tries times for a message; *count is its length, or -1.
static int dsb_probe(MPI_Comm comm, int from, int tag, int tries, int64_t *count) {
    *count = -1;
    for (int i = 0; i < tries; i++) {
        int found = 0, n = 0;
        MPI_Status status;
        int rc = MPI_Iprobe(from, tag, comm, &found, &status);
        if (rc) return rc;
        if (found) {
            rc = MPI_Get_count(&status, MPI_BYTE, &n);
            *count = n;
            return rc;
        }
    }
    return MPI_SUCCESS;
}

static int dsb_split(MPI_Comm comm, int color, int key, MPI_Comm *child) {
    return MPI_Comm_split(comm, color < 0 ? MPI_UNDEFINED : color, key, child);
}
static int dsb_split_node(MPI_Comm comm, int key, MPI_Comm *child) {
    return MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, key, MPI_INFO_NULL, child);
}
static int dsb_is_null(MPI_Comm comm) { return comm == MPI_COMM_NULL; }
static int dsb_free(MPI_Comm *comm) { return MPI_Comm_free(comm); }
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
	"unsafe"

	empi "github.com/emer/empi/mpi"
)

// mpiError turns the library's code into an error that says what it means.
func mpiError(rc C.int) error {
	if rc == C.MPI_SUCCESS {
		return nil
	}
	text := make([]byte, C.MPI_MAX_ERROR_STRING)
	var n C.int
	C.MPI_Error_string(rc, (*C.char)(unsafe.Pointer(&text[0])), &n)
	return errors.New(string(text[:n]))
}

func processorName() string {
	name := make([]byte, C.MPI_MAX_PROCESSOR_NAME)
	var n C.int
	if C.MPI_Get_processor_name((*C.char)(unsafe.Pointer(&name[0])), &n) != C.MPI_SUCCESS {
		return hostname()
	}
	return string(name[:n])
}

func rankAndSize(comm C.MPI_Comm) (rank, size int, err error) {
	var r, n C.int
	if err = mpiError(C.MPI_Comm_rank(comm, &r)); err == nil {
		err = mpiError(C.MPI_Comm_size(comm, &n))
	}
	return int(r), int(n), err
}

// first returns the address of a buffer's first byte, nil for an empty one.
func first(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func (t *empiComm) allToAll(ctx context.Context, send, recv []byte) error {
	switch {
	case len(send) == 0:
		return nil
	case t.size == 1:
		copy(recv, send)
		return nil
	case len(send) <= math.MaxInt32 && int64(len(send)/t.size) <= t.piece:
		return mpiError(C.dsb_alltoall(t.raw, first(send), first(recv), C.int(len(send)/t.size)))
	}
	each := make([]int64, t.size)
	for i := range each {
		each[i] = int64(len(send) / t.size)
	}
	return t.exchange(ctx, send, t.offsets(0, each), each, recv, t.offsets(1, each), each)
}

func (t *empiComm) beginAllToAllV(_ context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) (func(context.Context) error, error) {
	return t.begin(send, t.offsets(0, sendCounts), sendCounts, recv, t.offsets(1, recvCounts), recvCounts)
}

func (t *empiComm) allGatherV(ctx context.Context, send, recv []byte, recvCounts []int64) error {
	from, n := t.scratch(0), t.scratch(2)
	for i := range from {
		from[i], n[i] = 0, int64(len(send))
	}
	return t.exchange(ctx, send, from, n, recv, t.offsets(1, recvCounts), recvCounts)
}

// await waits for a message and returns its length. It spins at first, for the sake of latency, and sleeps later, up to
// a twentieth of the time waited, for the sake of the other threads.
func (t *empiComm) await(ctx context.Context, from, tag int) (int64, error) {
	const spin, longest = 2 * time.Millisecond, 20 * time.Millisecond
	begun := time.Now()
	for {
		var n C.int64_t
		if err := mpiError(C.dsb_probe(t.raw, C.int(from), C.int(tag), 64, &n)); err != nil || n >= 0 {
			return int64(n), err
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if waited := time.Since(begun); waited > spin {
			time.Sleep(min(waited/20, longest))
		}
	}
}

func (t *empiComm) split(_ context.Context, color, key int) (transport, int, int, error) {
	if color > math.MaxInt32 || key > math.MaxInt32 || key < math.MinInt32 {
		return nil, 0, 0, fmt.Errorf("color %d, key %d: more than 32 bits", color, key)
	}
	var child C.MPI_Comm
	if err := mpiError(C.dsb_split(t.raw, C.int(max(color, -1)), C.int(key), &child)); err != nil {
		return nil, 0, 0, err
	}
	return t.born(child)
}

func (t *empiComm) node(context.Context) (transport, int, int, error) {
	var child C.MPI_Comm
	if err := mpiError(C.dsb_split_node(t.raw, C.int(t.rank), &child)); err != nil {
		return nil, 0, 0, err
	}
	return t.born(child)
}

func (t *empiComm) born(raw C.MPI_Comm) (transport, int, int, error) {
	if C.dsb_is_null(raw) != 0 {
		return nil, 0, 0, nil
	}
	comm, err := adopt(raw)
	if err != nil {
		return nil, 0, 0, err
	}
	child := &empiComm{comm: comm, raw: raw, rank: comm.Rank(), size: comm.Size(), piece: t.piece}
	return child, child.rank, child.size, nil
}

// close of the first world is where a rank meets the others for the last time, and nothing watches it there any more.
func (t *empiComm) close(status int) error {
	if t.root {
		late := time.AfterFunc(finalPatience, func() {
			t.abort(1, &Error{Op: "close", Rank: t.rank, Host: processorName(), Peer: -1, Err: fmt.Errorf("this rank was done, "+
				"and the others have not ended within %v: one was stopped, or its host cannot be reached", finalPatience)})
		})
		if kind, _ := Launched(); kind == "mpirun" && status != 0 && quiet() && t.barrier(context.Background()) == nil {
			if t.rank == 0 { // all have done their work
				endJob(status)
			}
			// Rank 0's launcher ends the others. Were they in MPI_Finalize then, its server for it would now and then crash.
			time.Sleep(2 * finalPatience)
		}
		empi.Finalize()
		late.Stop()
		return nil
	}
	t.flight.free()
	return mpiError(C.dsb_free(&t.raw))
}
