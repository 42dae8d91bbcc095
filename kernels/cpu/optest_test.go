package cpu

import (
	"testing"

	"github.com/dsbatch/dsbatch/kernels/optest"
)

// tolerances hold on every level. AMX and VNNI round activations to the weights' type.
var tolerances = optest.Tolerances{F32: 2e-6, BF16: 1.2e-2, F16: 1e-3, I8: 2.5e-2}

// TestOps runs all cases on every level of this machine.
func TestOps(t *testing.T) {
	for _, l := range detect().levels() {
		t.Run(l.String(), func(t *testing.T) {
			d, err := New(Options{Level: l.String(), Threads: 3})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			optest.Run(t, d, tolerances)
		})
	}
}
