package mpi

// Alone returns a world of one rank: this process, or this goroutine.
func Alone() World { return InProcess(1)[0] }
