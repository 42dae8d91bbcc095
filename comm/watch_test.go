package comm

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// watched runs f on n watched ranks, in time that passes only where all of them wait: what is bounded here is bounded on any
// machine. A rank may wait for stuck, which is closed when the others have ended.
func watched(t *testing.T, n int, f func(x *Watcher, stuck <-chan struct{}) error) (err error) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer close(stuck)
		err = mpi.Run(n, func(w mpi.World) error {
			x, err := Watch(t.Context(), w, WatchOptions{Timeout: watchTimeout, Advice: "start again"})
			if err != nil {
				return err
			}
			defer x.Close()
			return f(x, stuck)
		})
	})
	return err
}

const watchTimeout = 30 * time.Second

// TestStuckRankIsNamed: rank 2 does nothing any more while the others wait for it, for messages too.
func TestStuckRankIsNamed(t *testing.T) {
	var spent time.Duration
	err := watched(t, 4, func(x *Watcher, stuck <-chan struct{}) error {
		w, begun := x.World(), time.Now()
		x.Main().Phase("prefill")
		if w.Rank() == 2 {
			x.Main().Enter("commit", "chunk", 7, 0)
			<-stuck
		}
		if w.Rank() == 3 {
			return w.Recv(context.Background(), 2, 0, make([]byte, 8))
		}
		err := w.Barrier(context.Background())
		if w.Rank() == 0 {
			spent = time.Since(begun)
		}
		return err
	})
	if spent > watchTimeout {
		t.Errorf("after %v", spent)
	}
	if err == nil || !regexp.MustCompile(`rank 2 \(.+\) is stuck: no progress for .+, in phase commit, chunk 7; .*start again`).MatchString(err.Error()) {
		t.Errorf("%v, want rank 2, its phase and the advice", err)
	}
}

// TestRankThatNeverComes: a rank that does not come to the start of the watch keeps nobody there for ever.
func TestRankThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer close(stuck)
		err := mpi.Run(3, func(w mpi.World) error {
			if w.Rank() == 1 {
				<-stuck
			}
			_, err := Watch(context.Background(), w, WatchOptions{Timeout: watchTimeout, Advice: "start again"})
			return err
		})
		if err == nil || !regexp.MustCompile(`rank [02] \(.+\) has waited 30s for the other ranks at the start: .*; start again`).MatchString(err.Error()) {
			t.Errorf("%v, want a rank that has waited at the start", err)
		}
	})
}

// TestSlowRankIsLeftAlone: a rank that reports progress, or waits, isn't stuck, and the ranks that have closed their
// watch don't matter.
func TestSlowRankIsLeftAlone(t *testing.T) {
	err := watched(t, 4, func(x *Watcher, _ <-chan struct{}) error {
		w, ctx := x.World(), context.Background()
		busy := func() {
			for begun := time.Now(); time.Since(begun) < 5*watchTimeout; time.Sleep(watchTimeout / 2) {
				x.Main().Progress()
			}
		}
		if w.Rank() == 1 {
			x.Main().Phase("load")
			busy()
		}
		if err := w.Barrier(ctx); err != nil {
			return err
		}
		switch w.Rank() {
		case 0: // goes on a while; 2 and 3 wait for it, and can't hear of it, since 1 has closed
			busy()
			for to := 2; to < 4; to++ {
				if err := w.Send(ctx, to, 0, []byte{1}); err != nil {
					return err
				}
			}
		case 2, 3:
			if err := w.Recv(ctx, 0, 0, make([]byte, 1)); err != nil {
				return err
			}
		}
		return w.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSlowCompilerIsLeftAlone: rank 1 compiles kernels in the middle of its load, far longer than the timeout in all. Each
// file is progress, and within one that takes long by itself the work of the compiler. A compiler that does nothing any
// more is named, with its file.
func TestSlowCompilerIsLeftAlone(t *testing.T) {
	var after TaskState
	err := watched(t, 2, func(x *Watcher, stuck <-chan struct{}) error {
		if x.World().Rank() == 0 {
			return x.World().Barrier(context.Background())
		}
		main, began := x.Main(), time.Now()
		main.Enter("load", "layer", 5, 24)
		for file := 1; file <= 8; file++ {
			back := main.Within("compile", "gemm.cu, kernel file", file, 0)
			if file == 4 { // which takes minutes
				main.Follow(func() int64 { return int64(time.Since(began) / time.Second) })
				time.Sleep(10 * watchTimeout)
			} else {
				time.Sleep(watchTimeout / 2)
			}
			back()
		}
		after = main.State()
		main.Within("compile", "attention.cu, kernel file", 9, 0)
		<-stuck
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "in phase compile, attention.cu, kernel file 9; ") || !strings.Contains(err.Error(), "rank 1 (") {
		t.Errorf("%v; it does not name rank 1 and its file", err)
	}
	if after.Phase != "load" || after.Place() != "layer 5 of 24" || after.Moved.Sub(after.Begun) < 13*watchTimeout {
		t.Errorf("after compiling: %+v, want the load that it was in", after)
	}
}

// TestSlowNetworkIsNoDisagreement: ranks that do nothing but exchange, over a slow network, wait whenever a beat looks at
// them, and still get on.
func TestSlowNetworkIsNoDisagreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := mpi.Run(3, func(w mpi.World) error {
			x, err := Watch(context.Background(), slowBarrier{w}, WatchOptions{Timeout: watchTimeout})
			for range 30 {
				if err == nil {
					err = x.World().Barrier(context.Background())
				}
			}
			x.Close()
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

type slowBarrier struct{ mpi.World }

func (s slowBarrier) Barrier(ctx context.Context) error {
	time.Sleep(watchTimeout/2 + 1234567*time.Microsecond) // beside every beat
	return s.World.Barrier(ctx)
}

// TestDisagreementIsNamed: all ranks live and wait for each other, in different communicators.
func TestDisagreementIsNamed(t *testing.T) {
	err := watched(t, 3, func(x *Watcher, _ <-chan struct{}) error {
		other, err := x.World().Split(context.Background(), 0, 0)
		if err != nil {
			return err
		}
		x.Main().Phase("dispatch")
		if x.World().Rank() == 1 {
			return other.Barrier(context.Background())
		}
		return x.World().Barrier(context.Background())
	})
	if err == nil || !strings.Contains(err.Error(), "they disagree") || !strings.Contains(err.Error(), `in phase dispatch, waiting in barrier`) {
		t.Errorf("%v", err)
	}
}

// TestWatchUnderMPI ends one rank of real ones in several ways; the rank tests are in rank_test.go.
func TestWatchUnderMPI(t *testing.T) {
	for how, says := range map[string]string{
		"stopped":  `rank 1 \(.+\) was killed or stopped, or its host cannot be reached: silent for .+, last in phase dispatch`,
		"stuck":    `rank 1 \(.+\) is stuck: no progress for .+, in phase dispatch`,
		"killed":   `rank 1 .* exited on signal 9`, // the launcher's words
		"disagree": `they disagree about what comes next`,
	} {
		out, status := mpitest.Mpirun(t, 3, "TestRankWatched", 2*time.Minute, "DSBATCH_TEST_HOW="+how)
		if status == 0 || !regexp.MustCompile(says).MatchString(out) {
			t.Errorf("%s: status %d, want %q in\n%s", how, status, says, out)
		}
	}
	if out, status := mpitest.Mpirun(t, 3, "TestRankWatched", 2*time.Minute, "DSBATCH_TEST_HOW=well"); status != 0 {
		t.Errorf("a sound job: status %d\n%s", status, out)
	}
}

// TestStuckBesideIsNamed: rank 0's main line waits for rank 1 and returns again and again, while what it does beside that
// hangs.
func TestStuckBesideIsNamed(t *testing.T) {
	err := watched(t, 2, func(x *Watcher, _ <-chan struct{}) (err error) {
		x.Main().Phase("decode")
		if x.World().Rank() == 0 {
			x.Begin("commit").Done() // ended in time
			x.Begin("read").At("chunk", 3, 9)
		}
		for err == nil {
			err = x.World().Barrier(context.Background())
			time.Sleep(time.Second)
		}
		return err
	})
	if err == nil || !regexp.MustCompile(`rank 0 \(.+\) is stuck: no progress for .+, in phase read, chunk 3 of 9;`).MatchString(err.Error()) {
		t.Errorf("%v, want rank 0 and what it does beside", err)
	}
}

// TestStatus: what a rank is at, and for whom it waits.
func TestStatus(t *testing.T) {
	mpitest.Run(t, 2, func(w mpi.World) error {
		x, err := Watch(t.Context(), w, WatchOptions{})
		if err != nil {
			return err
		}
		x.Main().Enter("load", "layer", 3, 24)
		x.Main().At("layer", 4, 24)
		beside := x.Begin("read")
		if w.Rank() == 0 {
			var helper sync.WaitGroup
			helper.Go(func() {
				for x.Status().Waits == "" {
					time.Sleep(time.Millisecond)
				}
				s := x.Status()
				if s.Waits != "receive" || s.Main.Phase != "load" || s.Main.Place() != "layer 4 of 24" || len(s.Beside) != 1 || s.Beside[0].Phase != "read" {
					t.Errorf("%+v", s)
				}
				if e := Failed(x.World(), 1); e.Error() != "rank 1 ("+w.Host()+") failed: in phase load; its own message tells why" {
					t.Error(e)
				}
				if err := x.World().Send(t.Context(), 1, 1, []byte{1}); err != nil {
					t.Error(err)
				}
			})
			err = x.World().Recv(t.Context(), 1, 0, make([]byte, 1))
			helper.Wait()
		} else if err = x.World().Recv(t.Context(), 0, 1, make([]byte, 1)); err == nil {
			err = x.World().Send(t.Context(), 0, 0, []byte{1})
		}
		beside.Done()
		if s := x.Status(); s.Waits != "" || len(s.Beside) != 0 {
			t.Errorf("afterwards %+v", s)
		}
		return errors.Join(err, x.World().Close())
	})
}

func TestBeat(t *testing.T) {
	for _, b := range []beat{
		{}, {bye: true, task: TaskState{Phase: "commit"}}, {idle: time.Hour, task: TaskState{Phase: "load", Unit: "layer", N: 3, Of: 24}},
		{ending: true, task: TaskState{Phase: strings.Repeat("x", 36), Unit: strings.Repeat("z", 36)}},
	} {
		if got := decodeBeat(b.encode()); got != b {
			t.Errorf("%+v becomes %+v", b, got)
		}
	}
	long := decodeBeat(beat{task: TaskState{Phase: strings.Repeat("y", 500), Unit: "chunk"}}.encode())
	if long.task.Phase != strings.Repeat("y", 36) || long.task.Unit != "chunk" {
		t.Errorf("long words become %+v", long)
	}
}

// TestASleeperAccusesNobody: a process that was stopped for longer than a rank may be silent finds itself at fault first, and
// hears of its predecessor anew.
func TestASleeperAccusesNobody(t *testing.T) {
	begin := time.Now()
	x := &Watcher{options: WatchOptions{Timeout: 4 * time.Minute}, looked: begin}
	if w := x.woken(); !w.IsZero() {
		t.Errorf("awake all the time, it woke at %v", w)
	}
	x.looked = begin.Add(-2 * time.Minute) // stopped since
	w := x.woken()
	if w.Before(begin) {
		t.Errorf("stopped for two minutes, it woke at %v", w)
	}
	if again := x.woken(); !again.Equal(w) {
		t.Errorf("it woke at %v, and once more at %v", w, again)
	}
}
