//go:build !cgo

package cpu

func detect() features { return 0 }
