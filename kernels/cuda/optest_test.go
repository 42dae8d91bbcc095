package cuda

import (
	"testing"

	"github.com/dsbatch/dsbatch/kernels/optest"
)

// tolerances: what float32 sums in another order and one rounding to the type leave.
var tolerances = optest.Tolerances{F32: 2e-6, BF16: 1e-2, F16: 1.5e-3, I8: 2.5e-2}

// open opens the first GPU, or skips loudly.
func open(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Skipf("NOTHING WAS RUN ON A GPU: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestOps(t *testing.T) { optest.Run(t, open(t, Options{}), tolerances) }

// TestOpsOfOlderCards runs on any card the kernels that cards before Hopper have.
func TestOpsOfOlderCards(t *testing.T) {
	d := open(t, Options{})
	if d.card.arch() != "sm_90a" {
		t.Skip("TestOps has run them")
	}
	d.card.major, d.card.minor = 8, 0
	d.programs.arch = "sm_90" // which this card can run, and has nothing of its own
	optest.Run(t, d, tolerances)
}
