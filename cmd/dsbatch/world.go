package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// onWorld runs f on this process's ranks: the launcher's, --ranks goroutines, or one alone.
func onWorld(job *config.Job, f func(mpi.World) error) error {
	kind, size := mpi.Launched()
	if kind != "" && size != 1 {
		if job.Ranks > 1 {
			return usageErrorf("--ranks %d inside a job that %s started with ranks of its own; leave --ranks out", job.Ranks, kind)
		}
		if !linkedWithMPI {
			return become(kind)
		}
		w, err := mpi.MPI()
		if err != nil {
			return err
		}
		err = f(w)
		if lost := (*comm.RankError)(nil); errors.As(err, &lost) {
			time.Sleep(yield) // that rank ends the job, with its own status and reason
		}
		if err != nil && w.Rank() > 0 {
			signal.Reset(syscall.SIGTERM) // by which the launcher ends those that are left
		}
		if err != nil && !agreedEnd(err) {
			firstSpeaks(w.Rank())
			w.Abort(statusOf(err), err.Error())
		}
		if err != nil && w.Rank() == 0 {
			report(err, os.Stderr) // now: End may not return
			err = &toldError{err}
		}
		err = errors.Join(err, w.End(statusOf(err)))
		if agreedEnd(err) && w.Rank() > 0 {
			return nil // rank 0 tells it, for all
		}
		if err != nil && kind == "srun" {
			time.Sleep(lastOut)
		}
		return err
	}
	return inProcess(max(job.Ranks, 1), f)
}

// toldError is an error that the user has been told of.
type toldError struct{ error }

func (e *toldError) Unwrap() error { return e.error }

// firstSpeaks gives rank 0 time to tell what is wrong, where the others are about to tell the same: the launcher ends
// them when it has.
func firstSpeaks(rank int) {
	if rank > 0 {
		time.Sleep(time.Second)
	}
}

// yield is how long a rank that only hears of another's failure lets that one end the job.
const yield = 3 * time.Second

// lastOut is how long rank 0 waits with its status for the other processes to end: srun --kill-on-bad-exit kills those
// that have not, and returns that as the status of the job.
const lastOut = 500 * time.Millisecond

// inProcess runs f on n ranks of this process. Of their errors it returns the one that made the others fail.
func inProcess(n int, f func(mpi.World) error) error {
	var mu sync.Mutex
	var cause error
	err := mpi.Run(n, func(w mpi.World) error {
		err := f(w)
		if lost := (*comm.RankError)(nil); err != nil && !errors.As(err, &lost) && !errors.Is(err, mpi.ErrEnded) {
			mu.Lock()
			defer mu.Unlock()
			if cause == nil {
				cause = err
			}
		}
		return err
	})
	mu.Lock() // a rank that is stuck may be left behind
	defer mu.Unlock()
	if aborted := (*mpi.Error)(nil); cause == nil && errors.As(err, &aborted) && aborted.Op == "abort" {
		return aborted.Err // which names rank and host itself
	}
	if cause != nil {
		return cause
	}
	return err
}

// agreedEnd tells whether all ranks end with this error together, so that none has to be ended by force.
func agreedEnd(err error) bool {
	s := statusOf(err)
	return s == statusBadRows || s == statusStopped
}

// become replaces this process by the program that is linked with MPI, which lies beside it.
func become(kind string) error {
	const install = "install Open MPI (on Debian: apt-get install openmpi-bin libopenmpi-dev) and run make build"
	self, err := os.Executable()
	if err != nil {
		return err
	}
	other := filepath.Join(filepath.Dir(self), "dsbatch-mpi")
	if _, err := os.Stat(other); err != nil {
		return fmt.Errorf("%s started this as one rank of many, which takes %s, and that is not there; %s", kind, other, install)
	}
	if os.Getenv("DSBATCH_BECAME") != "" {
		return fmt.Errorf("%s is not linked with MPI; %s", other, install)
	}
	if err := mpi.Starts(other); err != nil { // afterwards the dynamic loader ends this process with its own words
		return fmt.Errorf("%s; %s", err.Error(), install)
	}
	err = syscall.Exec(other, append([]string{other}, os.Args[1:]...), append(os.Environ(), "DSBATCH_BECAME=1"))
	return fmt.Errorf("%s cannot be started: %s; %s", other, err.Error(), install) // not wrapped: no input is missing
}
