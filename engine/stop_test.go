package engine

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
)

func TestStopBeforeTheEnd(t *testing.T) {
	for name, c := range map[string]struct{ left, margin, want, tolerance time.Duration }{
		"the margin":                      {4 * time.Hour, 2 * time.Minute, 4*time.Hour - 2*time.Minute, 0},
		"a tenth of a short time is used": {time.Minute, 2 * time.Minute, 6 * time.Second, time.Second},
		"no time is left":                 {-time.Minute, 2 * time.Minute, 0, time.Minute},
	} {
		var s Stop
		now := time.Now()
		at := s.Before(now.Add(c.left), c.margin)
		if off := at.Sub(now.Add(c.want)).Abs(); off > c.tolerance {
			t.Errorf("%s: stops in %v, want %v", name, at.Sub(now), c.want)
		}
		if late := s.Reason() != ""; late != (c.left < 0) {
			t.Errorf("%s: stops now: %v", name, late)
		}
		if moved := s.Before(now.Add(c.left+time.Hour), c.margin); moved.Sub(at) < 5*time.Minute {
			t.Errorf("%s: the end is an hour later, the stop %v", name, moved.Sub(at))
		}
	}
}

// packs is a device that tells of each packing of weights.
type packs struct {
	kernels.Device
	pack func()
}

func (d *packs) Pack(name string, s kernels.WeightSpec) (kernels.Weights, error) {
	d.pack()
	return d.Device.Pack(name, s)
}

// TestStopDuringLoad: a rank of two is asked to stop while it loads. Both end between two tensors, as after any stop,
// and the job can be started again.
func TestStopDuringLoad(t *testing.T) {
	for name, c := range map[string]struct {
		ask    func(*Stop)
		shared bool // by the ranks
		reason string
	}{
		"one rank has a signal": {func(s *Stop) { s.Request("a test asks") }, false, "a test asks"},
		"both ranks have":       {func(s *Stop) { s.Request("a test asks") }, true, "a test asks"},
		"one rank's time is up": {func(s *Stop) { s.Before(time.Now().Add(-time.Hour), 0); s.Reason() }, false, timeIsUp},
	} {
		t.Run(name, func(t *testing.T) {
			job := newJob(t, nil)
			var packed [2]atomic.Int32
			stops := [2]*Stop{{}, {}}
			if c.shared {
				stops[1] = stops[0]
			}
			errs := make([]error, 2)
			_ = mpi.Run(2, func(w mpi.World) error {
				rank := w.Rank()
				o := RunOptions{Stop: stops[rank], wrap: func(d kernels.Device) kernels.Device {
					return &packs{d, func() {
						if packed[rank].Add(1) == 3 && rank == 0 {
							c.ask(stops[0])
						}
					}}
				}}
				_, errs[rank] = Run(t.Context(), w, job, o)
				return errs[rank]
			})
			for rank, err := range errs {
				if !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("rank %d: %v", rank, err)
				}
			}
			if n := packed[0].Load(); n != 3 {
				t.Errorf("rank 0 has packed %d weights, want 3", n)
			}
			if s, err := runRanks(t, 1, job, RunOptions{}); err != nil || s.Rows != 16 {
				t.Errorf("started again: %v, %v", s, err)
			}
		})
	}
}

// TestStopDuringCount: a rank of two is asked to stop before it has gone through its part of the input.
func TestStopDuringCount(t *testing.T) {
	job := newJob(t, func(j *config.Job) { j.Input = []string{randomRows(t, rand.New(rand.NewPCG(1, 1)), 9)} })
	stops := [2]*Stop{{}, {}}
	stops[1].Request("a test asks")
	errs := make([]error, 2)
	_ = mpi.Run(2, func(w mpi.World) error {
		_, errs[w.Rank()] = Run(t.Context(), w, job, RunOptions{Stop: stops[w.Rank()]})
		return errs[w.Rank()]
	})
	for rank, err := range errs {
		if !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "a test asks") {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	if _, err := os.Stat(job.Output); err == nil {
		t.Error("the output was made")
	}
}
