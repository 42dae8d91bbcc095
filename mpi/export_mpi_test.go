//go:build mpi

package mpi

// SetPiece makes messages longer than n bytes go in pieces, in worlds that are started later.
func SetPiece(n int64) { piece = n }
