//go:build mpi

package mpi

/*
#include <mpi.h>
static int dsb_abort(int code) { return MPI_Abort(MPI_COMM_WORLD, code); }
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

// abort ends all processes of the job. It doesn't use empi's Abort, after which the launcher exits with 0.
func (t *empiComm) abort(code int, err *Error) {
	fmt.Fprintf(os.Stderr, "dsbatch: rank %d (%s): %v\n", err.Rank, err.Host, err.Err)
	time.AfterFunc(abortPatience, func() { os.Exit(code) })
	if C.dsb_alive() != 0 {
		C.dsb_abort(C.int(code))
	}
	os.Exit(code)
}
