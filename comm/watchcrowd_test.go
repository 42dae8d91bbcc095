package comm

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dsbatch/dsbatch/mpi"
)

func TestSharers(t *testing.T) {
	two, other := []int{0, 1}, []int{2, 3}
	for name, c := range map[string]struct {
		seats [][]byte
		want  float64
	}{
		"nobody knows":             {[][]byte{seat("a", nil), seat("a", nil)}, 0},
		"a rank alone":             {[][]byte{seat("a", two)}, 0.5},
		"three on two cores":       {[][]byte{seat("a", two), seat("a", two), seat("a", two)}, 1.5},
		"bound, two each":          {[][]byte{seat("a", two), seat("a", other), seat("a", two), seat("a", other)}, 1},
		"another host is the full": {[][]byte{seat("a", two), seat("b", two[:1]), seat("b", two[:1])}, 2},
	} {
		if got := sharers(bytes.Join(c.seats, nil)); got != c.want {
			t.Errorf("%s: %g ranks share a core, want %g", name, got, c.want)
		}
	}
}

// TestCrowdGetsMoreTime: 16 ranks on 2 cores, which wait for their turns, have twice the timeout. One that is silent for
// 1.2 times of it is left alone; one that is stuck is found a little later than else.
func TestCrowdGetsMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		defer close(stuck)
		began := time.Now()
		err := mpi.Run(16, func(w mpi.World) error {
			x, err := Watch(t.Context(), w, WatchOptions{Timeout: watchTimeout, Cores: []int{4, 7}})
			if err != nil {
				return err
			}
			defer x.Close()
			if ranks, timeout, crowded := x.Crowded(); ranks != 8 || timeout != 2*watchTimeout || !crowded {
				t.Errorf("%d ranks share a core, timeout %v, crowded %v", ranks, timeout, crowded)
			}
			if w.Rank() == 5 {
				time.Sleep(watchTimeout * 12 / 10) // no progress
			}
			if err := x.World().Barrier(t.Context()); err != nil {
				t.Errorf("a rank that had to wait is not left alone: %v", err)
				return err
			}
			if w.Rank() == 0 {
				began = time.Now()
			}
			if w.Rank() == 6 {
				<-stuck
			}
			return x.World().Barrier(t.Context())
		})
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "rank 6 (") || took < watchTimeout || took > 2*watchTimeout {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
