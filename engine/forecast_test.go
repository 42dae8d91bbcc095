package engine

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/kernels/cpu"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/plan"
)

// TestForecastHolds compares what is foreseen with what an engine then takes, and with what it refuses.
func TestForecastHolds(t *testing.T) {
	job := newJob(t, nil)
	job.KVMemory = 64 << 20
	in := map[int]*Forecast{}
	for _, c := range []struct{ ranks, copies int }{{1, 0}, {2, 0}, {4, 0}, {4, 1}} {
		ranks := c.ranks
		if job.ExpertPlacement = ""; c.copies > 0 {
			layers := make([]int, len(in[ranks].Config.MoE))
			for i, m := range in[ranks].Config.MoE {
				layers[i] = m.Gate.Experts
			}
			job.ExpertPlacement = anyPlacement(t, layers, in[ranks].Layout, c.copies)
		}
		f, err := Foresee(t.Context(), job, Hosts{Ranks: ranks, Memory: 4 << 30})
		if err != nil {
			t.Fatal(err)
		}
		if c.copies == 0 {
			in[ranks] = f
		}
		for r, x := range f.Ranks {
			if alone := in[ranks].Ranks[r]; c.copies > 0 && (x.Weights <= alone.Weights || x.Exchange < alone.Exchange) {
				t.Errorf("rank %d of %d: %+v with copies, %+v without", r, ranks, x, alone)
			}
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
		_, err := Foresee(t.Context(), j, Hosts{Ranks: c.ranks, Memory: c.memory, GPU: true})
		if err == nil || !strings.Contains(err.Error(), say) || strings.HasPrefix(say, "use") && !errors.Is(err, ErrRefused) {
			t.Errorf("%q: %v", say, err)
		}
	}
}

// TestForecastOfLayouts: ranks that are looked at once for all that are alike take what they would take.
func TestForecastOfLayouts(t *testing.T) {
	for _, c := range []struct{ ranks, tp, pp, ep, es, looked int }{
		{8, 1, 1, 4, 1, 4}, {8, 2, 1, 4, 1, 5}, {8, 1, 2, 2, 1, 4}, {8, 2, 2, 2, 1, 6}, {8, 1, 1, 4, 2, 5}, {8, 1, 1, 1, 1, 1},
	} {
		job := newJob(t, func(j *config.Job) {
			j.TP, j.PP, j.EP, j.ES, j.KVMemory = c.tp, c.pp, c.ep, c.es, 16<<20
		})
		f, err := Foresee(t.Context(), job, Hosts{Ranks: c.ranks, Memory: 4 << 30})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		looked := alike(f.Layout)
		slices.Sort(looked)
		if n := len(slices.Compact(looked)); n != c.looked {
			t.Errorf("%+v: %d ranks are looked at", c, n)
		}
		err = mpi.Run(c.ranks, func(w mpi.World) error {
			e := &Engine{job: job, world: w}
			if err := e.prepare(t.Context()); err != nil {
				return err
			}
			want := f.Ranks[w.Rank()]
			if got := e.model.Bytes(); got != want.Weights {
				t.Errorf("%+v, rank %d: %d bytes of weights, foreseen %d", c, w.Rank(), got, want.Weights)
			}
			if kv := e.model.CacheSpec(1, 1).Bytes(); kv != want.TokenKV {
				t.Errorf("%+v, rank %d: %d bytes of KV a token, foreseen %d", c, w.Rank(), kv, want.TokenKV)
			}
			return e.Close()
		})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestForecastOfManyRanks: thousands of ranks, of which few differ, are laid out one by one, without a world of them.
func TestForecastOfManyRanks(t *testing.T) {
	f, err := Foresee(t.Context(), newJob(t, nil), Hosts{Ranks: 4096, Nodes: 512, Memory: 80 << 30, GPU: true})
	if err != nil {
		t.Fatal(err)
	}
	looked := alike(f.Layout)
	slices.Sort(looked)
	if n := len(slices.Compact(looked)); n > 64 || len(f.Ranks) != 4096 || f.Ranks[4095] != f.Ranks[looked[0]] {
		t.Errorf("%d ranks of %d are looked at; the last is %+v", n, len(f.Ranks), f.Ranks[4095])
	}
}

// TestExpertsThatFitInSlicesOnly: where replicas of experts do not fit and slices do, the refusal says so.
func TestExpertsThatFitInSlicesOnly(t *testing.T) {
	job := newJob(t, func(j *config.Job) { j.MaxBatchTokens = 8 })
	h := Hosts{Ranks: 32, Memory: 1 << 30}
	needs := func(j *config.Job) int64 {
		f, err := Foresee(t.Context(), j, h)
		if err != nil {
			t.Fatal(err)
		}
		var most int64
		for _, r := range f.Ranks {
			most = max(most, r.Weights+r.Workspace+r.Exchange+int64(f.Window)*r.TokenKV)
		}
		return most
	}
	f, err := Foresee(t.Context(), job, h)
	if err != nil {
		t.Fatal(err)
	}
	sliced := Otherwise(job, f.Layout)
	whole, least := needs(job), needs(sliced)
	if least >= whole {
		t.Fatalf("slices need %d bytes, replicas %d", least, whole)
	}
	h.Memory = (whole + least) / 2
	if _, err := Foresee(t.Context(), job, h); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--es auto") {
		t.Errorf("replicas in memory for slices: %v", err)
	}
	if f, err = Foresee(t.Context(), sliced, h); err != nil {
		t.Fatal(err)
	}
	if back := Otherwise(sliced, f.Layout); back == nil || back.ES != 1 {
		t.Errorf("otherwise than slices: %+v", back)
	}
	h.Memory = least / 2
	if _, err := Foresee(t.Context(), job, h); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "--es auto") {
		t.Errorf("replicas where nothing fits: %v", err)
	}
}

// TestACrowdIsRefusedAtOnce: many ranks of one process that have no room are refused before each has opened the model.
func TestACrowdIsRefusedAtOnce(t *testing.T) {
	var opened atomic.Int64
	o := RunOptions{processor: func() (processor, error) { // asked for when a rank has opened its model
		opened.Add(1)
		return processor{cpu.Reference, []cpu.Level{cpu.Reference}}, nil
	}}
	job := newJob(t, func(j *config.Job) { j.Ranks, j.KVMemory, j.Device = crowd, 64<<10, "cpu" })
	_, err := runRanks(t, job.Ranks, job, o)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the KV cache gets 64 KiB") || opened.Load() > 0 {
		t.Errorf("%v, and %d ranks have opened the model", err, opened.Load())
	}
}

// TestForecastOfTheInput: the tokens of rows are counted as a run would make them, over all files and as far as --limit goes.
func TestForecastOfTheInput(t *testing.T) {
	golden := filepath.Join("..", "model", "testdata", "golden", "llama") // a window of 256
	many := make([]int, 1000)
	for i := range many {
		many[i] = 1 + i/500
	}
	for name, c := range map[string]struct {
		inputs []string
		change func(*config.Job)
		want   InputForecast
		reason string
	}{
		"all rows":    {[]string{layoutRows(t, 150, 9, 3), layoutRows(t, 150, 6)}, nil, InputForecast{plan.Load{Rows: 3, Prompt: 6, Output: 3}, 3, 0, ""}, ""},
		"samples":     {[]string{layoutRows(t, 150, 9, 3)}, func(j *config.Job) { j.N, j.Temperature = 4, 1 }, InputForecast{plan.Load{Rows: 8, Prompt: 6, Output: 3}, 2, 0, ""}, ""},
		"a limit":     {[]string{layoutRows(t, 150, 9, 3), layoutRows(t, 150, 6)}, func(j *config.Job) { j.Limit = 2 }, InputForecast{plan.Load{Rows: 2, Prompt: 6, Output: 3}, 2, 0, ""}, ""},
		"the window":  {[]string{layoutRows(t, 150, 252, 254)}, func(j *config.Job) { j.MaxNewTokens = 99 }, InputForecast{plan.Load{Rows: 2, Prompt: 253, Output: 3}, 2, 0, ""}, ""},
		"a bad row":   {[]string{layoutRows(t, 150, 257, 9)}, nil, InputForecast{plan.Load{Rows: 1, Prompt: 9, Output: 3}, 2, 1, ""}, "257 tokens"},
		"some of all": {[]string{layoutRows(t, 150, many...)}, nil, InputForecast{plan.Load{Rows: 1000, Prompt: 1.5, Output: 3}, samplePlaces * sampleRows, 0, ""}, ""},
		"scores": {[]string{layoutRows(t, 150, 9, 300)}, func(j *config.Job) {
			j.Task, j.Logprobs, j.Stride, j.IgnoreEOS = config.Score, 0, 128, false
		}, InputForecast{plan.Load{Rows: 3, Prompt: (9 + 257 + 172) / 3.0}, 2, 0, ""}, ""},
	} {
		j := layoutJob(t, golden, "")
		j.Input = c.inputs
		if c.change != nil {
			c.change(j)
		}
		f, err := Foresee(t.Context(), j, Hosts{Ranks: 2})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := f.Input
		if !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %q, want %q", name, got.Reason, c.reason)
		}
		if got.Reason = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if _, err := Foresee(t.Context(), newJob(t, func(j *config.Job) { j.Model = golden }), Hosts{Ranks: 1}); err == nil || !strings.Contains(err.Error(), "no tokenizer") {
		t.Errorf("a model without a tokenizer: %v", err)
	}
}
