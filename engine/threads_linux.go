package engine

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// ownCores marks the cores that this process may run on.
func ownCores(set []byte) {
	var cores unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cores); err != nil {
		anyCores(set, runtime.NumCPU())
		return
	}
	for core := range min(len(cores)*64, len(set)*8) {
		if cores.IsSet(core) {
			set[core/8] |= 1 << (core % 8)
		}
	}
}
