package mpi_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// needMemory skips a test for which so many bytes aren't free.
func needMemory(t *testing.T, bytes int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Skipf("SKIPPED: nobody knows whether %d MB are free: %v", bytes>>20, err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "MemAvailable:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err != nil || kb<<10 < bytes {
				t.Skipf("SKIPPED: it takes %d MB, and %d are free", bytes>>20, kb>>10)
			}
		}
	}
}

// large maps memory that is taken only where it is written.
func large(n int) ([]byte, error) {
	return syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
}

// TestInProcessMoreThan32Bits moves 2 GiB + 5 bytes from one goroutine to another.
func TestInProcessMoreThan32Bits(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 GB of memory")
	}
	needMemory(t, 3<<30)
	const n = 1<<31 + 5
	marks := []int{0, 1<<31 - 1, 1 << 31, n - 1}
	mpitest.Run(t, 2, func(w mpi.World) error {
		b, err := large(n)
		if err != nil {
			return err
		}
		if w.Rank() == 0 {
			for i, m := range marks {
				b[m] = byte(i + 1)
			}
			err = w.AllToAllV(t.Context(), b, []int64{0, n}, nil, []int64{0, 0})
		} else {
			err = w.AllToAllV(t.Context(), nil, []int64{0, 0}, b, []int64{n, 0})
		}
		for i, m := range marks {
			if err == nil && b[m] != byte(i+1) {
				err = fmt.Errorf("byte %d is %d, want %d", m, b[m], i+1)
			}
		}
		if err != nil {
			return err
		}
		return syscall.Munmap(b)
	})
}
