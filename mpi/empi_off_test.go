//go:build !mpi

package mpi_test

import (
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/mpi"
)

func TestMPIIsMissing(t *testing.T) {
	if _, err := mpi.MPI(); err == nil || !strings.Contains(err.Error(), "-tags mpi") {
		t.Errorf("%v, want the way to build it", err)
	}
}
