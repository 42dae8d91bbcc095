package engine

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dsbatch/dsbatch/config"
	"github.com/dsbatch/dsbatch/io/results"
	"github.com/dsbatch/dsbatch/kernels"
	"github.com/dsbatch/dsbatch/kernels/cuda"
	"github.com/dsbatch/dsbatch/kernels/ringtest"
	"github.com/dsbatch/dsbatch/mpi"
	"github.com/dsbatch/dsbatch/stats"
)

// offloading runs a job on ranks of a CPU that says it is a GPU with rings and so much memory.
func offloading(t *testing.T, ranks int, j *config.Job, memory int64) (results.Summary, error) {
	t.Helper()
	return runRanks(t, ranks, j, RunOptions{wrap: func(d kernels.Device) kernels.Device {
		return &ringtest.Device{Device: d, Pretend: "cuda/none", Free: memory}
	}})
}

// TestSameBitsOffloaded is promise 1 for weights that wait in the host's memory: no bit depends on how many layers do, on one
// rank or on several that share experts, tensors or stages; and the statistics tell what was brought.
func TestSameBitsOffloaded(t *testing.T) {
	job := func(set func(*config.Job)) *config.Job {
		return newJob(t, func(j *config.Job) {
			j.Limit, j.MaxNewTokens, j.ChunkRows, j.MaxBatchTokens, j.KVMemory, j.Logprobs = 8, 4, 4, 64, 16<<20, 2
			set(j)
		})
	}
	all := func(j *config.Job) { j.Offload, j.OffloadLayers = "cpu", 99 }
	for name, c := range map[string]struct {
		ranks int
		set   func(*config.Job)
	}{
		"one rank": {1, func(*config.Job) {}},
		"int8":     {1, func(j *config.Job) { j.DType = config.INT8 }},
		"ep 2":     {2, func(j *config.Job) { j.EP = 2 }},
		"tp 2":     {2, func(j *config.Job) { j.TP = 2 }},
		"pp 2":     {2, func(j *config.Job) { j.PP = 2 }},
	} {
		want, err := offloading(t, c.ranks, job(c.set), 4<<30)
		if err != nil {
			t.Fatal(name, err)
		}
		for _, o := range []func(*config.Job){all, func(j *config.Job) { j.Offload, j.OffloadLayers, j.Inference.Offload.Buffers = "cpu", 1, 3 }} {
			j := job(func(j *config.Job) { c.set(j); o(j) })
			got, err := offloading(t, c.ranks, j, 4<<30)
			if err != nil {
				t.Fatal(name, err)
			}
			if !maps.Equal(got.Digests, want.Digests) {
				t.Errorf("%s, %d layers offloaded: digests %v, with all on the device %v", name, j.OffloadLayers, got.Digests, want.Digests)
			}
			report, err := stats.ReadReport(j.Output)
			if err != nil {
				t.Fatal(err)
			}
			waiting := report.Ranks[0].Waiting
			if steps := float64(report.Decode.Steps); waiting <= 0 || c.ranks == 1 && report.Decode.Brought != steps*float64(waiting) || report.Decode.Roofline.Bus <= 0 {
				t.Errorf("%s, %d layers offloaded: %v bytes were brought in %v steps, %d wait", name, j.OffloadLayers, report.Decode.Brought, steps, waiting)
			}
		}
	}
}

// TestOffloadedOnGPU is the same on a GPU, where there is one, with graphs and without.
func TestOffloadedOnGPU(t *testing.T) {
	if n, err := cuda.Count(); err != nil || n < 1 {
		t.Skipf("NO JOB WAS RUN WITH WEIGHTS OFF A GPU: %v", err)
	}
	for _, dtype := range []config.DType{config.BF16, config.INT8} {
		var want map[string]string
		for _, c := range []struct {
			layers, ranks int
			graphs        bool
		}{{0, 1, true}, {1, 1, true}, {99, 1, true}, {99, 1, false}, {99, 2, true}} {
			j := newJob(t, func(j *config.Job) {
				j.Device, j.DType, j.ChunkRows, j.Limit = "cuda", dtype, 4, 24
				j.MaxBatchTokens, j.KVMemory, j.Inference.CUDAGraph = 256, 64<<20, &c.graphs
				if c.layers > 0 {
					j.Offload, j.OffloadLayers = "cpu", c.layers
				}
			})
			got, err := runRanks(t, c.ranks, j, RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			digests := map[string]string{}
			for column, digest := range got.Digests {
				digests[column] = fmt.Sprint(digest)
			}
			if want == nil {
				want = digests
			}
			if !maps.Equal(digests, want) {
				t.Errorf("%v, %+v: digests %v, with all on the GPU %v", dtype, c, digests, want)
			}
		}
	}
}

// planOn plans a job on a GPU of so much memory, on a host of so much.
func planOn(t *testing.T, j *config.Job, gpu, host int64) (e *Engine, size stepSize, err error) {
	t.Helper()
	e = &Engine{
		world: mpi.Alone(), job: j, host: func() (free, total int64) { return host, host },
		wrap: func(d kernels.Device) kernels.Device {
			return &ringtest.Device{Device: d, Pretend: "cuda/none", Free: gpu}
		},
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err = e.prepare(t.Context()); err == nil {
		size, err = e.plan()
	}
	return e, size, err
}

// TestOffloadPlan: a model that fits beside enough KV stays on the GPU; one that does not, or leaves no room for a row, waits
// in part, and what that frees goes to KV; with a cache of a given size as little waits as can.
func TestOffloadPlan(t *testing.T) {
	job := func(set func(*config.Job)) *config.Job {
		return newJob(t, func(j *config.Job) {
			j.Offload, j.MaxBatchTokens, j.MaxSeqs = "cpu", 32, 32
			set(j)
		})
	}
	resident := func(j *config.Job) { j.Offload = "none" }
	wide, _, err := planOn(t, job(func(*config.Job) {}), 64<<30, 64<<30)
	if err != nil || wide.offloaded != 0 {
		t.Fatalf("64 GiB: %d layers wait, %v", wide.offloaded, err)
	}
	weights, tight := wide.model.Bytes(), int64(0)
	for free := int64(1 << 20); free < 1<<30; free += free / 5 { // the first size that has room only so
		_, _, without := planOn(t, job(resident), free, 64<<30)
		if without == nil {
			break
		}
		e, size, err := planOn(t, job(func(*config.Job) {}), free, 64<<30)
		if says := strings.Contains(without.Error(), "it fits: --offload cpu"); says != (err == nil) {
			t.Errorf("%d bytes free: offloaded %v, and without: %v", free, err, without)
		}
		if err != nil {
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "wait in the host's memory") {
				t.Errorf("%d bytes free: %v", free, err)
			}
			continue
		}
		device, host := e.model.Offloaded(e.offloaded, 0)
		if kv := e.model.CacheSpec(size.blocks, blockTokens).Bytes(); e.offloaded == 0 || host == 0 || device+kv > free || device >= weights || size.blocks < blocksFor(e.window) {
			t.Errorf("%d bytes free: %d layers wait, %d bytes; %d are on the GPU beside %d of KV", free, e.offloaded, host, device, kv)
		}
		tight = free
	}
	if tight == 0 {
		t.Fatal("offloading has made no room that was not there")
	}
	most, _, err := planOn(t, job(func(j *config.Job) { j.OffloadLayers = 99 }), 64<<30, 64<<30)
	if err != nil || most.offloaded != most.layersHere() {
		t.Errorf("99 layers: %d of %d wait, %v", most.offloaded, most.layersHere(), err)
	}
	some, _, err := planOn(t, job(func(j *config.Job) { j.OffloadLayers = 1 }), 64<<30, 64<<30)
	if err != nil || some.offloaded != 1 {
		t.Errorf("1 layer: %d wait, %v", some.offloaded, err)
	}
}

// TestOffloadRefused: what the hosts cannot hold, all ranks of one together, is refused before a weight is read, with the
// arithmetic; and memory that would have to be pinned, and must not be.
func TestOffloadRefused(t *testing.T) {
	all := func(j *config.Job) { j.Offload, j.OffloadLayers = "cpu", 99 }
	for say, c := range map[string]struct {
		host int64
		set  func(*config.Job)
	}{
		"zero.offload_param.pin_memory false":             {64 << 30, func(j *config.Job) { all(j); no := false; j.Inference.Offload.Pinned = &no }},
		"counts as stuck; give --rank-timeout 1s or more": {64 << 30, func(j *config.Job) { all(j); j.RankTimeout = 100 * time.Microsecond }},
		"(14.2 MiB of this rank, 6 of its 6 layers; ranks there: 1), with 512 MiB a rank besides, and 512 MiB of its 512 MiB are free": {512 << 20, all},
	} {
		if _, _, err := planOn(t, newJob(t, c.set), 64<<30, c.host); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", say, err)
		}
	}
	if _, _, err := planOn(t, newJob(t, all), 64<<30, 600<<20); err != nil {
		t.Errorf("one rank on a host with 600 MiB: %v", err)
	}
	err := mpi.Run(2, func(w mpi.World) error {
		e := &Engine{world: w, job: newJob(t, all), host: func() (free, total int64) { return 600 << 20, 1 << 30 },
			wrap: func(d kernels.Device) kernels.Device {
				return &ringtest.Device{Device: d, Pretend: "cuda/none", Free: 64 << 30}
			}}
		if err := e.prepare(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "ranks there: 2") {
			t.Errorf("two ranks on a host with 600 MiB: %v", err)
		}
		return e.Close()
	})
	if err != nil {
		t.Error(err)
	}
}
