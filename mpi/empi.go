//go:build mpi

package mpi

/*
#cgo pkg-config: ompi
#include <mpi.h>
#include <stdio.h>

// dsb_built writes the make and version of the library whose headers this was built with, as the library tells it.
static void dsb_built(char *text, int room) {
#if defined(OPEN_MPI)
    snprintf(text, room, "Open MPI v%d.%d", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION);
#elif defined(I_MPI_VERSION)
    snprintf(text, room, "Intel(R) MPI Library %s", I_MPI_VERSION);
#elif defined(MPICH_VERSION)
    snprintf(text, room, "MPICH Version: %s", MPICH_VERSION);
#else
    text[0] = 0;
#endif
}

// The library's handles are macros. static: empi's own C code defines global names for some of them.
static MPI_Comm dsb_world(void) { return MPI_COMM_WORLD; }

// Errors are returned instead of ending the process; communicators made later inherit this.
static int dsb_return_errors(void) {
    int rc = MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    return rc ? rc : MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"unsafe"

	empi "github.com/emer/empi/mpi"
)

// started guards the library, which can be started once a process.
var started atomic.Bool

// MPI starts the MPI library and returns the world of all ranks that the launcher started, each of which must call it,
// once. Where the launcher says that there are several ranks and the library sees one, that is an error. Close of this
// world ends the library. A rank does all its work before that: mpirun ends the other ranks as soon as one exits with a
// status that isn't 0.
func MPI() (World, error) {
	if started.Swap(true) || empi.IsOn() {
		return nil, errors.New("the MPI library has been started in this process before")
	}
	if err := sameLibrary(); err != nil {
		return nil, err
	}
	if err := prepare(roomy); err != nil {
		return nil, err
	}
	warnWithoutPMI(os.LookupEnv)
	warnUnfenced(os.LookupEnv)
	empi.LogErrors = false // they are returned
	if err := start(); err != nil {
		return nil, fmt.Errorf("this MPI library was built without thread support: %w; use another one", err)
	}
	if err := mpiError(C.dsb_return_errors()); err != nil {
		return nil, err
	}
	world, err := empi.NewComm(nil)
	if err != nil {
		return nil, err
	}
	t := &empiComm{comm: world, raw: C.dsb_world(), rank: world.Rank(), size: world.Size(), root: true, piece: piece}
	if kind, n := Launched(); n > 1 && t.size == 1 {
		empi.Finalize()
		return nil, fmt.Errorf("%s started %d processes, and each is alone for the MPI library; %s", kind, n, remedy(kind))
	}
	return &communicator{transport: t, rank: t.rank, size: t.size, first: t.rank, host: processorName()}, nil
}

// sameLibrary compares the library at hand with the one that this program was built with; both may be asked before start.
func sameLibrary() error {
	var built, found [C.MPI_MAX_LIBRARY_VERSION_STRING]C.char
	var n C.int
	C.dsb_built(&built[0], C.int(len(built)))
	if C.MPI_Get_library_version(&found[0], &n) != C.MPI_SUCCESS {
		return nil
	}
	return sameMajor(C.GoString(&built[0]), C.GoString(&found[0]))
}

// empiComm is one communicator of the MPI library: what empi offers goes through it, the rest is in collective.go.
type empiComm struct {
	comm       *empi.Comm
	raw        C.MPI_Comm // comm's own
	rank, size int
	root       bool      // MPI_COMM_WORLD
	piece      int64     // most bytes of one message
	round      int       // exchanges done, which their tags tell apart
	i64        []int64   // result of allReduce
	counts     [4]counts // of begin
	flight     flight
}

// adopt returns empi's view of a communicator that it has no call to make. It rests on the first field of empi.Comm
// being the MPI_Comm; were it not, rank and size would come out wrong.
func adopt(raw C.MPI_Comm) (*empi.Comm, error) {
	comm := new(empi.Comm)
	*(*C.MPI_Comm)(unsafe.Pointer(comm)) = raw
	rank, size, err := rankAndSize(raw)
	if err == nil && (comm.Rank() != rank || comm.Size() != size) {
		err = errors.New("the communicators of github.com/emer/empi are laid out otherwise than in v1.0.22; use that version")
	}
	return comm, err
}

func (t *empiComm) barrier(context.Context) error {
	if t.size == 1 {
		return nil
	}
	return t.comm.Barrier()
}

func (t *empiComm) bcast(_ context.Context, root int, b []byte) error {
	for len(b) > 0 && t.size > 1 {
		n := min(int64(len(b)), t.piece)
		if err := t.comm.BcastU8(root, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (t *empiComm) allGather(ctx context.Context, send, recv []byte) error {
	switch {
	case len(send) == 0:
		return nil
	case t.size == 1:
		copy(recv, send)
		return nil
	case int64(len(send)) <= t.piece && len(recv) <= math.MaxInt32:
		return t.comm.AllGatherU8(recv, send)
	}
	counts := make([]int64, t.size)
	for i := range counts {
		counts[i] = int64(len(send))
	}
	return t.allGatherV(ctx, send, recv, counts)
}

// allReduce doesn't use MPI_IN_PLACE through empi: that puts the address 1 into a Go pointer, at which the garbage
// collector ends the process when it meets it.
func (t *empiComm) allReduce(_ context.Context, op Op, v []int64) error {
	if len(v) == 0 || t.size == 1 {
		return nil
	}
	if cap(t.i64) < len(v) {
		t.i64 = make([]int64, len(v))
	}
	result := t.i64[:len(v)]
	if err := t.comm.AllReduceI64([...]empi.Op{Sum: empi.OpSum, Max: empi.OpMax, Min: empi.OpMin}[op], result, v); err != nil {
		return err
	}
	copy(v, result)
	return nil
}

func (t *empiComm) send(ctx context.Context, to, tag int, b []byte) error {
	for len(b) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(int64(len(b)), t.piece)
		if err := t.comm.SendU8(to, tag, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (t *empiComm) recv(ctx context.Context, from, tag int, b []byte) error {
	for len(b) > 0 {
		sent, err := t.await(ctx, from, tag)
		if err != nil {
			return err
		}
		n := min(int64(len(b)), t.piece)
		if sent != n {
			return fmt.Errorf("rank %d sends %d bytes, this one expects %d (tag %d)", from, sent, n, tag)
		}
		if err := t.comm.RecvU8(from, tag, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
