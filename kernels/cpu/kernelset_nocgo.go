//go:build !cgo

package cpu

// nativeKernels is never asked for: without C the reference is the only level.
func nativeKernels(Level) kernelSet { return kernelSet{} }
