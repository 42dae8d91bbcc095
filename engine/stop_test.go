package engine

import (
	"testing"
	"time"
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
