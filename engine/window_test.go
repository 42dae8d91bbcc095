package engine

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/kernels/windowtest"
)

// TestWindowsOnGPUs is promise 1 for experts spread over GPUs whose kernels send the rows: two ranks, with a GPU each,
// give the bits of one alone, with graphs and without.
func TestWindowsOnGPUs(t *testing.T) {
	if n, err := cuda.Count(); err != nil || n < 2 {
		t.Skipf("NO JOB WAS RUN THROUGH WINDOWS OF GPUs: %d of them, %v", n, err)
	}
	job := func(ranks int, graphs bool) *config.Job {
		return newJob(t, func(j *config.Job) {
			j.Device, j.DType, j.EP, j.ChunkRows, j.Limit = "cuda", config.BF16, ranks, 4, 24
			j.MaxBatchTokens, j.KVMemory, j.Inference.CUDAGraph = 256, 64<<20, &graphs
		})
	}
	want, err := runRanks(t, 1, job(1, true), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, graphs := range []bool{false, true} {
		var through atomic.Int32
		got, err := runRanks(t, 2, job(2, graphs), RunOptions{connected: func(e *Engine) { through.Add(int32(len(e.windows))) }})
		if err != nil {
			t.Fatal(err)
		}
		if through.Load() == 0 {
			t.Error("nothing went through windows")
		}
		if !maps.Equal(got.Digests, want.Digests) {
			t.Errorf("graphs %t: digests %v, alone %v", graphs, got.Digests, want.Digests)
		}
	}
}

// windowedRun runs a job on ranks of a CPU that says it is a GPU with windows.
func windowedRun(t *testing.T, ranks int, j *config.Job, memory int64) (results.Summary, int) {
	t.Helper()
	house := windowtest.NewHouse()
	var named atomic.Int32
	var first *Engine
	windows := 0
	s, err := runRanks(t, ranks, j, RunOptions{
		wrap: func(d kernels.Device) kernels.Device {
			return small{house.NewDevice(d, fmt.Sprint("GPU ", named.Add(1)), "cuda/none"), memory}
		},
		connected: func(e *Engine) {
			if e.world.Rank() == 0 {
				first = e
			}
		},
		Progress: func(Progress) { windows = max(windows, len(first.windows)) }, // rank 0 tells
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, windows
}

// small is a device of so much memory.
type small struct {
	*windowtest.Device
	memory int64
}

func (s small) Memory() (free, total int64) { return s.memory, s.memory }

// TestSameBitsThroughWindows: jobs whose rows go through windows, of layers of one number of experts and of several, with ranks
// without rows and stages, give the bits of one rank, and count the same rows of experts.
func TestSameBitsThroughWindows(t *testing.T) {
	job := func(set func(*config.Job)) *config.Job {
		return newJob(t, func(j *config.Job) {
			j.ChunkRows, j.MaxBatchTokens, j.KVMemory, j.Logprobs = 4, 64, 16<<20, 2
			set(j)
		})
	}
	want, _ := windowedRun(t, 1, job(func(*config.Job) {}), 4<<30)
	for name, c := range map[string]struct {
		ranks int
		set   func(*config.Job)
	}{
		"2 ranks":           {2, func(*config.Job) {}},
		"4 ranks, ep 2":     {4, func(j *config.Job) { j.EP = 2 }},
		"4 ranks, pp 2":     {4, func(j *config.Job) { j.PP = 2 }},
		"one row at a time": {2, func(j *config.Job) { j.MaxSeqs = 1 }},
		"whole prompts":     {2, func(j *config.Job) { j.MaxBatchTokens = 1024 }},
	} {
		got, windows := windowedRun(t, c.ranks, job(c.set), 4<<30)
		if windows == 0 {
			t.Errorf("%s: nothing went through windows", name)
		}
		if !maps.Equal(got.Digests, want.Digests) {
			t.Errorf("%s: digests %v, alone %v", name, got.Digests, want.Digests)
		}
	}
}

// TestTPPeersThroughWindows: each of them sends its share of the tokens.
func TestTPPeersThroughWindows(t *testing.T) {
	job := func() *config.Job {
		return newJob(t, func(j *config.Job) { j.TP, j.EP, j.ChunkRows, j.MaxBatchTokens, j.KVMemory = 2, 2, 4, 64, 16<<20 })
	}
	want, err := runRanks(t, 4, job(), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, windows := windowedRun(t, 4, job(), 4<<30)
	if windows == 0 {
		t.Error("nothing went through windows")
	}
	if !maps.Equal(got.Digests, want.Digests) {
		t.Errorf("digests %v, through hosts %v", got.Digests, want.Digests)
	}
}

// TestWindowsThatDoNotFit: where memory suffices for the job but not for windows too, the hosts take part, and no bit changes.
func TestWindowsThatDoNotFit(t *testing.T) {
	const ranks = 8
	job := func() *config.Job {
		return newJob(t, func(j *config.Job) { j.ChunkRows, j.MaxBatchTokens, j.KVMemory, j.MaxNewTokens = 2, 2048, 16<<20, 2 })
	}
	f, err := Foresee(t.Context(), job(), Hosts{Ranks: ranks, Memory: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	var least int64
	for _, r := range f.Ranks {
		least = max(least, r.Weights+r.Workspace+r.Exchange+r.KV)
	}
	wide, windows := windowedRun(t, ranks, job(), ranks*4*least)
	if windows == 0 {
		t.Error("with enough memory nothing went through windows")
	}
	least += 24 << 20 // more logits at a time than on a CPU; windows need 36 MiB more than what they replace
	narrow, windows := windowedRun(t, ranks, job(), ranks*least)
	if windows != 0 {
		t.Errorf("with %d bytes for a rank rows still went through windows", least)
	}
	if !maps.Equal(wide.Digests, narrow.Digests) {
		t.Errorf("digests %v through windows, %v without", wide.Digests, narrow.Digests)
	}
}

// TestSameBitsOverBoards: jobs whose slices GPUs put together by themselves, with rows of experts through windows, give the bits of
// hosts that do it, and no host waits inside a step then, so that a GPU has it as one graph.
func TestSameBitsOverBoards(t *testing.T) {
	for name, c := range map[string]struct {
		ranks   int
		windows bool
		set     func(*config.Job)
	}{
		"tp 2":                       {2, true, func(j *config.Job) { j.TP = 2 }},
		"tp 2, one row at a time":    {2, true, func(j *config.Job) { j.TP, j.MaxSeqs = 2, 1 }},
		"tp 4, ep 2":                 {4, true, func(j *config.Job) { j.TP, j.EP = 4, 2 }},
		"tp 2, pp 2":                 {4, true, func(j *config.Job) { j.TP, j.PP = 2, 2 }},
		"tp 2, dp 2, any tp":         {4, true, func(j *config.Job) { j.TP, j.TPInvariant = 2, true }},
		"es 2":                       {2, false, func(j *config.Job) { j.EP, j.ES = 1, 2 }},
		"tp 2, asked for together":   {2, false, func(j *config.Job) { j.TP, j.AllToAll = 2, "coordinated" }},
		"tp 2, dropped by all rows":  {2, false, func(j *config.Job) { j.TP, j.DropTokens, j.CapacityFactor = 2, true, 4 }},
		"tp 2, asked for each alone": {2, true, func(j *config.Job) { j.TP, j.AllToAll = 2, "flat" }},
	} {
		t.Run(name, func(t *testing.T) {
			job := func() *config.Job {
				return newJob(t, func(j *config.Job) {
					j.ChunkRows, j.MaxBatchTokens, j.KVMemory, j.Logprobs, j.Limit = 4, 64, 16<<20, 2, 8
					c.set(j)
				})
			}
			want, err := runRanks(t, c.ranks, job(), RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			house := windowtest.NewHouse()
			var named, windows atomic.Int32
			got, err := runRanks(t, c.ranks, job(), RunOptions{
				wrap: func(d kernels.Device) kernels.Device {
					return small{house.NewDevice(d, fmt.Sprint("GPU ", named.Add(1)), "cuda/none"), 4 << 30}
				},
				connected: func(e *Engine) { windows.Add(int32(len(e.windows))) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if waits, start := house.Waits(), 16*c.ranks; c.windows && waits > start {
				t.Errorf("hosts waited %d times inside of steps, and not only for the start", waits-start)
			}
			if did := house.Ops(); did < 100 || c.windows != (windows.Load() > 0) {
				t.Errorf("%d ops over boards, %d windows", did, windows.Load())
			}
			if !maps.Equal(got.Digests, want.Digests) {
				t.Errorf("digests %v, through hosts %v", got.Digests, want.Digests)
			}
		})
	}
}
