//go:build mpi

package mpi_test

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// rankOf starts MPI in a process that mpitest.Mpirun started for this test, and skips the test elsewhere.
func rankOf(t *testing.T) mpi.World {
	t.Helper()
	if n, err := strconv.ParseInt(os.Getenv("DSBATCH_TEST_PIECE"), 10, 64); err == nil {
		mpi.SetPiece(n)
	}
	w := mpitest.Rank(t)
	if _, err := mpi.MPI(); err == nil {
		t.Error("MPI starts twice")
	}
	return w
}

func TestRankConforms(t *testing.T) {
	w := rankOf(t)
	if yields := os.Getenv("OMPI_MCA_mpi_yield_when_idle") == "1"; w.Size() > runtime.NumCPU() && !yields {
		t.Error("more ranks than cores, and those that wait keep theirs")
	}
	if kind, n := mpi.Launched(); kind != "mpirun" || n != w.Size() {
		t.Errorf("launched by %q with %d ranks, the world has %d", kind, n, w.Size())
	}
	for seed := range uint64(2) {
		if err := mpitest.Conform(t.Context(), w, seed); err != nil {
			t.Error(err)
			w.Abort(9, err.Error())
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestRankAborts(t *testing.T) {
	w := rankOf(t)
	if w.Rank() == 1 {
		code, _ := strconv.Atoi(os.Getenv("DSBATCH_TEST_CODE"))
		w.Abort(code, "the disk is full")
	}
	t.Error(w.Barrier(t.Context())) // doesn't return
	time.Sleep(time.Minute)
}

// TestRankDies: the launcher ends the ranks that wait for a killed one.
func TestRankDies(t *testing.T) {
	w := rankOf(t)
	if w.Rank() == 1 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	t.Error(w.Barrier(t.Context()))
	time.Sleep(time.Minute)
}

// TestRankStopsBeforeTheStart: a rank that never gets to the library's start doesn't keep the others for ever.
func TestRankStopsBeforeTheStart(t *testing.T) {
	if !mpitest.IsRank(t.Name()) {
		t.Skip("this is one rank's part of a test under mpirun")
	}
	if os.Getenv("OMPI_COMM_WORLD_RANK") == "1" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // this thread may run on for a while
	}
	mpi.SetStartPatience(100*time.Millisecond, 500*time.Millisecond)
	t.Error(mpi.MPI())
}

// TestRankStopsAtTheEnd: a rank whose process is stopped when all work is done doesn't keep the others for ever.
func TestRankStopsAtTheEnd(t *testing.T) {
	mpi.SetFinalPatience(time.Second)
	w := rankOf(t)
	if err := w.Barrier(t.Context()); err != nil {
		t.Error(err)
	}
	if w.Rank() == 1 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // this thread may run on for a while
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestRankDisagrees sends what nobody expects; the library's error comes back as ours, and bytes that were left over don't
// get into the next call.
func TestRankDisagrees(t *testing.T) {
	w := rankOf(t)
	send, recv := []int64{1, 1}, []int64{1, 1}
	if w.Rank() == 0 {
		send[1] = 5 // rank 1 expects 1: too long
	}
	if w.Rank() == 1 {
		recv[0] = 1
	}
	err := w.AllToAllV(t.Context(), make([]byte, send[0]+send[1]), send, make([]byte, 2), recv)
	if (err != nil) != (w.Rank() == 1) {
		t.Errorf("rank %d, too long: %v", w.Rank(), err)
	}
	send, recv = []int64{1, 1}, []int64{1, 1}
	if w.Rank() == 1 {
		recv[0] = 3 // rank 0 sends 1: too short
	}
	err = w.AllToAllV(t.Context(), make([]byte, 2), send, make([]byte, recv[0]+recv[1]), recv)
	if (err != nil) != (w.Rank() == 1) {
		t.Errorf("rank %d, too short: %v", w.Rank(), err)
	}
	expects := []int64{1, 1}
	if w.Rank() == 1 {
		expects[0] = 0
	}
	if err := w.AllToAllV(t.Context(), []byte{1, 1}, []int64{1, 1}, make([]byte, expects[0]+1), expects); err != nil {
		t.Errorf("rank %d, left over: %v", w.Rank(), err)
	}
	next := make([]byte, 2)
	if err := w.AllToAllV(t.Context(), []byte{2, 2}, []int64{1, 1}, next, []int64{1, 1}); err != nil || next[0] != 2 || next[1] != 2 {
		t.Errorf("rank %d, next call: %v, %v", w.Rank(), next, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestRankSendsMoreThan32Bits moves 2 GiB + 5 bytes from rank 0 to rank 1, by each call that can. The sender's pages are
// mapped and never written but at a few places, so only the receiver needs the memory.
func TestRankSendsMoreThan32Bits(t *testing.T) {
	w := rankOf(t)
	const n = 1<<31 + 5
	b, err := large(n)
	if err != nil {
		t.Fatal(err)
	}
	marks := []int{0, 1<<30 - 1, 1 << 30, 1<<31 - 1, 1 << 31, n - 1}
	for _, call := range []string{"all-to-all", "broadcast", "message"} {
		for i, m := range marks {
			b[m] = 0
			if w.Rank() == 0 {
				b[m] = byte(i + len(call))
			}
		}
		var err error
		switch r := w.Rank(); {
		case call == "broadcast":
			err = w.Bcast(t.Context(), 0, b)
		case call == "message" && r == 0:
			err = w.Send(t.Context(), 1, 1, b)
		case call == "message":
			err = w.Recv(t.Context(), 0, 1, b)
		case r == 0:
			err = w.AllToAllV(t.Context(), b, []int64{0, n}, nil, []int64{0, 0})
		default:
			err = w.AllToAllV(t.Context(), nil, []int64{0, 0}, b, []int64{n, 0})
		}
		if err != nil {
			t.Errorf("%s: %v", call, err)
		}
		for i, m := range marks {
			if b[m] != byte(i+len(call)) {
				t.Errorf("%s: byte %d is %d, want %d", call, m, b[m], byte(i+len(call)))
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
