package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/dsbatch/dsbatch/engine"
)

// stopSignals are those that ask a command to stop: SIGUSR1 is Slurm's warning, and SIGHUP tells that the terminal is gone,
// which a command started by nohup does not heed.
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// onSignals turns the signals that ask for it into a clean stop; a second SIGINT ends at once. The result ends the watch.
func onSignals(stop *engine.Stop) (end func()) {
	signals, done := make(chan os.Signal, 4), make(chan struct{})
	signal.Notify(signals, stopSignals()...)
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
