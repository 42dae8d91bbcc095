package comm

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// TestStuckRankIsNamed: rank 2 does nothing any more while the others wait for it, for messages too.
func TestStuckRankIsNamed(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	begun := time.Now()
	err := mpi.Run(4, func(w mpi.World) error {
		x, err := Watch(t.Context(), w, WatchOptions{Timeout: 500 * time.Millisecond})
		if err != nil {
			return err
		}
		x.Phase("prefill")
		if w.Rank() == 2 {
			x.Phase("commit")
			<-stuck
		}
		if w.Rank() == 3 {
			return x.World().Recv(t.Context(), 2, 0, make([]byte, 8))
		}
		return x.World().Barrier(t.Context())
	})
	if err == nil || !strings.Contains(err.Error(), `rank 2 (`) || !strings.Contains(err.Error(), `no progress in phase "commit"`) {
		t.Errorf("%v, want rank 2 and its phase", err)
	}
	if spent := time.Since(begun); spent > 20*time.Second {
		t.Errorf("after %v", spent)
	}
}

// TestSlowRankIsLeftAlone: a rank that reports progress, or waits, isn't stuck, and the ranks that have closed their
// watch don't matter.
func TestSlowRankIsLeftAlone(t *testing.T) {
	mpitest.Run(t, 4, func(w mpi.World) error {
		const timeout = 500 * time.Millisecond
		x, err := Watch(t.Context(), w, WatchOptions{Timeout: timeout})
		if err != nil {
			return err
		}
		busy := func() {
			for begun := time.Now(); time.Since(begun) < 5*timeout; time.Sleep(timeout / 10) {
				x.Progress()
			}
		}
		if w.Rank() == 1 {
			x.Phase("load")
			busy()
		}
		if err := x.World().Barrier(t.Context()); err != nil {
			return err
		}
		switch w.Rank() {
		case 0: // goes on a while; 2 and 3 wait for it, and can't hear of it, since 1 has closed
			busy()
			for to := 2; to < 4; to++ {
				if err := x.World().Send(t.Context(), to, 0, []byte{1}); err != nil {
					return err
				}
			}
		case 2, 3:
			if err := x.World().Recv(t.Context(), 0, 0, make([]byte, 1)); err != nil {
				return err
			}
		}
		return x.World().Close()
	})
}

// TestDisagreementIsNamed: all ranks live and wait for each other, in different communicators.
func TestDisagreementIsNamed(t *testing.T) {
	err := mpi.Run(3, func(w mpi.World) error {
		x, err := Watch(t.Context(), w, WatchOptions{Timeout: 300 * time.Millisecond})
		if err != nil {
			return err
		}
		other, err := x.World().Split(t.Context(), 0, 0)
		if err != nil {
			return err
		}
		x.Phase("dispatch")
		if w.Rank() == 1 {
			return other.Barrier(t.Context())
		}
		return x.World().Barrier(t.Context())
	})
	if err == nil || !strings.Contains(err.Error(), "they disagree") || !strings.Contains(err.Error(), `"dispatch"`) {
		t.Errorf("%v", err)
	}
}

// TestWatchUnderMPI ends one rank of real ones in several ways; the rank tests are in rank_test.go.
func TestWatchUnderMPI(t *testing.T) {
	for how, says := range map[string]string{
		"stopped":  `rank 1 \(.+\), last heard in phase "dispatch", has been silent for`,
		"stuck":    `rank 1 \(.+\) has made no progress in phase "dispatch"`,
		"killed":   `rank 1 .* exited on signal 9`, // the launcher's words
		"disagree": `they disagree about what comes next`,
	} {
		out, status := mpitest.Mpirun(t, 3, "TestRankWatched", 60*time.Second, "DSBATCH_TEST_HOW="+how)
		if status == 0 || !regexp.MustCompile(says).MatchString(out) {
			t.Errorf("%s: status %d, want %q in\n%s", how, status, says, out)
		}
	}
	if out, status := mpitest.Mpirun(t, 3, "TestRankWatched", 60*time.Second, "DSBATCH_TEST_HOW=well"); status != 0 {
		t.Errorf("a sound job: status %d\n%s", status, out)
	}
}

func TestBeat(t *testing.T) {
	for _, b := range []beat{
		{}, {bye: true, phase: "commit"}, {waiting: true, silent: 3 * time.Second, idle: time.Hour},
		{ending: true, phase: strings.Repeat("x", 72)},
	} {
		if got := decodeBeat(b.encode()); got != b {
			t.Errorf("%+v becomes %+v", b, got)
		}
	}
	long := decodeBeat(beat{phase: strings.Repeat("y", 500)}.encode())
	if long.phase != strings.Repeat("y", 72) {
		t.Error(fmt.Sprint("a long phase becomes ", long.phase))
	}
}
