package engine

import (
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
)

// TestRanksBeginTogether: ranks that have a plan wait for one that reads its first rows, but not for ever, not for one
// that has none to read, and not once they step.
func TestRanksBeginTogether(t *testing.T) {
	mpitest.Run(t, 3, func(w mpi.World) error {
		for _, c := range []struct {
			what           string
			plans, pending [3]int64 // of the ranks
			stepped        bool
			waits          int // turns
		}{
			{what: "one reads", plans: [3]int64{5, 0, 5}, pending: [3]int64{0, 1, 0}, waits: 50},
			{what: "one has nothing", plans: [3]int64{5, 0, 5}},
			{what: "all have rows, and read more", plans: [3]int64{5, 6, 5}, pending: [3]int64{1, 1, 1}},
			{what: "the job goes on", plans: [3]int64{5, 0, 5}, pending: [3]int64{0, 1, 0}, stepped: true},
		} {
			var mine [votes]int64
			mine[votePlan], mine[votePending] = c.plans[w.Rank()], c.pending[w.Rank()]
			v, err := comm.Agree(t.Context(), w, mine[:]...)
			if err != nil {
				return err
			}
			l, waits := &loop{run: &run{world: w}, stepped: c.stepped}, 0
			for l.hold(v) {
				waits++
			}
			if waits != c.waits {
				t.Errorf("%s: rank %d waits %d turns, want %d", c.what, w.Rank(), waits, c.waits)
			}
		}
		return nil
	})
}
