//go:build faults

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dsbatch/dsbatch/io/results"
)

// faults makes the program that the tests of promise 3 break: DSBATCH_FAULT="RANK PHASE AFTER SIGNAL" has that rank send
// itself a signal when it has entered the phase more than AFTER times, 0: do nothing any more. It dwells there until its
// phase file tells of it and all ranks have one, 3 s at most, and then says when it does it. Only a build with the tag
// faults has this.
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
			for began := time.Now(); !told(rank, phase, began) && time.Since(began) < 3*time.Second; {
				time.Sleep(10 * time.Millisecond)
			}
			fmt.Fprintf(os.Stderr, "fault at %d\n", time.Now().UnixMilli())
			if err := syscall.Kill(os.Getpid(), syscall.Signal(signal)); err != nil {
				panic(err)
			}
			select {} // a signal to the process may find another thread first
		}
	}
}

// told tells whether the rank's phase file, under the output that the command line names, is about the phase that began
// then, not about an earlier one of that name, and the other ranks have such files, too.
func told(rank int, phase string, began time.Time) bool {
	at := slices.Index(os.Args, "--output") + 1
	files, err := filepath.Glob(filepath.Join(os.Args[at], "_dsbatch", fmt.Sprintf("phase-*-%05d.json", rank)))
	if err != nil || len(files) == 0 {
		return false
	}
	text, err := os.ReadFile(files[len(files)-1])
	if err != nil || !strings.Contains(string(text), `"phase":"`+phase+`"`) {
		return false
	}
	var p results.Phase
	if err := json.Unmarshal(text, &p); err != nil || p.Told.Before(began) {
		return false
	}
	all, err := filepath.Glob(filepath.Join(os.Args[at], "_dsbatch", fmt.Sprintf("phase-%06d-*.json", p.Start)))
	return err == nil && len(all) == p.Ranks
}
