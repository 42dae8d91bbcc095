package mpi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// These tests start the rank tests of empi_test.go under mpirun.

func TestMPIConforms(t *testing.T) {
	sizes := []int{1, 2, 3, 4, 7, 8}
	if testing.Short() {
		sizes = []int{2, 3}
	}
	for _, n := range sizes {
		if out, status := mpitest.Mpirun(t, n, "TestRankConforms", 2*time.Minute); status != 0 || !passed(out, n) {
			t.Errorf("%d ranks: status %d\n%s", n, status, out)
		}
	}
	for _, n := range []int{2, 3} { // every message in pieces
		if out, status := mpitest.Mpirun(t, n, "TestRankConforms", 2*time.Minute, "DSBATCH_TEST_PIECE=333"); status != 0 || !passed(out, n) {
			t.Errorf("%d ranks, pieces of 333 bytes: status %d\n%s", n, status, out)
		}
	}
}

// passed tells whether all n ranks ran their part, and none skipped it.
func passed(out string, n int) bool {
	return strings.Count(out, "--- PASS: TestRank") == n
}

func TestMPIAbort(t *testing.T) {
	for code, want := range map[int]int{0: 1, 1: 1, 75: 75, 256: 1} {
		out, status := mpitest.Mpirun(t, 3, "TestRankAborts", 2*time.Minute, fmt.Sprintf("DSBATCH_TEST_CODE=%d", code))
		if status != want || !strings.Contains(out, "rank 1 (") || !strings.Contains(out, "the disk is full") {
			t.Errorf("Abort(%d): status %d, want %d\n%s", code, status, want, out)
		}
	}
}

func TestMPIKilledRank(t *testing.T) {
	if out, status := mpitest.Mpirun(t, 3, "TestRankDies", 2*time.Minute); status == 0 {
		t.Errorf("status 0 after a rank was killed\n%s", out)
	}
}

func TestMPIStoppedBeforeTheStart(t *testing.T) {
	out, status := mpitest.Mpirun(t, 3, "TestRankStopsBeforeTheStart", 2*time.Minute)
	for _, want := range []string{"has waited 100ms for the other ranks to start", "see which ranks do not say this", "has waited 500ms"} {
		if status == 0 || !strings.Contains(out, want) {
			t.Errorf("status %d, nothing of %q\n%s", status, want, out)
		}
	}
}

func TestMPIStoppedAtTheEnd(t *testing.T) {
	out, status := mpitest.Mpirun(t, 3, "TestRankStopsAtTheEnd", 2*time.Minute)
	if status == 0 || !strings.Contains(out, "this rank was done, and the others have not ended within 1s") {
		t.Errorf("status %d\n%s", status, out)
	}
}

func TestMPIUnequalSizes(t *testing.T) {
	if out, status := mpitest.Mpirun(t, 2, "TestRankDisagrees", 2*time.Minute); status != 0 || !passed(out, 2) {
		t.Errorf("status %d\n%s", status, out)
	}
}

func TestMPIMoreThan32Bits(t *testing.T) {
	if testing.Short() {
		t.Skip("needs 2.2 GB of memory")
	}
	needMemory(t, 3<<30)
	if out, status := mpitest.Mpirun(t, 2, "TestRankSendsMoreThan32Bits", 3*time.Minute); status != 0 || !passed(out, 2) {
		t.Errorf("status %d\n%s", status, out)
	}
}
