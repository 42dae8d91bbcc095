//go:build faults

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// faults makes the program that the tests of promise 3 break: DSBATCH_FAULT="RANK PHASE AFTER SIGNAL" has that rank send
// itself a signal when it has entered the phase more than AFTER times, 0: do nothing any more. It dwells there until its
// phase file tells of it, 2 s at most. Only a build with the tag faults has this.
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
			for began := time.Now(); !told(rank, phase) && time.Since(began) < 2*time.Second; {
				time.Sleep(10 * time.Millisecond)
			}
			if err := syscall.Kill(os.Getpid(), syscall.Signal(signal)); err != nil {
				panic(err)
			}
			select {} // a signal to the process may find another thread first
		}
	}
}

// told tells whether the rank's phase file, under the output that the command line names, is about the phase.
func told(rank int, phase string) bool {
	at := slices.Index(os.Args, "--output") + 1
	files, err := filepath.Glob(filepath.Join(os.Args[at], "_dsbatch", fmt.Sprintf("phase-*-%05d.json", rank)))
	if err != nil || len(files) == 0 {
		return false
	}
	text, err := os.ReadFile(files[len(files)-1])
	return err == nil && strings.Contains(string(text), `"phase":"`+phase+`"`)
}
