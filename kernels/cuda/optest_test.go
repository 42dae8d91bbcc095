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

// openOlder opens it as a card that has nothing of Hopper's.
func openOlder(t testing.TB) *Device {
	t.Helper()
	d := open(t, Options{})
	d.card.major, d.card.minor = 8, 0
	d.programs.arch = "sm_90" // which a Hopper card can run
	d.programs.compile = func(g program) ([]byte, error) { return compileFor(d.programs.arch, g) }
	return d
}

// TestOps runs the op set; on a Hopper card once more with the kernels that cards before it have, which these run in any case.
func TestOps(t *testing.T) {
	d := open(t, Options{})
	d.programs.prepare(programsOf(d.programs.arch)) // on all cores
	optest.Run(t, d, tolerances)
	if d.card.arch() != "sm_90a" {
		return
	}
	for _, by := range []Multiplier{Own, CuBLASLt} { // wherever it can, not only where it is faster
		t.Run(by.String(), func(t *testing.T) {
			if hasBLAS(t, d) {
				d.MultiplyBy(by)
				defer d.MultiplyBy(Faster)
				optest.Run(t, d, tolerances, "Linear", "Grouped")
			}
		})
	}
	t.Run("OlderCards", func(t *testing.T) {
		d := openOlder(t)
		d.programs.prepare(programsOf(d.programs.arch))
		optest.Run(t, d, tolerances)
	})
}
