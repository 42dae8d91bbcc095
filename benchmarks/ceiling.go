package benchmarks

import (
	"errors"
	"time"

	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/kernels/cuda"
)

// ceilings are what a device can do at most, looked at again and again: on a machine that others use too, only a ratio
// to what it could do at that moment says anything.
type ceilings struct {
	look     looker // nil: the device cannot tell
	products map[kernels.DType][]float64
	reads    []float64
	bus      float64 // bytes a second from the host's memory, where weights wait there

	now struct{ products, read float64 } // what the last look saw
}

// looker measures for some milliseconds the operations that a device does in a second on weights of a type, and the
// bytes that it reads from memory.
type looker interface {
	Products(weights kernels.DType) float64
	Read() float64
	Close()
}

func newCeilings(d kernels.Device) (*ceilings, error) {
	c := &ceilings{products: map[kernels.DType][]float64{}}
	if g, ok := d.(*cuda.Device); ok {
		c.look = card{g}
		return c, nil
	}
	p, ok := d.(*cpu.Device)
	if !ok {
		return c, nil
	}
	look, err := p.NewCeilings()
	if errors.Is(err, errors.ErrUnsupported) { // a build without C
		return c, nil
	}
	c.look = look
	return c, err
}

// card is a GPU's ceilings, which it measures once: nobody else is on it, and its clocks are its own.
type card struct{ *cuda.Device }

func (c card) Products(w kernels.DType) float64 { return c.PeakProducts(w) }
func (c card) Close()                           {}
func (c card) Read() float64 {
	bytes, err := c.PeakRead()
	if err != nil {
		return 0
	}
	return bytes
}

func (c *ceilings) close() {
	if c.look != nil {
		c.look.Close()
	}
}

// measure looks at the ceilings for work on weights of type w: products of it, or none where the work has none.
func (c *ceilings) measure(w kernels.DType, products bool) {
	if c.look == nil {
		return
	}
	c.now.read = c.look.Read()
	c.reads = append(c.reads, c.now.read)
	if c.now.products = 0; products {
		c.now.products = c.look.Products(w)
		c.products[w] = append(c.products[w], c.now.products)
	}
}

// bound is the seconds that so much work took at least by the last look, and which ceiling says so.
func (c *ceilings) bound(flops, bytes float64) (least float64, by string) {
	if c.now.read > 0 && bytes > 0 {
		least, by = bytes/c.now.read, "by bytes"
	}
	if c.now.products > 0 && flops/c.now.products > least {
		least, by = flops/c.now.products, "by products"
	}
	return least, by
}

// group is the ceilings as figures.
func (c *ceilings) group() Group {
	g := Group{Name: "ceilings", Note: "of this machine, looked at beside every round"}
	add := func(name, unit string, seen []float64) {
		if len(seen) > 0 {
			low, mid, high := spread(seen)
			g.Figures = append(g.Figures, Figure{Name: name, Value: mid / 1e9, Worst: low / 1e9, Best: high / 1e9, Unit: unit})
		}
	}
	for _, w := range weightTypes {
		add("products, "+w.String()+" weights", "GFLOP/s", c.products[w])
	}
	add("read from memory", "GB/s", c.reads)
	if c.bus > 0 {
		add("brought from the host's memory", "GB/s", []float64{c.bus})
	}
	return g
}

const (
	roundTime = 10 * time.Millisecond // of a round at least, so that the clock and Sync count little
	rounds    = 15
)

// timed runs op in rounds, each of as many calls as fill its time and with a look at what bounds a call before it.
// op is told its number in the round: a round is the same calls again.
func timed(s kernels.Stream, op func(call int), bound func() (least float64, by string)) ([]round, error) {
	run := func(calls int) (time.Duration, error) {
		begin := time.Now()
		for i := range calls {
			op(i)
		}
		err := s.Sync()
		return time.Since(begin), err
	}
	if _, err := run(1); err != nil { // what is made at the first call
		return nil, err
	}
	calls := 1
	for {
		took, err := run(calls)
		if err != nil {
			return nil, err
		}
		if took >= roundTime {
			break
		}
		calls = max(calls+1, int(float64(calls)*min(10, float64(roundTime)/float64(max(took, 1)))))
	}
	if _, err := run(calls); err != nil { // a GPU makes a graph of what comes twice
		return nil, err
	}
	all := make([]round, rounds)
	for i := range all {
		all[i].least, all[i].by = bound()
		took, err := run(calls)
		if err != nil {
			return nil, err
		}
		all[i].seconds = took.Seconds() / float64(calls)
	}
	return all, nil
}
