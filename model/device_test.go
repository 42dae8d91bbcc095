package model_test

import (
	"os"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// openDevice is the back end that the goldens are run on: the CPU, or the first GPU where DSBATCH_TEST_DEVICE is cuda.
func openDevice() (kernels.Device, error) {
	if os.Getenv("DSBATCH_TEST_DEVICE") == "cuda" {
		return cuda.New(cuda.Options{})
	}
	return cpu.New(cpu.Options{})
}

// openRankDevice is openDevice for one of many ranks.
func openRankDevice() (kernels.Device, error) {
	if os.Getenv("DSBATCH_TEST_DEVICE") == "cuda" {
		return cuda.New(cuda.Options{})
	}
	return cpu.New(cpu.Options{Threads: 1})
}
