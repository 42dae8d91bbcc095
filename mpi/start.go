//go:build mpi

package mpi

import (
	"fmt"
	"os"
	"time"

	empi "github.com/emer/empi/mpi"
)

// While the library starts, a rank waits for all others, and nothing watches yet: it says so after startNotice, and ends
// the job after startPatience. Launchers never do, where a rank's process is stopped or cannot load the program.
var (
	startNotice   = 30 * time.Second
	startPatience = 10 * time.Minute
)

// start starts the library.
func start() error {
	say := func(waited time.Duration, then string) {
		fmt.Fprintf(os.Stderr, "dsbatch: rank %d (%s) has waited %v for the other ranks to start: one was stopped, or its host "+
			"cannot load the program; %s\n", LaunchedRank(), hostname(), waited, then)
	}
	notice := time.AfterFunc(startNotice, func() { say(startNotice, "see which ranks do not say this") })
	defer notice.Stop()
	late := time.AfterFunc(startPatience, func() {
		say(startPatience, "start the same command again")
		os.Exit(1)
	})
	defer late.Stop()
	return empi.InitThreadSafe()
}
