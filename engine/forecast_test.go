package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/mpi"
)

// TestForecastHolds compares what is foreseen with what an engine then takes, and with what it refuses.
func TestForecastHolds(t *testing.T) {
	job := newJob(t, nil)
	job.KVMemory = 64 << 20
	for _, ranks := range []int{1, 2, 4} {
		f, err := Foresee(t.Context(), job, ranks, 4<<30, false)
		if err != nil {
			t.Fatal(err)
		}
		err = mpi.Run(ranks, func(w mpi.World) error {
			e, err := Open(t.Context(), w, job)
			if err != nil {
				return err
			}
			weights, kv := e.Memory()
			r := f.Ranks[w.Rank()]
			if kv != r.KV || weights < r.Weights || float64(weights) > 1.1*float64(r.Weights) { // tiles are padded
				t.Errorf("rank %d of %d takes %d for weights and %d for KV, foreseen %d and %d", w.Rank(), ranks, weights, kv, r.Weights, r.KV)
			}
			return e.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for say, c := range map[string]struct {
		ranks  int
		memory int64
		change func(*config.Job)
	}{
		"use 1 or 2":   {6, 4 << 30, func(j *config.Job) { j.EP = 4 }},
		"of 8 MiB":     {1, 8 << 20, func(*config.Job) {}},
		"no such file": {1, 4 << 30, func(j *config.Job) { j.Model = "/nowhere" }},
	} {
		j := newJob(t, c.change)
		_, err := Foresee(t.Context(), j, c.ranks, c.memory, true)
		if err == nil || !strings.Contains(err.Error(), say) || strings.HasPrefix(say, "use") && !errors.Is(err, ErrRefused) {
			t.Errorf("%q: %v", say, err)
		}
	}
}
