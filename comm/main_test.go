package comm

import (
	"os"
	"testing"

	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

func TestMain(m *testing.M) {
	status := m.Run()
	mpitest.RemoveBinary()
	os.Exit(status)
}
