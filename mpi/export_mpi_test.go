//go:build mpi

package mpi

import "time"

// SetPiece makes messages longer than n bytes go in pieces, in worlds that are started later.
func SetPiece(n int64) { piece = n }

// SetFinalPatience says how long a rank that is done waits for the others.
func SetFinalPatience(d time.Duration) { finalPatience = d }

// SetStartPatience says when a rank that waits for others to start says so, and when it ends the job.
func SetStartPatience(notice, patience time.Duration) { startNotice, startPatience = notice, patience }
