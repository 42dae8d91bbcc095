package engine

import (
	"errors"
	"slices"
	"testing"

	"github.com/dsbatch/dsbatch/comm"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/mpi/mpitest"
	"github.com/dsbatch/dsbatch/stats"
)

// peaked is a device with peak rates, or without.
type peaked struct {
	kernels.Device
	err error
}

func (peaked) Name() string                         { return "peaked" }
func (peaked) PeakProducts(kernels.DType) float64   { return 1e12 }
func (d peaked) PeakRead() (bytes float64, _ error) { return 1e9, d.err }

// TestJobsGoOnWithoutPeakRates: what is measured for the report alone ends no job where it cannot be measured, in a build
// without C or on a GPU whose memory is full.
func TestJobsGoOnWithoutPeakRates(t *testing.T) {
	for _, c := range []struct {
		err  error
		want stats.Ceilings
	}{{nil, stats.Ceilings{FLOPs: 1e12, Bytes: 1e9}}, {errors.ErrUnsupported, stats.Ceilings{}}, {errors.New("out of memory"), stats.Ceilings{}}} {
		l := &loop{run: &run{world: mpi.Alone(), engine: &Engine{device: peaked{err: c.err}}, record: stats.New(0)}}
		l.ceilings()
		if l.failed != nil || l.options.Ceilings != c.want {
			t.Errorf("%v: the job fails (%v), with the peaks %+v", c.err, l.failed, l.options.Ceilings)
		}
	}
}

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

// warmed is a cache that notes which blocks it was asked to warm.
type warmed struct {
	kernels.Warmer
	from, to []int
}

func (c *warmed) Warm(from, to int, each func()) {
	c.from, c.to = append(c.from, from), append(c.to, to)
}

// TestRanksWarmTogether: all ranks take the memory of as many blocks as the one that needs most, each block once.
func TestRanksWarmTogether(t *testing.T) {
	mpitest.Run(t, 3, func(w mpi.World) error {
		watcher, err := comm.Watch(t.Context(), w, comm.WatchOptions{})
		if err != nil {
			return err
		}
		defer watcher.Close()
		cache, s := &warmed{}, newScheduler(130, 1<<20, 8, 1)
		steps := &stepper{cache: cache}
		e := &Engine{scheduler: s, steps: steps, pipeline: newPipeline(&place{stages: 1}, steps), size: stepSize{blocks: 130}}
		l := &loop{run: &run{world: w, watcher: watcher, engine: e}}
		for row, blocks := range [][3]int{{20, 40, 7}, {1, 1, 1}, {3, 1, 2}, {80, 1, 1}} { // of a row that each rank adds
			n := blocks[w.Rank()] * blockTokens
			tokens := slices.Repeat([]int32{int32(row)}, n)
			if err := s.add(&sequence{row: &rowState{}, tokens: tokens, prompt: n, limit: n}); err != nil {
				return err
			}
			s.next(0)
			v, err := l.agree(t.Context(), 0)
			if err != nil {
				return err
			}
			l.warm(int(v.Max(voteBlocks)))
		}
		// 40; for a 41st a quarter more; a 42nd is among those; 104 are more than a quarter more
		if want := []int{40, 50, 104}; !slices.Equal(cache.to, want) || !slices.Equal(cache.from, []int{0, 40, 50}) {
			t.Errorf("rank %d warms blocks %v to %v, want up to %v", w.Rank(), cache.from, cache.to, want)
		}
		return nil
	})
}
