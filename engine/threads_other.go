//go:build !linux

package engine

import "runtime"

// ownCores marks the cores that this process may run on; where the system does not tell which, the first ones.
func ownCores(set []byte) { anyCores(set, runtime.NumCPU()) }
