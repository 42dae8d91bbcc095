package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/dsbatch/dsbatch/engine"
)

// onSignals turns SIGINT, SIGTERM and SIGUSR1 (Slurm's warning) into a clean stop; a second SIGINT ends at once. The
// result ends the watch.
func onSignals(stop *engine.Stop) (end func()) {
	signals, done := make(chan os.Signal, 4), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	go func() {
		asked := false
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if s == syscall.SIGINT && asked {
					os.Exit(statusFailed)
				}
				asked = asked || s == syscall.SIGINT
				stop.Request("signal: " + s.String())
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
