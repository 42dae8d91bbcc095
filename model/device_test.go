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

// openRankDevice is openDevice for one of many ranks, which share the GPUs that there are.
func openRankDevice(rank int) (kernels.Device, error) {
	if os.Getenv("DSBATCH_TEST_DEVICE") == "cuda" {
		n, err := cuda.Count()
		if err != nil {
			return nil, err
		}
		return cuda.New(cuda.Options{Ordinal: rank % n})
	}
	return cpu.New(cpu.Options{Threads: 1})
}
