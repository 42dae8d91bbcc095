//go:build mpi

package mpi

/*
#include <mpi.h>

// Open MPI's MPI_Abort prints a page, once more for each rank that calls it, and then calls this, which prints nothing.
#if defined(OPEN_MPI)
extern int ompi_mpi_abort(MPI_Comm, int) __attribute__((weak));
static int dsb_quiet(void) { return ompi_mpi_abort != 0; }
static int dsb_abort(int code) { return (ompi_mpi_abort ? ompi_mpi_abort : MPI_Abort)(MPI_COMM_WORLD, code); }
#else
static int dsb_quiet(void) { return 0; }
static int dsb_abort(int code) { return MPI_Abort(MPI_COMM_WORLD, code); }
#endif
static int dsb_alive(void) {
    int on = 0, off = 0;
    MPI_Initialized(&on);
    MPI_Finalized(&off);
    return on && !off;
}
*/
import "C"

import (
	"fmt"
	"os"
	"time"
)

// abortPatience is how long MPI_Abort may take before the process ends without it.
const abortPatience = 5 * time.Second

// finalPatience is how long a rank that is done waits for the others to be. With abortPatience it is less than the 30 s
// within which a job that lost a rank has to be over.
var finalPatience = 20 * time.Second

// abort ends all processes of the job, with one sentence.
func (t *empiComm) abort(code int, err *Error) {
	fmt.Fprintf(os.Stderr, "dsbatch: rank %d (%s): %v\n", err.Rank, err.Host, err.Err)
	endJob(code)
}

// endJob ends all processes of the job, and has the launcher exit with code. It doesn't use empi's Abort, after which the
// launcher exits with 0.
func endJob(code int) {
	time.AfterFunc(abortPatience, func() { os.Exit(code) })
	if C.dsb_alive() != 0 {
		C.dsb_abort(C.int(code))
	}
	os.Exit(code)
}

// quiet tells whether endJob has the MPI library print nothing of its own.
func quiet() bool { return C.dsb_quiet() != 0 }
