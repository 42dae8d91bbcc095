//go:build mpi

package mpi

/*
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#cgo nocallback dsb_begin
#cgo noescape dsb_test
#cgo nocallback dsb_test
#cgo noescape dsb_end
#cgo nocallback dsb_end

enum { DSB_SHORT = -1, DSB_MEMORY = -2 };

// dsb_message is one on its way: of so many bytes, to or from a peer.
typedef struct { int peer, bytes; } dsb_message;

// dsb_exchange is the messages of an exchange under way, those that come first. Its room is used again by the next one.
// tested: a test has found them through, with that code.
typedef struct {
    int64_t room, receives, sends;
    int tested, code;
    MPI_Request *requests;
    MPI_Status *statuses;
    dsb_message *messages;
} dsb_exchange;

static dsb_exchange *dsb_new(void) { return calloc(1, sizeof(dsb_exchange)); }
static void dsb_delete(dsb_exchange *x) {
    if (!x) return;
    free(x->requests), free(x->statuses), free(x->messages), free(x);
}

static int dsb_reserve(dsb_exchange *x, int64_t n) {
    if (n <= x->room) return MPI_SUCCESS;
    if (n > INT32_MAX) return DSB_MEMORY;
    free(x->requests), free(x->statuses), free(x->messages);
    x->requests = malloc(n * sizeof *x->requests);
    x->statuses = malloc(n * sizeof *x->statuses);
    x->messages = malloc(n * sizeof *x->messages);
    x->room = x->requests && x->statuses && x->messages ? n : 0;
    return x->room ? MPI_SUCCESS : DSB_MEMORY;
}

// dsb_begin sends sn[r] bytes at send+so[r] to each rank r and receives rn[r] bytes at recv+ro[r] from it, in messages
// of at most piece bytes, all in flight at once. Pairs without bytes exchange no message. The first partner of each rank
// is its successor, so that not all send to rank 0 first. Returns an MPI error code, or DSB_MEMORY. Both buffers are the
// library's until dsb_end.
static int dsb_begin(dsb_exchange *x, MPI_Comm comm, int rank, int size, const char *send, const int64_t *so,
                     const int64_t *sn, char *recv, const int64_t *ro, const int64_t *rn, int64_t piece, int tag) {
    int64_t total = 0;
    for (int r = 0; r < size; r++)
        if (r != rank) total += (rn[r] + piece - 1) / piece + (sn[r] + piece - 1) / piece;
    if (!x) return DSB_MEMORY;
    x->receives = x->sends = x->tested = 0;
    int rc = dsb_reserve(x, total);
    for (int i = 1; i < size && !rc; i++) {
        const int r = (rank + size - i) % size;
        for (int64_t at = 0; at < rn[r] && !rc; at += piece) {
            const int m = (int)(rn[r] - at < piece ? rn[r] - at : piece);
            x->messages[x->receives] = (dsb_message){r, m};
            rc = MPI_Irecv(recv + ro[r] + at, m, MPI_BYTE, r, tag, comm, &x->requests[x->receives++]);
        }
    }
    for (int i = 1; i < size && !rc; i++) {
        const int r = (rank + i) % size;
        for (int64_t at = 0; at < sn[r] && !rc; at += piece) {
            const int m = (int)(sn[r] - at < piece ? sn[r] - at : piece);
            rc = MPI_Isend(send + so[r] + at, m, MPI_BYTE, r, tag, comm, &x->requests[x->receives + x->sends++]);
        }
    }
    if (!rc && sn[rank]) memcpy(recv + ro[rank], send + so[rank], sn[rank]);
    return rc;
}

// dsb_test tells whether an exchange is through. Its statuses are there then, for dsb_end, and the requests no more.
static int dsb_test(dsb_exchange *x) {
    if (x->tested) return 1;
    x->code = MPI_Testall((int)(x->receives + x->sends), x->requests, &x->tested, x->statuses);
    if (x->code) x->tested = 1;
    return x->tested;
}

// dsb_end waits for an exchange. Returns an MPI error code, or DSB_SHORT and in *peer the rank that sent less than the
// *bytes expected of it.
static int dsb_end(dsb_exchange *x, int *peer, int *bytes) {
    const int64_t n = x->receives + x->sends;
    int rc = x->tested ? x->code : MPI_Waitall((int)n, x->requests, x->statuses);
    if (rc == MPI_ERR_IN_STATUS)
        for (int64_t i = 0; i < n; i++)
            if (x->statuses[i].MPI_ERROR != MPI_SUCCESS && x->statuses[i].MPI_ERROR != MPI_ERR_PENDING)
                rc = x->statuses[i].MPI_ERROR;
    for (int64_t i = 0; i < x->receives && !rc; i++) {
        int got = 0;
        MPI_Get_count(&x->statuses[i], MPI_BYTE, &got);
        if (got != x->messages[i].bytes) *peer = x->messages[i].peer, *bytes = x->messages[i].bytes, rc = DSB_SHORT;
    }
    return rc;
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// piece is the most bytes of one message: the library counts them in an int.
var piece int64 = 1 << 30

// counts are an exchange's counts or offsets, a rank each.
type counts []int64

// flight is an exchange under way.
type flight struct {
	messages *C.dsb_exchange // nil before the first
	pinned   runtime.Pinner  // buffers
	end      func(context.Context) error
}

func (f *flight) free() {
	C.dsb_delete(f.messages)
	f.messages = nil
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

func (t *empiComm) exchange(ctx context.Context, send []byte, so, sn []int64, recv []byte, ro, rn []int64) error {
	end, err := t.begin(send, so, sn, recv, ro, rn)
	if err != nil {
		return err
	}
	return end(ctx)
}

// begin begins an exchange, end waits for it. It numbers its messages by round, above MaxTag: calls that don't match
// can't take each other's bytes. The library keeps the buffers' addresses till the end, so Go's stay where they are.
func (t *empiComm) begin(send []byte, so, sn []int64, recv []byte, ro, rn []int64) (end func(context.Context) error, err error) {
	if t.size == 1 {
		copy(recv, send)
		return func(context.Context) error { return nil }, nil
	}
	f := &t.flight
	if f.messages == nil {
		f.messages, f.end = C.dsb_new(), t.land
	}
	tag := MaxTag + 1 + t.round%(MaxTag+1)
	t.round++
	for _, b := range [...][]byte{send, recv} {
		if len(b) > 0 {
			f.pinned.Pin(first(b))
		}
	}
	rc := C.dsb_begin(f.messages, t.raw, C.int(t.rank), C.int(t.size), (*C.char)(first(send)), int64s(so), int64s(sn),
		(*C.char)(first(recv)), int64s(ro), int64s(rn), C.int64_t(t.piece), C.int(tag))
	if err := exchangeError(rc); err != nil {
		f.pinned.Unpin()
		return nil, err
	}
	return f.end, nil
}

func (t *empiComm) testAllToAllV() bool { return t.size == 1 || C.dsb_test(t.flight.messages) != 0 }

// land is the end of an exchange. It can't be left: the library has no call for that.
func (t *empiComm) land(context.Context) error {
	var peer, bytes C.int
	rc := C.dsb_end(t.flight.messages, &peer, &bytes)
	t.flight.pinned.Unpin()
	if rc == C.DSB_SHORT {
		return fmt.Errorf("rank %d of %d brings fewer bytes than rank %d expects, %d", peer, t.size, t.rank, bytes)
	}
	return exchangeError(rc)
}

func exchangeError(rc C.int) error {
	if rc == C.DSB_MEMORY {
		return errors.New("no memory for the list of messages")
	}
	return mpiError(rc)
}

func int64s(v []int64) *C.int64_t { return (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(v))) }
