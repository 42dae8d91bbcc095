package benchmarks

import (
	"time"

	"github.com/dsbatch/dsbatch/kernels"
)

// ceilings are what a device can do at most, the best of what was measured so far.
type ceilings struct {
	device   kernels.Device
	products map[kernels.DType]float64 // operations a second
	read     float64                   // bytes a second
}

// measurer is a device that can tell its ceilings; one that cannot gets figures without fractions.
type measurer interface {
	PeakProducts(weights kernels.DType) float64
	PeakRead() (float64, error)
}

func newCeilings(d kernels.Device) *ceilings {
	return &ceilings{device: d, products: map[kernels.DType]float64{}}
}

// measure looks again at the ceilings for weights of type w.
func (c *ceilings) measure(w kernels.DType) error {
	d, ok := c.device.(measurer)
	if !ok {
		return nil
	}
	read, err := d.PeakRead()
	if err != nil {
		return err
	}
	c.read, c.products[w] = max(c.read, read), max(c.products[w], d.PeakProducts(w))
	return nil
}

// bound is the seconds that so much work on weights of type w takes at least, and which ceiling says so.
func (c *ceilings) bound(w kernels.DType, flops, bytes float64) (seconds float64, by string) {
	if c.read > 0 && bytes > 0 {
		seconds, by = bytes/c.read, "by bytes"
	}
	if peak := c.products[w]; peak > 0 && flops/peak > seconds {
		seconds, by = flops/peak, "by products"
	}
	return seconds, by
}

// figures are the ceilings themselves.
func (c *ceilings) figures() []Figure {
	var f []Figure
	for _, w := range []kernels.DType{kernels.F32, kernels.BF16, kernels.I8} {
		if p := c.products[w]; p > 0 {
			f = append(f, Figure{Name: "products, " + w.String() + " weights", Value: p / 1e9, Best: p / 1e9, Unit: "GFLOP/s"})
		}
	}
	if c.read > 0 {
		f = append(f, Figure{Name: "read from memory", Value: c.read / 1e9, Best: c.read / 1e9, Unit: "GB/s"})
	}
	return f
}

const (
	roundTime = 10 * time.Millisecond // of a round at least, so that the clock and Sync count little
	rounds    = 25
)

// timed runs op in rounds, each of as many calls as fill its time, and returns the time of a call in each.
func timed(s kernels.Stream, op func()) ([]time.Duration, error) {
	round := func(calls int) (time.Duration, error) {
		begin := time.Now()
		for range calls {
			op()
		}
		err := s.Sync()
		return time.Since(begin), err
	}
	calls := 1
	if _, err := round(calls); err != nil { // what is made at the first call
		return nil, err
	}
	for {
		took, err := round(calls)
		if err != nil {
			return nil, err
		}
		if took >= roundTime {
			break
		}
		calls = max(calls+1, int(float64(calls)*min(10, float64(roundTime)/float64(max(took, 1)))))
	}
	times := make([]time.Duration, rounds)
	for i := range times {
		took, err := round(calls)
		if err != nil {
			return nil, err
		}
		times[i] = took / time.Duration(calls)
	}
	return times, nil
}
