//go:build faults

package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// faults makes the program that the tests of promise 3 break: DSBATCH_FAULT="RANK PHASE AFTER SIGNAL" has that rank send
// itself a signal when it has entered the phase more than AFTER times, 0: do nothing any more. It dwells there first, so
// that its phase file tells of it. Only a build with the tag faults has this.
func faults() func(rank int, phase string) {
	var victim, after, signal int
	var where string
	if _, err := fmt.Sscan(os.Getenv("DSBATCH_FAULT"), &victim, &where, &after, &signal); err != nil {
		return nil
	}
	var times atomic.Int64
	return func(rank int, phase string) {
		if rank == victim && phase == where && times.Add(1) == int64(after)+1 {
			if signal == 0 {
				select {}
			}
			time.Sleep(700 * time.Millisecond)
			if err := syscall.Kill(os.Getpid(), syscall.Signal(signal)); err != nil {
				panic(err)
			}
			select {} // a signal to the process may find another thread first
		}
	}
}
