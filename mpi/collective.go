//go:build mpi

package mpi

/*
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#cgo noescape dsb_exchange
#cgo nocallback dsb_exchange
#cgo noescape dsb_alltoall
#cgo nocallback dsb_alltoall

enum { DSB_SHORT = -1, DSB_MEMORY = -2 };

// dsb_exchange sends sn[r] bytes at send+so[r] to each rank r and receives rn[r] bytes at recv+ro[r] from it, in messages
// of at most piece bytes, all in flight at once. Pairs without bytes exchange no message. The first partner of each rank
// is its successor, so that not all send to rank 0 first. Returns an MPI error code, or DSB_SHORT and in *peer the rank
// that sent less than expected.
static int dsb_exchange(MPI_Comm comm, int rank, int size, const char *send, const int64_t *so, const int64_t *sn,
                        char *recv, const int64_t *ro, const int64_t *rn, int64_t piece, int tag, int *peer) {
    int64_t receives = 0, sends = 0;
    for (int r = 0; r < size; r++)
        if (r != rank) {
            receives += (rn[r] + piece - 1) / piece;
            sends += (sn[r] + piece - 1) / piece;
        }
    const int64_t total = receives + sends;
    if (total > INT32_MAX) return DSB_MEMORY;
    MPI_Request *requests = malloc((total + 1) * sizeof *requests);
    MPI_Status *statuses = malloc((total + 1) * sizeof *statuses);
    int rc = requests && statuses ? MPI_SUCCESS : DSB_MEMORY;
    int64_t n = 0;
    for (int i = 1; i < size && !rc; i++) {
        const int r = (rank + size - i) % size;
        for (int64_t at = 0; at < rn[r] && !rc; at += piece) {
            const int64_t m = rn[r] - at < piece ? rn[r] - at : piece;
            rc = MPI_Irecv(recv + ro[r] + at, (int)m, MPI_BYTE, r, tag, comm, &requests[n++]);
        }
    }
    for (int i = 1; i < size && !rc; i++) {
        const int r = (rank + i) % size;
        for (int64_t at = 0; at < sn[r] && !rc; at += piece) {
            const int64_t m = sn[r] - at < piece ? sn[r] - at : piece;
            rc = MPI_Isend(send + so[r] + at, (int)m, MPI_BYTE, r, tag, comm, &requests[n++]);
        }
    }
    if (!rc && sn[rank]) memcpy(recv + ro[rank], send + so[rank], sn[rank]);
    if (!rc) rc = MPI_Waitall((int)n, requests, statuses);
    if (rc == MPI_ERR_IN_STATUS)
        for (int64_t i = 0; i < n; i++)
            if (statuses[i].MPI_ERROR != MPI_SUCCESS && statuses[i].MPI_ERROR != MPI_ERR_PENDING) rc = statuses[i].MPI_ERROR;
    n = 0;
    for (int i = 1; i < size && !rc; i++) {
        const int r = (rank + size - i) % size;
        for (int64_t at = 0; at < rn[r] && !rc; at += piece, n++) {
            const int64_t m = rn[r] - at < piece ? rn[r] - at : piece;
            int got = 0;
            MPI_Get_count(&statuses[n], MPI_BYTE, &got);
            if (got != m) *peer = r, rc = DSB_SHORT;
        }
    }
    free(requests);
    free(statuses);
    return rc;
}

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

// piece is the most bytes of one message: the library counts them in an int.
var piece int64 = 1 << 30

// counts are an exchange's counts or offsets, a rank each.
type counts []int64

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
	return t.allToAllV(ctx, send, each, recv, each)
}

func (t *empiComm) allToAllV(_ context.Context, send []byte, sendCounts []int64, recv []byte, recvCounts []int64) error {
	return t.exchange(send, t.offsets(0, sendCounts), sendCounts, recv, t.offsets(1, recvCounts), recvCounts)
}

func (t *empiComm) allGatherV(_ context.Context, send, recv []byte, recvCounts []int64) error {
	from, n := t.scratch(0), t.scratch(2)
	for i := range from {
		from[i], n[i] = 0, int64(len(send))
	}
	return t.exchange(send, from, n, recv, t.offsets(1, recvCounts), recvCounts)
}

// scratch returns the i-th of this communicator's count arrays.
func (t *empiComm) scratch(i int) counts {
	if t.counts[i] == nil {
		t.counts[i] = make(counts, t.size)
	}
	return t.counts[i]
}

func (t *empiComm) offsets(i int, n []int64) counts {
	o := t.scratch(i)
	var sum int64
	for r := range o {
		o[r] = sum
		sum += n[r]
	}
	return o
}

// exchange numbers its messages by round, above MaxTag: calls that don't match can't take each other's bytes.
func (t *empiComm) exchange(send []byte, so, sn []int64, recv []byte, ro, rn []int64) error {
	if t.size == 1 {
		copy(recv, send)
		return nil
	}
	tag := MaxTag + 1 + t.round%(MaxTag+1)
	t.round++
	var peer C.int
	rc := C.dsb_exchange(t.raw, C.int(t.rank), C.int(t.size), (*C.char)(first(send)), int64s(so), int64s(sn),
		(*C.char)(first(recv)), int64s(ro), int64s(rn), C.int64_t(t.piece), C.int(tag), &peer)
	switch rc {
	case C.DSB_SHORT:
		return fmt.Errorf("rank %d of %d brings fewer bytes than rank %d expects, %d", peer, t.size, t.rank, rn[peer])
	case C.DSB_MEMORY:
		return errors.New("no memory for the list of messages")
	}
	return mpiError(rc)
}

func int64s(v []int64) *C.int64_t { return (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(v))) }

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
		if kind, _ := Launched(); kind == "mpirun" && status != 0 && quiet() && t.barrier(context.Background()) == nil && t.rank == 0 {
			endJob(status) // all have done their work
		}
		empi.Finalize()
		late.Stop()
		return nil
	}
	return mpiError(C.dsb_free(&t.raw))
}
