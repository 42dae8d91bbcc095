//go:build !mpi

package mpi

import "errors"

// MPI is an error in this build, which has no MPI library: build with -tags mpi to have one.
func MPI() (World, error) {
	return nil, errors.New("this program was built without MPI; build it with -tags mpi (make build makes bin/dsbatch-mpi), or use --ranks for ranks in one process")
}
